"""Settings of a release: its metrics, its export and its comparison with the served one."""

from typing import Literal

from pydantic import Field

from genrec_core.settings.base import Settings, Share


class EvaluationSettings(Settings):
    """How the test items are ranked."""

    beams: int = Field(1000, ge=10, description="Beams of the test's search: the largest K of Recall@K.")
    batch_users: int = Field(16, ge=1, le=4096, description="Test users ranked in one batch.")
    users: int | None = Field(
        None, ge=1, description="Random test users to rank; unset: all, or 5,000 of a catalogue of over 100,000 items."
    )
    workers: int | None = Field(None, ge=1, description="Batches of test users ranked at once; unset: one a core.")
    exact_users: int = Field(
        16, ge=0, description="Random test users whose search is checked by exact scores; 0: none."
    )
    baseline: str | None = Field(
        None, description="`best` folder of `genrec train --model sasrec` or `bsarec`, to measure; unset: none."
    )
    bootstrap_samples: int = Field(1000, ge=10, le=100_000, description="Bootstrap samples for a test interval.")
    seed: int = Field(42, ge=0, description="Random seed of the bootstrap and of the drawn test users.")


class GateSettings(Settings):
    """Metrics that a model must reach before it is exported or served."""

    recall_at_10: Share = Field(0.020, description="Least Recall@10 on the test items.")
    recall_at_100: Share = Field(0.035, description="Least Recall@100 on the test items.")
    recall_at_1000: Share = Field(0.050, description="Least Recall@1000 on the test items.")
    over_popularity: float = Field(
        1.2,
        ge=0,
        le=1000,
        description="Least Recall@10 of the served ranking, as a multiple of that of the most popular items.",
    )
    max_miss_share: Share = Field(
        0.01, description="The share of test users whose best code, found without the trie, is no item's stays below."
    )


class ExportSettings(Settings):
    """The form in which the model serves."""

    int8: bool = Field(
        False, description="Round weights to int8: smaller, faster, much the same lists. Fails if recall falls too far."
    )
    largest_loss: Share = Field(0.01, description="Largest share of a validation Recall@10 that int8 may cost.")
    users: int = Field(4000, ge=1, description="Validation users on whom int8 weights are compared with float32.")


class ReleaseSettings(Settings):
    """When a new release takes the place of the served one."""

    rule: Literal["always", "not_worse", "better"] = Field(
        "not_worse",
        description="Rule that a new release must meet to be served. `always`: no comparison. `not_worse`: its loss on "
        "the validation items, to the served release and to the best earlier one, is at most `margin`. `better`: as "
        "`not_worse`, and its gain over the served release is larger than noise.",
    )
    margin: Share = Field(
        0.05,
        description="Largest loss of Recall@10 or NDCG@10 that counts as not worse, as a share of the older figure. "
        "The whole 95 % interval of the loss must lie within the margin.",
    )
    accept_undecided: bool = Field(
        False, description="Serve a new release even if the interval is too wide to tell whether it is not worse."
    )
    refit: bool = Field(
        False,
        description="After the gates of `recall_metrics`, train the model again on all interactions, also the held-out "
        "ones, and serve that one. Metrics and comparisons stay those of the measured model.",
    )
    users: int = Field(20_000, ge=2, description="Most validation users in the comparison of releases; random.")
    top_k: int = Field(10, ge=10, le=1000, description="Length of the lists in the comparison of releases.")
    beams: int = Field(50, ge=10, description="Beams of both models in the comparison of releases.")
    samples: int = Field(1000, ge=100, le=100_000, description="Bootstrap samples for the intervals of the comparison.")
    seed: int = Field(42, ge=0, description="Random seed of the comparison's users and bootstrap samples.")
