"""Settings of prediction files."""

from typing import Literal

from pydantic import Field

from genrec_core.settings.base import Settings

RankingMode = Literal["generative", "hybrid", "dense"]


class PredictionSettings(Settings):
    """What a prediction file holds."""

    top_k: int = Field(128, ge=1, le=100_000, description="Items a user.")
    beams: int | None = Field(None, ge=1, description="Beams; unset: as many as top_k and the history need.")
    batch_users: int = Field(64, ge=1, le=4096, description="Users decoded together.")
    ranking: RankingMode = Field(
        "hybrid", description="Order items by their codes' probability, by the dense head, or by a mix of both."
    )
    exclude_seen: bool = Field(True, description="Never recommend an item of the user's own history.")
    rule: str | None = Field(
        None, description="What every recommended item must meet, e.g. `brand = OPI`; unset: none."
    )
    workers: int | None = Field(None, ge=1, le=1024, description="Batches decoded side by side; unset: one a core.")
