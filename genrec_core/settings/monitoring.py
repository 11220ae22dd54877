"""Settings of the monitoring checks, and the greatest age of assets."""

from typing import Literal

from pydantic import Field

from genrec_core.settings.base import Settings, settings_from_environment


class MonitoringSettings(Settings):
    """Bounds of the checks that warn of drifting data or of odd predictions."""

    severity: Literal["warn", "error"] = Field(
        "warn", description="Severity of a failed monitoring check in Dagster. A monitoring check never blocks the run."
    )
    max_new_items: float = Field(
        0.05, ge=0, le=1, description="Largest share of the catalogue's items that the served release does not know."
    )
    max_gone_items: float = Field(
        0.05, ge=0, le=1, description="Largest share of the served release's items that are not in the catalogue."
    )
    max_unknown_items: float = Field(
        0.02, ge=0, le=1, description="Largest share of history entries whose item the served release does not know."
    )
    max_length_shift: float = Field(
        0.25, ge=0, description="Largest population stability index between old and new lengths of histories."
    )
    max_popularity_shift: float = Field(
        0.3, ge=0, le=1, description="Largest Jensen-Shannon distance between old and new popularity of items."
    )
    min_coverage: float = Field(
        0.05,
        ge=0,
        le=1,
        description="Least coverage: different items in all lists, divided by the most that could appear there.",
    )
    max_gini: float = Field(
        0.95,
        ge=0,
        le=1,
        description="Largest Gini coefficient of how often items are recommended; checked only if the lists have room "
        "for every item.",
    )
    max_popular_answers: float = Field(
        0.1, ge=0, le=1, description="Largest share of users who get popular items because no item of theirs is known."
    )
    max_short_answers: float = Field(
        0.01, ge=0, le=1, description="Largest share of users whose list is shorter than wanted."
    )
    max_rejected_lines: float = Field(
        0.01, ge=0, le=1, description="Largest share of a request file's lines that are rejected."
    )


class FreshnessSettings(Settings):
    """Greatest age of an asset's newest version, in hours; Dagster warns at half of it."""

    raw_hours: float = Field(
        24.0 * 7, ge=0.1, description="Hours after which the raw data is stale, since it changed or was received."
    )
    release_hours: float = Field(
        24.0 * 30, ge=0.1, description="Hours after which the served release is stale, since it was last chosen."
    )
    predictions_hours: float = Field(
        24.0 * 7, ge=0.1, description="Hours after which the predictions for all users are stale."
    )


def freshness_from_environment() -> FreshnessSettings:
    """Read ``GENREC_FRESH_RAW_HOURS`` and so on."""
    variables = {name: f"GENREC_FRESH_{name.upper()}" for name in FreshnessSettings.model_fields}
    return settings_from_environment(FreshnessSettings, variables)
