"""Every setting of the graph, typed and bounded, and the presets that fill them."""

import os
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from genrec_core.errors import GenrecError

DEFAULT_TEXT_TEMPLATE = "Title: {title}; Brand: {brand}; Categories: {categories}; Price: {price};"


RankingMode = Literal["generative", "hybrid", "dense"]


class Settings(BaseModel):
    """Base of all settings: immutable, and an unknown name is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Form = TypeVar("Form", bound=Settings)


class CatalogSettings(Settings):
    """How an item becomes a line of text."""

    text_template: str = Field(
        DEFAULT_TEXT_TEMPLATE,
        description="Item text; fields: title, brand, categories, price, description. A part whose field is absent "
        "(parts end with ';') is left out.",
    )


class EmbeddingSettings(Settings):
    """How item text becomes a vector."""

    model: str = Field(
        "all-MiniLM-L6-v2",
        description="all-MiniLM-L6-v2 (shipped as a Python package, verified by sha256), a hub name, or a folder.",
    )
    batch_size: int = Field(64, ge=1, le=4096, description="Texts encoded at once.")
    max_tokens: int = Field(128, ge=8, le=8192, description="Longer texts are cut to this many tokens.")


class SemanticIdSettings(Settings):
    """How an item vector becomes a semantic ID."""

    levels: int = Field(3, ge=1, le=8, description="Residual k-means levels, the collision suffix not counted.")
    codebook_size: int = Field(256, ge=2, le=65536, description="Centroids a level.")
    codebook_sizes: list[int] | None = Field(None, description="Centroids by level, where levels differ.")
    transform: Literal["none", "l2"] = Field("l2", description="What is done to the vectors before k-means.")
    collaborative_weight: float = Field(
        1.0, ge=0, le=100, description="Length of what users buy together, as a vector, beside the text's length of 1."
    )
    collaborative_dims: int = Field(64, ge=1, le=4096, description="Dimensions of that vector.")
    collaborative_window: int = Field(
        5, ge=1, le=1000, description="How near two items of a history count as together."
    )
    iterations: int = Field(50, ge=1, le=10_000, description="Lloyd iterations a level, at most.")
    tolerance: float = Field(1e-4, ge=0, description="Stop when the error falls by less than this share.")
    seed: int = Field(42, ge=0, description="Seed of k-means++ and of re-seeding dead centroids.")
    refit: Literal["auto", "always", "never"] = Field(
        "auto",
        description="When a changed catalogue gets new codebooks, and all items new codes: `auto` where what the codes "
        "take from the histories changed, or more than `refit_share` of the items; otherwise unchanged items keep "
        "theirs and the others get codes from the codebooks as they are. `never` fits only the first codebooks, and "
        "fails where the codes so far cannot be kept.",
    )
    refit_share: float = Field(
        0.2, ge=0, description="Items that came, changed or went since the last fit, as a share of those it was of."
    )

    def sizes(self) -> list[int]:
        """Centroids by level, as many as ``levels``."""
        if self.codebook_sizes is None:
            return [self.codebook_size] * self.levels
        if len(self.codebook_sizes) != self.levels:
            raise GenrecError(f"codebook_sizes has {len(self.codebook_sizes)} entries but levels is {self.levels}")
        return list(self.codebook_sizes)


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


class EngineSettings(Settings):
    """Where texts are embedded, semantic IDs assigned and lists of items decoded."""

    name: Literal["local", "ray"] = Field(
        "local", description="`local`: in the process that asks; `ray`: by the workers of a Ray cluster (extra `ray`)."
    )
    address: str | None = Field(
        None,
        description="With `ray`: HOST:PORT of a cluster that this machine is a node of, ray://HOST:PORT of another "
        "one, or `local` for one on this machine that ends with the step.",
    )


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


class ExportSettings(Settings):
    """The form in which the model serves."""

    int8: bool = Field(
        False,
        description="Round the weights to int8: smaller and faster, with nearly the same lists. Refused if that costs "
        "recall on validation.",
    )
    largest_loss: float = Field(
        0.01, ge=0, le=1, description="Most of validation Recall@10 that a ranking may lose by int8, as a share."
    )
    users: int = Field(4000, ge=1, description="Validation users that decide, with int8.")


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


class MonitoringSettings(Settings):
    """When a check warns of data that moved away from the served release, or of predictions that look wrong."""

    severity: Literal["warn", "error"] = Field("warn", description="Of such a check; it stops nothing either way.")
    max_new_items: float = Field(
        0.05, ge=0, le=1, description="Largest share of the catalogue that the served release does not know."
    )
    max_gone_items: float = Field(
        0.05, ge=0, le=1, description="Largest share of the release's items that the catalogue no longer holds."
    )
    max_unknown_items: float = Field(
        0.02, ge=0, le=1, description="Largest share of history entries whose item the release does not know."
    )
    max_length_shift: float = Field(
        0.25, ge=0, description="Largest population stability index of the lengths of histories."
    )
    max_popularity_shift: float = Field(
        0.3, ge=0, le=1, description="Largest Jensen-Shannon distance of the items' shares of interactions."
    )
    min_coverage: float = Field(
        0.05, ge=0, le=1, description="Least share of the items that the lists have places for that they show."
    )
    max_gini: float = Field(
        0.95, ge=0, le=1, description="Largest Gini coefficient of exposure, where lists have places for every item."
    )
    max_popular_answers: float = Field(
        0.1, ge=0, le=1, description="Largest share of users without a known item, who get the popular ones."
    )
    max_short_answers: float = Field(0.01, ge=0, le=1, description="Largest share of users with fewer than K items.")
    max_rejected_lines: float = Field(0.01, ge=0, le=1, description="Largest share of lines that are no request.")


class FreshnessSettings(Settings):
    """How old the newest version of an asset may become; half of it is a warning."""

    raw_hours: float = Field(24.0 * 7, ge=0.1, description="Raw data, since they last changed or were received.")
    release_hours: float = Field(24.0 * 30, ge=0.1, description="The served release, since the pointer last moved.")
    predictions_hours: float = Field(24.0 * 7, ge=0.1, description="Predictions for all users.")


class PredictionSettings(Settings):
    """What a prediction file holds."""

    top_k: int = Field(128, ge=1, le=100_000, description="Items a user.")
    beams: int | None = Field(None, ge=1, description="Beams; unset: as many as top_k and the history need.")
    batch_users: int = Field(64, ge=1, le=4096, description="Users decoded together.")
    ranking: RankingMode = Field(
        "hybrid", description="Order items by their codes' probability, by the dense head, or by a mix of both."
    )
    exclude_seen: bool = Field(True, description="Never recommend an item of the user's own history.")
    rule: str | None = Field(
        None, description="What every recommended item must meet, e.g. `brand = OPI`; unset: none."
    )
    workers: int | None = Field(None, ge=1, le=1024, description="Batches decoded side by side; unset: one a core.")


class ServingSettings(Settings):
    """The online server; options of ``genrec serve``."""

    name: str = Field(
        "mymodel", pattern=r"^[A-Za-z0-9_.-]{1,64}$", description="The model's name, as in /predictions/mymodel."
    )
    host: str = Field("127.0.0.1", description="Address to listen on; another than loopback should have a token.")
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on; 0 for any free one.")
    threads: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="Decoding processes of one thread, with the model in each; unset: one a core of the CPU quota.",
    )
    batch_users: int = Field(16, ge=1, le=4096, description="Users decoded together, at most.")
    max_wait_ms: float = Field(
        5,
        ge=0,
        le=10_000,
        description="Wait so long for users who have just been answered to ask again, for a larger batch.",
    )
    queue: int = Field(1024, ge=1, le=1_000_000, description="Users waiting, at most; beyond, the answer is 503.")
    max_instances: int = Field(256, ge=1, le=100_000, description="Users a request.")
    max_history: int = Field(1000, ge=1, le=1_000_000, description="Items a history.")
    max_topk: int = Field(1000, ge=1, le=100_000, description="Items a user.")
    max_listed: int = Field(100_000, ge=1, le=10_000_000, description="Items of an allow or deny list.")
    max_body_kb: int = Field(1024, ge=1, le=1_048_576, description="Size of a request's body in KiB.")
    body_seconds: int = Field(30, ge=1, le=3600, description="Seconds within which a request's body must be there.")
    open_seconds: int = Field(
        600,
        ge=1,
        le=86_400,
        description="Seconds within which a decoding process must have opened the model, at the start, at a reload and "
        "in the place of one that was lost.",
    )
    decode_seconds: float = Field(
        30,
        gt=0,
        le=3600,
        description="Seconds for a batch, after which its users get 503 and its process is replaced; and for the wait "
        "in the queue, after which the answer is 503.",
    )
    grace_seconds: int = Field(20, ge=0, le=3600, description="How long requests in flight may take when it stops.")
    keep_alive_seconds: int = Field(30, ge=1, le=3600, description="How long an idle connection is kept.")


class Preset(Settings):
    """One value for every setting."""

    catalog: CatalogSettings = CatalogSettings()
    embedding: EmbeddingSettings = EmbeddingSettings()
    semantic_ids: SemanticIdSettings = SemanticIdSettings()
    training: TrainingSettings = TrainingSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    gates: GateSettings = GateSettings()
    export: ExportSettings = ExportSettings()
    release: ReleaseSettings = ReleaseSettings()
    monitoring: MonitoringSettings = MonitoringSettings()
    prediction: PredictionSettings = PredictionSettings()


PRESETS: dict[str, Preset] = {
    "sample": Preset(
        semantic_ids=SemanticIdSettings(codebook_size=64),
        training=TrainingSettings(
            d_model=64,
            d_ff=256,
            max_history=30,
            epochs=8,
            batch_targets=512,
            learning_rate=1e-3,
            dropout=0.2,
            label_smoothing=0.05,
            future_share=0.0,  # the next item of the synthetic shop depends on the newest one alone
            id_views=0,
            distillation=0.0,
            validation_users=1000,
        ),
    ),
    "beauty": Preset(),
    "beauty-best": Preset(training=TrainingSettings(content_views=3, id_views=3)),
    "beauty-gpu": Preset(training=TrainingSettings(processes=1, amp="bf16", compile=True, batch_targets=8192)),
}


# The baseline of `genrec train --model sasrec`, by preset; it has no codes, decoder or dense head.
SASREC: dict[str, TrainingSettings] = {
    "sample": TrainingSettings(
        d_model=64, heads=2, d_ff=256, max_history=30, epochs=8, future_share=0.0, batch_targets=512, learning_rate=1e-3
    ),
    "beauty": TrainingSettings(heads=2, dropout=0.5, label_smoothing=0.0, future_share=0.0, learning_rate=1e-3),
}


def preset_from_environment() -> tuple[str, Preset]:
    """The preset that ``PRESET`` names (``sample`` where it is unset).

    Raises:
        GenrecError: ``PRESET`` names none.
    """
    name = os.environ.get("PRESET") or "sample"
    if name not in PRESETS:
        raise GenrecError(f"PRESET={name}: no such preset; choose one of {', '.join(PRESETS)}")
    return name, PRESETS[name]


_RENDEZVOUS = {
    "nodes": "GENREC_NODES",
    "node_rank": "GENREC_NODE_RANK",
    "endpoint": "GENREC_RENDEZVOUS",
    "interface": "GENREC_INTERFACE",
    "local_address": "GENREC_LOCAL_ADDRESS",
}
_ENGINE = {"name": "GENREC_ENGINE", "address": "RAY_ADDRESS"}


def rendezvous_from_environment() -> RendezvousSettings:
    """Where the machines of a training meet: ``GENREC_NODES``, ``GENREC_NODE_RANK``, ``GENREC_RENDEZVOUS`` and so on.

    Raises:
        GenrecError: a variable's value cannot be one.
    """
    return _from_environment(RendezvousSettings, _RENDEZVOUS)


def engine_from_environment() -> EngineSettings:
    """Where work is computed: ``GENREC_ENGINE`` and Ray's own ``RAY_ADDRESS``.

    Raises:
        GenrecError: ``GENREC_ENGINE`` names no engine.
    """
    return _from_environment(EngineSettings, _ENGINE)


_FRESHNESS = {
    "raw_hours": "GENREC_FRESH_RAW_HOURS",
    "release_hours": "GENREC_FRESH_RELEASE_HOURS",
    "predictions_hours": "GENREC_FRESH_PREDICTIONS_HOURS",
}


def freshness_from_environment() -> FreshnessSettings:
    """How old assets may become: ``GENREC_FRESH_RAW_HOURS`` and so on.

    Raises:
        GenrecError: a variable's value cannot be one.
    """
    return _from_environment(FreshnessSettings, _FRESHNESS)


def _from_environment(form: type[Form], variables: dict[str, str]) -> Form:
    """Settings of which some are given by variables, by field."""
    given = {name: os.environ[variable] for name, variable in variables.items() if os.environ.get(variable)}
    try:
        return form.model_validate(given)
    except ValidationError as error:
        fault = error.errors()[0]
        variable = variables[str(fault["loc"][0])]
        raise GenrecError(f"{variable}={fault['input']}: {fault['msg']}") from error
