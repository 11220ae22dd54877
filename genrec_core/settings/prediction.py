"""Settings of prediction files."""

from typing import Literal

from pydantic import Field

from genrec_core.settings.base import Settings

RankingMode = Literal["generative", "hybrid", "dense"]


class PredictionSettings(Settings):
    """What a prediction file holds."""

    top_k: int = Field(128, ge=1, le=100_000, description="Items recommended to each user.")
    beams: int | None = Field(
        None, ge=1, description="Beams of the search; unset: as many as `top_k` and the user's history need."
    )
    batch_users: int = Field(64, ge=1, le=4096, description="Users searched for in one batch.")
    ranking: RankingMode = Field(
        "hybrid",
        description="Score that orders the items: `generative`, the probability of an item's code; `dense`, the dense "
        "head's score; `hybrid`, a mix of both.",
    )
    exclude_seen: bool = Field(True, description="Do not recommend items of the user's own history.")
    rule: str | None = Field(
        None, description="Rule that every recommended item must meet, for example `brand = OPI`; unset: none."
    )
    workers: int | None = Field(
        None, ge=1, le=1024, description="Batches of users searched at once; unset: one a core."
    )
