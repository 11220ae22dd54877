"""Settings of the comparison between a new release and the served one."""

from typing import Literal

from pydantic import Field

from genrec_core.settings.base import Settings


class ReleaseSettings(Settings):
    """When a new release takes the place of the one that is served."""

    rule: Literal["always", "not_worse", "better"] = Field(
        "not_worse",
        description="How a release must compare, on validation items, with the served one and the best one served "
        "before: `always` compares nothing, `not_worse` allows a loss of `margin`, `better` also wants a gain over the "
        "served one beyond noise.",
    )
    margin: float = Field(
        0.05,
        ge=0,
        le=1,
        description="Largest loss of Recall@10 or NDCG@10 that counts as not worse, as a share of the other release's "
        "figure. The whole 95 % interval must lie within it.",
    )
    accept_undecided: bool = Field(
        False,
        description="Serve a release also where the interval is too wide to tell whether its loss is within `margin`.",
    )
    users: int = Field(20_000, ge=2, description="Validation users of the comparison; drawn where there are more.")
    top_k: int = Field(10, ge=10, le=1000, description="Items a user that are compared; Recall and NDCG up to there.")
    beams: int = Field(50, ge=10, description="Beams of both models.")
    samples: int = Field(1000, ge=100, le=100_000, description="Resamples of users for the intervals.")
    seed: int = Field(42, ge=0, description="Seed of the draw and of the resamples.")
