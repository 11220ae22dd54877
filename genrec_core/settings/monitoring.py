"""Settings of the monitoring checks."""

from typing import Literal

from pydantic import Field

from genrec_core.settings.base import Settings, Share


class MonitoringSettings(Settings):
    """Bounds of the checks that warn of drifting data or of odd predictions."""

    severity: Literal["warn", "error"] = Field("warn", description="Severity of these checks; they block no run.")
    max_new_items: Share = Field(0.05, description="Largest share of the catalogue that is new to the served release.")
    max_gone_items: Share = Field(0.05, description="Largest share of the release's items that left the catalogue.")
    max_unknown_items: Share = Field(0.02, description="Largest share of history entries that are new to the release.")
    max_length_shift: float = Field(0.25, ge=0, description="Largest population stability index of history lengths.")
    max_popularity_shift: Share = Field(0.3, description="Largest Jensen-Shannon distance of the items' popularity.")
    min_coverage: Share = Field(
        0.05, description="Least coverage: different items in all lists, as a share of the possible ones."
    )
    max_gini: Share = Field(
        0.95, description="Largest Gini coefficient of how often items appear, where the lists have room for all."
    )
    max_popular_answers: Share = Field(
        0.1, description="Largest share of users with no known item, who get popular ones."
    )
    max_short_answers: Share = Field(0.01, description="Largest share of users whose list is shorter than wanted.")
    max_rejected_lines: Share = Field(0.01, description="Largest share of a request file's lines that are rejected.")
