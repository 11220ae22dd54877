"""Settings of the comparison between a new release and the served one."""

from typing import Literal

from pydantic import Field

from genrec_core.settings.base import Settings


class ReleaseSettings(Settings):
    """When a new release takes the place of the served one."""

    rule: Literal["always", "not_worse", "better"] = Field(
        "not_worse",
        description="Rule that a new release must meet to be served. `always`: no comparison. `not_worse`: its loss on "
        "the validation items, to the served release and to the best earlier one, is at most `margin`. `better`: as "
        "`not_worse`, and its gain over the served release is larger than noise.",
    )
    margin: float = Field(
        0.05,
        ge=0,
        le=1,
        description="Largest loss of Recall@10 or NDCG@10 that counts as not worse, as a share of the older release's "
        "figure. The whole 95 % interval of the loss must lie within the margin.",
    )
    accept_undecided: bool = Field(
        False,
        description="Serve a new release even if the interval is too wide to tell whether its loss is within `margin`.",
    )
    users: int = Field(
        20_000, ge=2, description="Most validation users in the comparison of releases; drawn at random from more."
    )
    top_k: int = Field(
        10,
        ge=10,
        le=1000,
        description="Length of the lists in the comparison of releases; largest K of Recall and NDCG.",
    )
    beams: int = Field(50, ge=10, description="Beams of both models in the comparison of releases.")
    samples: int = Field(
        1000, ge=100, le=100_000, description="Bootstrap samples of users for the intervals of the comparison."
    )
    seed: int = Field(42, ge=0, description="Random seed of the comparison's users and bootstrap samples.")
