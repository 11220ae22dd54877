"""Settings of the model and of its training."""

import math
from typing import Literal

from pydantic import Field

from genrec_core.settings.base import Settings, Share

_TARGETS_A_MINUTE = 100_000  # of two cores: 24 epochs of Beauty's 131,413 targets take 29 to 45 minutes


class TrainingSettings(Settings):
    """The TIGER model and how it is trained."""

    d_model: int = Field(128, ge=8, le=4096, description="Width of the Transformer layers.")
    heads: int = Field(4, ge=1, le=64, description="Attention heads of a layer; must divide d_model.")
    encoder_layers: int = Field(2, ge=1, le=48, description="Layers of each encoder, which reads the history.")
    decoder_layers: int = Field(1, ge=1, le=48, description="Layers of the decoder, which writes the semantic ID.")
    d_ff: int = Field(512, ge=8, le=65536, description="Hidden width of the feed-forward blocks.")
    dropout: float = Field(0.3, ge=0, le=0.9, description="Dropout probability, except in the identity encoders.")
    max_history: int | None = Field(
        50,
        ge=1,
        le=4096,
        description="Items of a history that the model reads, the newest ones; unset: 50 to 200, as many as 95 of 100 "
        "users have at most.",
    )
    use_item_vectors: bool = Field(True, description="Let the encoder read each item's text vector beside its codes.")
    learn_item_vectors: bool = Field(
        True, description="Let the encoder read a learned vector of each trained item too."
    )
    epochs: int | None = Field(
        24,
        ge=1,
        le=10_000,
        description="Largest number of passes over all training targets; unset: as many as `minutes` allow, 3 to 24.",
    )
    minutes: float = Field(
        45,
        gt=0,
        le=100_000,
        description="Time of two CPU cores, about, that the training may take if `epochs` is unset.",
    )
    batch_targets: int | None = Field(
        1024,
        ge=1,
        le=1_000_000,
        description="Targets a training step, about, over all processes; unset: 128 to 1024, by their number.",
    )
    learning_rate: float = Field(1.5e-3, gt=0, le=1, description="Highest learning rate of AdamW.")
    weight_decay: float = Field(0.1, ge=0, le=10, description="Weight decay of AdamW for matrices.")
    warmup_share: Share = Field(0.05, description="Share of all training steps in which the learning rate rises.")
    label_smoothing: float = Field(0.1, ge=0, lt=1, description="Label smoothing of the decoder's loss at each level.")
    future_share: Share | None = Field(
        0.3,
        description="Share of targets drawn from later items instead of the next one; unset: 0.3, or 0 where the next "
        "item follows closely from the last one.",
    )
    future_window: int = Field(3, ge=1, le=1000, description="Farthest later item drawn, in items after the next one.")
    dense_weight: float = Field(1.0, ge=0, le=100, description="Weight of the dense head's loss; 0: no dense head.")
    content_views: int = Field(1, ge=1, le=16, description="Dense head: encoders that read the items' codes and texts.")
    id_views: int = Field(
        1, ge=0, le=16, description="Dense head: identity encoders, which know items by a learned vector alone."
    )
    id_dropout: float = Field(0.5, ge=0, le=0.9, description="Dropout probability of the identity encoders.")
    neighbors: int = Field(
        64,
        ge=0,
        le=4096,
        description="Most items that one item of a history lifts; 0: none. The nearest texts are exact up to "
        "`dense_full_items` items; beyond, nearly all of them are found.",
    )
    neighbor_weight: float = Field(
        3.0,
        ge=0,
        le=100,
        description="Logits added to items with a text like the history's; validation may change it.",
    )
    follower_weight: float = Field(
        1.0,
        ge=0,
        le=100,
        description="Logits added to items that followed the history's; validation may change it.",
    )
    dense_full_items: int = Field(
        20_000,
        ge=0,
        description="Largest catalogue over which the dense head's loss is computed in full. In a larger one it is "
        "sampled, the decoder is not taught by the dense head, and a training step touches few items.",
    )
    exact_items: int = Field(
        100_000,
        ge=0,
        description="Largest catalogue of which every item is scored for every user. In a larger one those below the "
        "prefixes that match best are.",
    )
    dense_negatives: int = Field(
        4096, ge=1, description="Random items in the dense head's sampled loss, beside the batch's targets."
    )
    dense_label_smoothing: float = Field(0.1, ge=0, lt=1, description="Label smoothing of the dense head's full loss.")
    distillation: Share = Field(
        0.8,
        description="Share of the decoder's targets taken from the dense head, up to `dense_full_items` items; the "
        "rest is the true code.",
    )
    distillation_start: Share = Field(0.1, description="Share of all training steps after which distillation starts.")
    distillation_temperature: float = Field(1.0, ge=0.2, le=100, description="Divisor of the distilled logits.")
    clip_norm: float = Field(1.0, gt=0, description="Largest norm of the gradient; a larger gradient is scaled down.")
    validation_users: int = Field(4000, ge=1, description="Random users in each validation.")
    validation_beams: int = Field(20, ge=10, le=1000, description="Beams of the search in each validation.")
    validate_every: int = Field(2, ge=1, description="Epochs from one validation to the next.")
    patience: int = Field(
        6, ge=1, description="Validations without a new best Recall@10 (generative and hybrid) that end the training."
    )
    processes: int = Field(2, ge=1, le=1024, description="Training processes that torchrun starts on each machine.")
    threads_per_process: int = Field(1, ge=1, le=256, description="CPU threads of each training process.")
    seen: Literal["auto", "exclude", "keep"] = Field(
        "auto",
        description="Items that the user already has: `exclude` leaves them out of all lists, `keep` lets lists hold "
        "them, and `auto` keeps them where validation finds more so.",
    )
    amp: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="Precision on CUDA: fp32, or mixed (bf16, fp16).")
    seed: int = Field(42, ge=0, description="Random seed of weights, batches and dropout.")

    def epochs_of(self, targets: int) -> int:
        """The epochs of a training of so many targets, in about ``minutes`` minutes of two cores."""
        return self.epochs or max(3, min(24, round(self.minutes * _TARGETS_A_MINUTE / targets)))

    def history_of(self, percentile: float) -> int:
        """The items of a history that are read, where 95 of 100 users have at most ``percentile`` items."""
        return self.max_history or max(50, min(200, 10 * math.ceil(percentile / 10)))

    def batch_of(self, targets: int) -> int:
        """The targets of a step: a power of two that gives an epoch 128 steps or more, from 128 to 1024."""
        return self.batch_targets or min(1024, max(128, 2 ** int(math.log2(targets / 128))))
