"""Settings of the model, of its training, and of the machines that train together."""

from typing import Literal

from pydantic import Field

from genrec_core.settings.base import Settings, settings_from_environment

_RENDEZVOUS = {
    "nodes": "GENREC_NODES",
    "node_rank": "GENREC_NODE_RANK",
    "endpoint": "GENREC_RENDEZVOUS",
    "interface": "GENREC_INTERFACE",
    "local_address": "GENREC_LOCAL_ADDRESS",
}


class TrainingSettings(Settings):
    """The TIGER model and how it is trained."""

    d_model: int = Field(128, ge=8, le=4096, description="Width of the Transformer layers.")
    heads: int = Field(4, ge=1, le=64, description="Attention heads of a layer; must divide d_model.")
    encoder_layers: int = Field(2, ge=1, le=48, description="Layers of each encoder, which reads the history.")
    decoder_layers: int = Field(1, ge=1, le=48, description="Layers of the decoder, which writes the semantic ID.")
    d_ff: int = Field(512, ge=8, le=65536, description="Hidden width of the feed-forward blocks.")
    dropout: float = Field(
        0.3, ge=0, le=0.9, description="Dropout probability of the model, except in the identity encoders."
    )
    max_history: int = Field(
        50, ge=1, le=4096, description="Items of a history that the model reads; older items are ignored."
    )
    use_item_vectors: bool = Field(True, description="Let the encoder read each item's text vector beside its codes.")
    learn_item_vectors: bool = Field(
        True,
        description="Learn one more vector for each item, which the encoder reads beside the codes. Items added after "
        "the training have none.",
    )
    epochs: int = Field(24, ge=1, le=10_000, description="Largest number of passes over all training targets.")
    batch_targets: int = Field(
        1024, ge=1, le=1_000_000, description="Approximate number of targets in a training step, over all processes."
    )
    learning_rate: float = Field(1.5e-3, gt=0, le=1, description="Highest learning rate of AdamW.")
    weight_decay: float = Field(0.1, ge=0, le=10, description="Weight decay of AdamW for matrices.")
    warmup_share: float = Field(
        0.05, ge=0, le=1, description="Share of all training steps in which the learning rate rises."
    )
    label_smoothing: float = Field(
        0.1, ge=0, lt=1, description="Label smoothing of the decoder's loss at each level of the semantic ID."
    )
    future_share: float = Field(
        0.3, ge=0, le=1, description="Share of training targets drawn from later items instead of the next item."
    )
    future_window: int = Field(
        3,
        ge=1,
        le=1000,
        description="Largest distance, in items after the next one, of a target drawn from later items.",
    )
    dense_weight: float = Field(
        1.0, ge=0, le=100, description="Weight of the dense head's loss, beside 1 for the decoder's; 0: no dense head."
    )
    content_views: int = Field(
        1, ge=1, le=16, description="Encoders of the dense head's ensemble that read the items' codes and texts."
    )
    id_views: int = Field(
        1,
        ge=0,
        le=16,
        description="Identity encoders: encoders of the dense head's ensemble that know items by a learned vector "
        "alone, as SASRec does.",
    )
    id_dropout: float = Field(0.5, ge=0, le=0.9, description="Dropout probability of the identity encoders.")
    text_neighbors: int = Field(
        64,
        ge=0,
        le=4096,
        description="Items with the nearest texts that get a higher dense score, for each item of a history; 0: none. "
        "The search for them takes time with the square of the catalogue's size.",
    )
    neighbor_weight: float = Field(
        3.0,
        ge=0,
        le=100,
        description="Logits added to the dense score of an item whose text is near one of the history. Not used if "
        "validation is better without.",
    )
    dense_full_items: int = Field(
        20_000,
        ge=0,
        description="Largest catalogue over which the dense head's loss is computed in full. A larger one is sampled, "
        "with a correction for the bias.",
    )
    dense_negatives: int = Field(
        4096, ge=1, description="Random items in the sampled loss of the dense head, beside the batch's own targets."
    )
    dense_label_smoothing: float = Field(
        0.1, ge=0, lt=1, description="Label smoothing of the dense head's loss over the full catalogue."
    )
    distillation: float = Field(
        0.8,
        ge=0,
        le=1,
        description="Share of the decoder's targets taken from the dense head's probabilities, which are summed over "
        "the items of each code. The rest is the true code.",
    )
    distillation_start: float = Field(
        0.1, ge=0, le=1, description="Share of all training steps after which distillation starts."
    )
    distillation_temperature: float = Field(
        1.0,
        ge=0.2,
        le=100,
        description="Divisor of the dense head's logits before they are distilled; below 1 sharpens them.",
    )
    clip_norm: float = Field(1.0, gt=0, description="Largest norm of the gradient; a larger gradient is scaled down.")
    validation_users: int = Field(4000, ge=1, description="Random users in each validation during the training.")
    validation_beams: int = Field(
        20, ge=10, le=1000, description="Beams of the search in each validation during the training."
    )
    validate_every: int = Field(2, ge=1, description="Epochs from one validation to the next.")
    patience: int = Field(
        6,
        ge=1,
        description="Validations without a new best Recall@10 (mean of the generative and the hybrid ranking) after "
        "which the training stops.",
    )
    processes: int = Field(2, ge=1, le=1024, description="Training processes that torchrun starts on each machine.")
    threads_per_process: int = Field(1, ge=1, le=256, description="CPU threads of each training process.")
    amp: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32", description="Precision of the training on CUDA: `fp32`, or mixed precision with `bf16` or `fp16`."
    )
    compile: bool = Field(
        False,
        description="Compile the Transformers with torch.compile: the first step takes a minute longer, later steps "
        "are faster. Needs a C++ compiler.",
    )
    seed: int = Field(42, ge=0, description="Random seed of weights, batches and dropout.")


class RendezvousSettings(Settings):
    """How the machines of one training find each other."""

    nodes: int = Field(1, ge=1, le=1024, description="Machines that train together; all must share one storage.")
    node_rank: int = Field(
        0, ge=0, description="Number of this machine, from 0. Machine 0 runs the step and writes the checkpoint."
    )
    endpoint: str = Field("127.0.0.1:0", description="HOST:PORT of machine 0, where all machines of a training meet.")
    interface: str = Field(
        "lo", min_length=1, description="Network interface of this machine towards the other machines of a training."
    )
    local_address: str | None = Field(
        None, description="Address of this machine for the other machines of a training; unset: its host name."
    )
    timeout_seconds: int = Field(900, ge=1, description="Seconds to wait for the other machines of a training.")


def rendezvous_from_environment() -> RendezvousSettings:
    """Read ``GENREC_NODES``, ``GENREC_NODE_RANK``, ``GENREC_RENDEZVOUS`` and so on."""
    return settings_from_environment(RendezvousSettings, _RENDEZVOUS)
