"""Settings of the evaluation, and the least metrics that a model must reach."""

from pydantic import Field

from genrec_core.settings.base import Settings


class EvaluationSettings(Settings):
    """How the test items are ranked."""

    beams: int = Field(1000, ge=1, description="Beams; Recall@K is reported for K up to this.")
    batch_users: int = Field(16, ge=1, le=4096, description="Users decoded together.")
    users: int | None = Field(None, ge=1, description="Users drawn to be ranked; unset: all.")
    workers: int | None = Field(None, ge=1, description="Batches decoded side by side; unset: one a core.")
    exact_users: int = Field(
        16, ge=0, description="Users drawn to compare the beam with exact scoring of every item; 0: none."
    )
    baseline: str | None = Field(
        None, description="Folder of a trained SASRec (`genrec train --model sasrec`) to be measured on the same users."
    )
    bootstrap_samples: int = Field(1000, ge=10, le=100_000, description="Resamples of users for each interval.")
    seed: int = Field(42, ge=0, description="Seed of the bootstrap.")


class GateSettings(Settings):
    """What the metrics must reach before anything is exported or served."""

    recall_at_10: float = Field(0.020, ge=0, le=1, description="Least Recall@10 on test.")
    recall_at_100: float = Field(0.035, ge=0, le=1, description="Least Recall@100 on test.")
    recall_at_1000: float = Field(0.050, ge=0, le=1, description="Least Recall@1000 on test.")
    max_miss_share: float = Field(0.01, ge=0, le=1, description="Misses must stay below this share.")
