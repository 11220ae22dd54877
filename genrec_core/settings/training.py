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

    d_model: int = Field(128, ge=8, le=4096, description="Width of the Transformer.")
    heads: int = Field(4, ge=1, le=64, description="Attention heads; must divide d_model.")
    encoder_layers: int = Field(2, ge=1, le=48, description="Causal encoder layers over the history.")
    decoder_layers: int = Field(1, ge=1, le=48, description="Decoder layers over the levels of a semantic ID.")
    d_ff: int = Field(512, ge=8, le=65536, description="Width of the feed-forward layers.")
    dropout: float = Field(0.3, ge=0, le=0.9, description="Dropout everywhere.")
    max_history: int = Field(50, ge=1, le=4096, description="Newest items of a history that the encoder reads.")
    use_item_vectors: bool = Field(True, description="Add the item's text vector to its codes in the encoder.")
    learn_item_vectors: bool = Field(
        True,
        description="Add a learned vector of its own to each item in the encoder; items new since training have none.",
    )
    epochs: int = Field(24, ge=1, le=10_000, description="Passes over all training targets.")
    batch_targets: int = Field(1024, ge=1, le=1_000_000, description="Targets a step over all processes, about.")
    learning_rate: float = Field(1.5e-3, gt=0, le=1, description="Peak learning rate (AdamW).")
    weight_decay: float = Field(0.1, ge=0, le=10, description="AdamW weight decay of matrices.")
    warmup_share: float = Field(0.05, ge=0, le=1, description="Share of all steps with a rising learning rate.")
    label_smoothing: float = Field(0.1, ge=0, lt=1, description="Label smoothing of the level losses.")
    future_share: float = Field(
        0.3, ge=0, le=1, description="Share of targets that are drawn from the items soon after the next one instead."
    )
    future_window: int = Field(
        3, ge=1, le=1000, description="How far after the next item such a target may lie, in items."
    )
    dense_weight: float = Field(
        1.0, ge=0, le=100, description="Weight of the dense head's loss beside the generative one; 0: no dense head."
    )
    content_views: int = Field(
        1, ge=1, le=16, description="Encoders of the dense head that read the items' codes and texts, an ensemble."
    )
    id_views: int = Field(
        1, ge=0, le=16, description="Encoders of it that know items by their identity alone (SASRec), beside those."
    )
    id_dropout: float = Field(0.5, ge=0, le=0.9, description="Dropout probability of the identity encoders.")
    text_neighbors: int = Field(
        64,
        ge=0,
        le=4096,
        description="Items of the nearest texts that the dense head lifts for each item of a history; 0: none. "
        "Finding them takes time by the square of the catalogue.",
    )
    neighbor_weight: float = Field(
        3.0, ge=0, le=100, description="How far it lifts them, in logits; dropped where validation is better without."
    )
    dense_full_items: int = Field(
        20_000, ge=0, description="Larger catalogues train the dense head on a sample of items, corrected for its bias."
    )
    dense_negatives: int = Field(4096, ge=1, description="Items drawn evenly for that sample, beside a batch's own.")
    dense_label_smoothing: float = Field(0.1, ge=0, lt=1, description="Label smoothing of the full dense loss.")
    distillation: float = Field(
        0.8, ge=0, le=1, description="Share of the level losses that follows the dense head, summed over the trie."
    )
    distillation_start: float = Field(
        0.1, ge=0, le=1, description="Share of all steps before which nothing is distilled."
    )
    distillation_temperature: float = Field(
        1.0,
        ge=0.2,
        le=100,
        description="What the dense head's logits are divided by for that; below 1 it is sharper.",
    )
    clip_norm: float = Field(1.0, gt=0, description="Largest gradient norm.")
    validation_users: int = Field(4000, ge=1, description="Users drawn for validation while training.")
    validation_beams: int = Field(20, ge=10, le=1000, description="Beams of the validation Recall@10.")
    validate_every: int = Field(2, ge=1, description="Epochs between validations.")
    patience: int = Field(
        6,
        ge=1,
        description="Validations without a better one before training stops; its Recall@10 is the mean over rankings.",
    )
    processes: int = Field(2, ge=1, le=1024, description="torchrun processes on each machine.")
    threads_per_process: int = Field(1, ge=1, le=256, description="CPU threads a process.")
    amp: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32", description="Precision on CUDA: `fp32` throughout, or mixed with `bf16` or `fp16`."
    )
    compile: bool = Field(
        False, description="torch.compile the Transformers: a minute first, faster steps after; needs a C++ compiler."
    )
    seed: int = Field(42, ge=0, description="Seed of weights, batches and dropout.")


class RendezvousSettings(Settings):
    """How the machines of one training find each other."""

    nodes: int = Field(1, ge=1, le=1024, description="Machines that train together; all must see the same storage.")
    node_rank: int = Field(0, ge=0, description="Which of them this one is; 0 runs the step and writes the checkpoint.")
    endpoint: str = Field("127.0.0.1:0", description="HOST:PORT of node 0, where several machines meet.")
    interface: str = Field("lo", min_length=1, description="Network interface by which this one reaches the others.")
    local_address: str | None = Field(None, description="Address of this machine for the others; unset: its name's.")
    timeout_seconds: int = Field(900, ge=1, description="How long to wait for the other machines.")


def rendezvous_from_environment() -> RendezvousSettings:
    """Where the machines of a training meet: ``GENREC_NODES``, ``GENREC_NODE_RANK``, ``GENREC_RENDEZVOUS`` and so on.

    Raises:
        GenrecError: a variable's value cannot be one.
    """
    return settings_from_environment(RendezvousSettings, _RENDEZVOUS)
