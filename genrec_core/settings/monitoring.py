"""Settings of the monitoring checks, and the greatest ages of assets."""

from typing import Literal

from pydantic import Field

from genrec_core.settings.base import Settings, settings_from_environment

_FRESHNESS = {
    "raw_hours": "GENREC_FRESH_RAW_HOURS",
    "release_hours": "GENREC_FRESH_RELEASE_HOURS",
    "predictions_hours": "GENREC_FRESH_PREDICTIONS_HOURS",
}


class MonitoringSettings(Settings):
    """When a check warns of data that moved away from the served release, or of predictions that look wrong."""

    severity: Literal["warn", "error"] = Field("warn", description="Of such a check; it stops nothing either way.")
    max_new_items: float = Field(
        0.05, ge=0, le=1, description="Largest share of the catalogue that the served release does not know."
    )
    max_gone_items: float = Field(
        0.05, ge=0, le=1, description="Largest share of the release's items that the catalogue no longer holds."
    )
    max_unknown_items: float = Field(
        0.02, ge=0, le=1, description="Largest share of history entries whose item the release does not know."
    )
    max_length_shift: float = Field(
        0.25, ge=0, description="Largest population stability index of the lengths of histories."
    )
    max_popularity_shift: float = Field(
        0.3, ge=0, le=1, description="Largest Jensen-Shannon distance of the items' shares of interactions."
    )
    min_coverage: float = Field(
        0.05, ge=0, le=1, description="Least share of the items that the lists have places for that they show."
    )
    max_gini: float = Field(
        0.95, ge=0, le=1, description="Largest Gini coefficient of exposure, where lists have places for every item."
    )
    max_popular_answers: float = Field(
        0.1, ge=0, le=1, description="Largest share of users without a known item, who get the popular ones."
    )
    max_short_answers: float = Field(0.01, ge=0, le=1, description="Largest share of users with fewer than K items.")
    max_rejected_lines: float = Field(0.01, ge=0, le=1, description="Largest share of lines that are no request.")


class FreshnessSettings(Settings):
    """How old the newest version of an asset may become; half of it is a warning."""

    raw_hours: float = Field(24.0 * 7, ge=0.1, description="Raw data, since they last changed or were received.")
    release_hours: float = Field(24.0 * 30, ge=0.1, description="The served release, since the pointer last moved.")
    predictions_hours: float = Field(24.0 * 7, ge=0.1, description="Predictions for all users.")


def freshness_from_environment() -> FreshnessSettings:
    """How old assets may become: ``GENREC_FRESH_RAW_HOURS`` and so on.

    Raises:
        GenrecError: a variable's value cannot be one.
    """
    return settings_from_environment(FreshnessSettings, _FRESHNESS)
