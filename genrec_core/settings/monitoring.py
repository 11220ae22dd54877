"""Settings of the monitoring checks."""

from typing import ClassVar, Literal

from pydantic import Field

from genrec_core.settings.base import Settings, Share


class MonitoringSettings(Settings):
    """Bounds of the checks that warn of drifting data or of odd predictions."""

    main: ClassVar[tuple[str, ...]] = (
        "severity",
        "max_new_items",
        "max_unknown_items",
        "max_popularity_shift",
        "min_coverage",
    )

    severity: Literal["warn", "error"] = Field(
        "warn",
        description="Severity that Dagster shows if a monitoring check fails. A monitoring check never blocks a run.",
    )
    max_new_items: Share = Field(
        0.05, description="Largest allowed share of the catalogue that is new since the served release."
    )
    max_gone_items: Share = Field(
        0.05, description="Largest allowed share of the served release's items that left the catalogue."
    )
    max_unknown_items: Share = Field(
        0.02, description="Largest allowed share of history entries whose item the served release does not know."
    )
    max_length_shift: float = Field(
        0.25,
        ge=0,
        description="Largest allowed change of the lengths of histories since the served release, as a population "
        "stability index.",
    )
    max_popularity_shift: Share = Field(
        0.3,
        description="Largest allowed change of the items' popularity since the served release, as a Jensen-Shannon "
        "distance.",
    )
    min_coverage: Share = Field(
        0.05,
        description="Smallest allowed coverage of a prediction file: different items in all lists, as a share of the "
        "possible ones.",
    )
    max_gini: Share = Field(
        0.95,
        description="Largest allowed Gini coefficient of how often items are recommended. Checked only if the lists "
        "have room for all items.",
    )
    max_popular_answers: Share = Field(
        0.1,
        description="Largest allowed share of users who get popular items, because none of their own items is known.",
    )
    max_short_answers: Share = Field(
        0.01, description="Largest allowed share of users whose list is shorter than `top_k`."
    )
    max_rejected_lines: Share = Field(
        0.01, description="Largest allowed share of a request file's lines that are rejected."
    )
