"""Settings of the model and of its training."""

import math
from typing import ClassVar, Literal

from pydantic import Field

from genrec_core.settings.base import Settings, Share

_TARGETS_A_MINUTE = 100_000  # of two cores: 24 epochs of Beauty's 131,413 targets take 29 to 45 minutes


class TrainingSettings(Settings):
    """The TIGER model and how it is trained."""

    main: ClassVar[tuple[str, ...]] = ("epochs", "minutes", "d_model", "seen", "processes")

    d_model: int = Field(128, ge=8, le=4096, description="Width of the Transformer layers.")
    heads: int = Field(4, ge=1, le=64, description="Number of attention heads of a layer. It must divide `d_model`.")
    encoder_layers: int = Field(
        2, ge=1, le=48, description="Number of layers of each encoder. An encoder reads the history."
    )
    decoder_layers: int = Field(
        1, ge=1, le=48, description="Number of layers of the decoder. The decoder writes the semantic ID."
    )
    d_ff: int = Field(512, ge=8, le=65536, description="Hidden width of the feed-forward blocks.")
    dropout: float = Field(0.3, ge=0, le=0.9, description="Dropout probability, except in the identity encoders.")
    max_history: int | None = Field(
        50,
        ge=1,
        le=4096,
        description="Number of items of a history that the model reads, the newest ones. Unset: 50 to 200, enough for "
        "the whole history of 95 of 100 users.",
    )
    use_item_vectors: bool = Field(
        True, description="Let the encoder read each item's text vector beside its semantic ID."
    )
    learn_item_vectors: bool = Field(
        True,
        description="Let the encoder also read a learned vector of each item of the training part. Above `exact_items` "
        "items, these are made of learned vectors of the beginnings of codes, which items share.",
    )
    epochs: int | None = Field(
        24,
        ge=1,
        le=10_000,
        description="Largest number of passes over all training targets. Unset: as many as `minutes` allow, from 3 to "
        "24.",
    )
    minutes: float = Field(
        45,
        gt=0,
        le=100_000,
        description="Approximate minutes that the training may take on two CPU cores. Used only if `epochs` is unset.",
    )
    batch_targets: int | None = Field(
        1024,
        ge=1,
        le=1_000_000,
        description="Approximate number of targets of a training step, over all processes. Unset: 128 to 1024, by the "
        "number of all targets.",
    )
    learning_rate: float = Field(1.5e-3, gt=0, le=1, description="Highest learning rate of AdamW.")
    weight_decay: float = Field(0.1, ge=0, le=10, description="Weight decay of AdamW for matrices.")
    warmup_share: Share = Field(0.05, description="Share of all training steps in which the learning rate rises.")
    label_smoothing: float = Field(0.1, ge=0, lt=1, description="Label smoothing of the decoder's loss at each level.")
    future_share: Share | None = Field(
        0.3,
        description="Share of training targets that are drawn from later items instead of the next one. Unset: 0.3, or "
        "0 if the next item depends closely on the last one.",
    )
    future_window: int = Field(
        3, ge=1, le=1000, description="Largest distance of a later target from the next item, in items of the history."
    )
    dense_weight: float = Field(
        1.0, ge=0, le=100, description="Weight of the dense head's loss. 0: the model has no dense head."
    )
    content_views: int = Field(
        1,
        ge=1,
        le=16,
        description="Number of content encoders of the dense head. They read the semantic IDs and texts of items.",
    )
    id_views: int = Field(
        1,
        ge=0,
        le=16,
        description="Number of identity encoders of the dense head. They know an item by a learned vector alone.",
    )
    id_dropout: float = Field(0.5, ge=0, le=0.9, description="Dropout probability of the identity encoders.")
    neighbors: int = Field(
        64,
        ge=0,
        le=4096,
        description="Largest number of items that each item of a history lifts in the dense ranking. 0: none. The "
        "nearest texts are exact up to `dense_full_items` items; beyond, nearly all of them are found.",
    )
    neighbor_weight: float = Field(
        3.0,
        ge=0,
        le=100,
        description="Amount added to the logits of items whose text is like one of the history. Validation may change "
        "it.",
    )
    follower_weight: float = Field(
        1.0,
        ge=0,
        le=100,
        description="Amount added to the logits of items that followed an item of the history. Validation may change "
        "it.",
    )
    dense_full_items: int = Field(
        20_000,
        ge=0,
        description="Largest catalogue for which the dense head's loss is computed over all items. For a larger one it "
        "is sampled, the dense head does not teach the decoder, and a training step touches few items.",
    )
    exact_items: int = Field(
        100_000,
        ge=0,
        description="Largest catalogue for which every item is scored for every user. For a larger one, only items "
        "that seem to match best are scored.",
    )
    dense_negatives: int = Field(
        4096,
        ge=1,
        description="Number of random items in the dense head's sampled loss, beside the targets of the batch.",
    )
    dense_label_smoothing: float = Field(
        0.1, ge=0, lt=1, description="Label smoothing of the dense head's loss over all items."
    )
    distillation: Share = Field(
        0.8,
        description="Share of the decoder's target that the dense head gives; the rest is the true code. Used up to "
        "`dense_full_items` items.",
    )
    distillation_start: Share = Field(
        0.1, description="Share of all training steps after which the dense head begins to teach the decoder."
    )
    distillation_temperature: float = Field(
        1.0, ge=0.2, le=100, description="Divisor of the dense head's logits when they teach the decoder."
    )
    clip_norm: float = Field(1.0, gt=0, description="Largest norm of the gradient. A larger gradient is scaled down.")
    validation_users: int = Field(4000, ge=1, description="Number of random users in each validation.")
    validation_beams: int = Field(20, ge=10, le=1000, description="Number of beams of the search in each validation.")
    validate_every: int = Field(2, ge=1, description="Number of epochs from one validation to the next.")
    patience: int = Field(
        6,
        ge=1,
        description="Number of validations in a row without a better Recall@10 (generative or hybrid) that end the "
        "training.",
    )
    processes: int = Field(
        2, ge=1, le=1024, description="Number of training processes that torchrun starts on each machine."
    )
    threads_per_process: int = Field(1, ge=1, le=256, description="Number of CPU threads of each training process.")
    seen: Literal["auto", "exclude", "keep"] = Field(
        "auto",
        description="Items that the user already has. `exclude`: lists never hold them. `keep`: lists may hold them. "
        "`auto`: lists may hold them if validation finds more that way.",
    )
    amp: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32", description="Number format on a CUDA device: `fp32`, or mixed precision with `bf16` or `fp16`."
    )
    seed: int = Field(42, ge=0, description="Random seed of the training. It decides weights, batches and dropout.")

    def epochs_of(self, targets: int) -> int:
        """The epochs of a training of so many targets, in about ``minutes`` minutes of two cores."""
        return self.epochs or max(3, min(24, round(self.minutes * _TARGETS_A_MINUTE / targets)))

    def history_of(self, percentile: float) -> int:
        """The items of a history that are read, where 95 of 100 users have at most ``percentile`` items."""
        return self.max_history or max(50, min(200, 10 * math.ceil(percentile / 10)))

    def batch_of(self, targets: int) -> int:
        """The targets of a step: a power of two that gives an epoch 128 steps or more, from 128 to 1024."""
        return self.batch_targets or min(1024, max(128, 2 ** int(math.log2(targets / 128))))
