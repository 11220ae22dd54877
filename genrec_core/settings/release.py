"""Settings of a release: its metrics, its export and its comparison with the served one."""

from typing import ClassVar, Literal

from pydantic import Field

from genrec_core.settings.base import Settings, Share


class EvaluationSettings(Settings):
    """How the test items are ranked."""

    main: ClassVar[tuple[str, ...]] = ("users", "beams", "baseline", "workers", "seed")

    beams: int = Field(
        1000, ge=10, description="Number of beams of the search on the test items. It is the largest K of Recall@K."
    )
    batch_users: int = Field(4, ge=1, le=4096, description="Number of test users who are ranked in one batch.")
    users: int | None = Field(
        None,
        ge=1,
        description="Number of random test users to rank. Unset: all, or 5,000 if the catalogue has more than 100,000 "
        "items.",
    )
    workers: int | None = Field(
        None,
        ge=1,
        description="Number of batches of test users that are ranked at the same time. Unset: one for each core.",
    )
    exact_users: int = Field(
        16,
        ge=0,
        description="Number of random test users whose search results are compared with exact scores. 0: none.",
    )
    baseline: str | None = Field(
        None,
        description="Baseline to measure beside the model: the `best` folder of `genrec train --model sasrec` or "
        "`bsarec`. Unset: none.",
    )
    bootstrap_samples: int = Field(
        1000, ge=10, le=100_000, description="Number of bootstrap samples for the intervals of the test metrics."
    )
    seed: int = Field(
        42,
        ge=0,
        description="Random seed of the evaluation. It decides the bootstrap samples and the drawn test users.",
    )


class GateSettings(Settings):
    """Metrics that a model must reach before it is exported or served."""

    main: ClassVar[tuple[str, ...]] = ("recall_at_10", "over_popularity", "max_miss_share")

    recall_at_10: Share = Field(0.020, description="Smallest allowed Recall@10 on the test items.")
    recall_at_100: Share = Field(0.035, description="Smallest allowed Recall@100 on the test items.")
    recall_at_1000: Share = Field(0.050, description="Smallest allowed Recall@1000 on the test items.")
    over_popularity: float = Field(
        1.2,
        ge=0,
        le=1000,
        description="Smallest allowed Recall@10 of the ranking that serves, as a multiple of the Recall@10 of the most "
        "popular items.",
    )
    max_miss_share: Share = Field(
        0.01,
        description="Upper bound of the miss share: the share of test users whose best code, generated without the "
        "trie, belongs to no item.",
    )


class ExportSettings(Settings):
    """The form in which the model serves."""

    main: ClassVar[tuple[str, ...]] = ("int8", "largest_loss")

    int8: bool = Field(
        False,
        description="Round weights to int8. The model gets smaller and faster, and its lists stay much the same. The "
        "export fails if recall falls by more than `largest_loss`.",
    )
    largest_loss: Share = Field(0.01, description="Largest share of a validation Recall@10 that int8 weights may cost.")
    users: int = Field(
        4000, ge=1, description="Number of validation users on whom int8 weights are compared with float32."
    )
    example_histories: int = Field(
        100,
        ge=0,
        le=100_000,
        description="Number of users whose newest 20 training items the model stores as examples, without user ids. "
        "0: none.",
    )
    recent_days: int = Field(
        30,
        ge=1,
        le=36_500,
        description="Number of days before the newest time of the training part that count as recent.",
    )


class ReleaseSettings(Settings):
    """When a new release takes the place of the served one."""

    main: ClassVar[tuple[str, ...]] = ("rule", "margin", "accept_undecided", "refit", "users")

    rule: Literal["always", "not_worse", "better"] = Field(
        "not_worse",
        description="Rule that a new release must meet to be served. `always`: no comparison. `not_worse`: on the "
        "validation items, it loses at most `margin` to the served release and to the best earlier one. `better`: as "
        "`not_worse`, and its gain over the served release is larger than noise.",
    )
    margin: Share = Field(
        0.05,
        description="Largest loss of Recall@10 or NDCG@10 that counts as not worse, as a share of the older release's "
        "figure. The whole 95 % interval of the loss must lie within the margin.",
    )
    accept_undecided: bool = Field(
        False, description="Serve a new release even if the interval is too wide to tell whether it is not worse."
    )
    refit: bool = Field(
        False,
        description="After the gates of `recall_metrics`, train the model again on all interactions, held-out ones "
        "too, and serve that model. Metrics and comparisons stay those of the measured model.",
    )
    users: int = Field(
        20_000, ge=2, description="Largest number of random validation users in the comparison of releases."
    )
    top_k: int = Field(10, ge=10, le=1000, description="Length of the lists in the comparison of releases.")
    beams: int = Field(50, ge=10, description="Number of beams of both models in the comparison of releases.")
    samples: int = Field(
        1000,
        ge=100,
        le=100_000,
        description="Number of bootstrap samples for the intervals of the comparison of releases.",
    )
    seed: int = Field(
        42,
        ge=0,
        description="Random seed of the comparison of releases. It decides the users and the bootstrap samples.",
    )
