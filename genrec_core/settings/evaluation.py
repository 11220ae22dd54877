"""Settings of the evaluation, and the least metrics that a model must reach."""

from pydantic import Field

from genrec_core.settings.base import Settings


class EvaluationSettings(Settings):
    """How the test items are ranked."""

    beams: int = Field(
        1000, ge=1, description="Beams of the test's search. Recall@K is reported for K up to this number."
    )
    batch_users: int = Field(16, ge=1, le=4096, description="Test users ranked in one batch.")
    users: int | None = Field(None, ge=1, description="Random test users to rank; unset: all.")
    workers: int | None = Field(None, ge=1, description="Batches of test users ranked at once; unset: one a core.")
    exact_users: int = Field(
        16,
        ge=0,
        description="Random test users whose beam search is compared with exact scores of all items; 0: none.",
    )
    baseline: str | None = Field(
        None,
        description="Folder of a SASRec from `genrec train --model sasrec`, measured on the same users; unset: none.",
    )
    bootstrap_samples: int = Field(
        1000, ge=10, le=100_000, description="Bootstrap samples of users for each confidence interval of the test."
    )
    seed: int = Field(42, ge=0, description="Random seed of the bootstrap and of the drawn test users.")


class GateSettings(Settings):
    """Metrics that a model must reach before it is exported or served."""

    recall_at_10: float = Field(0.020, ge=0, le=1, description="Least Recall@10 on the test items.")
    recall_at_100: float = Field(0.035, ge=0, le=1, description="Least Recall@100 on the test items.")
    recall_at_1000: float = Field(0.050, ge=0, le=1, description="Least Recall@1000 on the test items.")
    max_miss_share: float = Field(
        0.01,
        ge=0,
        le=1,
        description="Share of test users whose best code, found without the trie, belongs to no item. The test must "
        "stay below this share.",
    )
