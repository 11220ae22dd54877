"""Scores beams with onnxruntime, for the search in :mod:`genrec_core.tiger.search`. Needs no torch."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

from genrec_core.artifacts import read_json
from genrec_core.data.histories import HistoryBatch
from genrec_core.errors import GenrecError

SETTINGS, ENCODER, DECODER = "recommender.json", "history_encoder.onnx", "decoder_step.onnx"
FORMAT = 2


@dataclass(frozen=True)
class GraphSettings:
    """What a caller of the two graphs must know; the content of ``recommender.json``.

    Args:
        level_sizes: vocabulary by level, the collision suffix last.
        max_history: newest items that the encoder reads.
        decoder_layers: layers of the self-attention cache.
        d_model: width of the self-attention cache.
        item_width: width of the item vectors and keys.
        prefix_buckets: range of the hash of a prefix.
        prefix_factor: what the hash is multiplied by before the next token is added.
        dense: whether the dense head was trained.
        hybrid_weight: share of the dense head in the hybrid ranking.
    """

    level_sizes: tuple[int, ...]
    max_history: int
    decoder_layers: int
    d_model: int
    item_width: int
    prefix_buckets: int
    prefix_factor: int
    dense: bool
    hybrid_weight: float

    @classmethod
    def load(cls, folder: Path) -> "GraphSettings":
        """Read ``recommender.json``.

        Raises:
            GenrecError: it is missing, or of a form that this version does not read.
        """
        content = read_json(folder / SETTINGS)
        found = content.pop("format", None)
        if found != FORMAT:
            raise GenrecError(f"{folder / SETTINGS}: format {found}, but this version reads {FORMAT}; export it again")
        return cls(**{**content, "level_sizes": tuple(content["level_sizes"])})


def default_threads() -> int:
    """The CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))


def open_graph(path: Path, threads: int | None, spinning: bool = False) -> ort.InferenceSession:
    """Open an ONNX graph on the CPU.

    Args:
        path: the graph.
        threads: threads inside an operator; None for every core that this process may use.
        spinning: whether idle threads poll for work, which is faster alone and slower beside other processes.

    Raises:
        GenrecError: the file is missing or no graph that onnxruntime runs.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or default_threads()
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spinning else "0")
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises many types of its own, without a common base
        raise GenrecError(f"{path}: onnxruntime cannot open it ({error}); export it again") from error


class OnnxScorer:
    """A ``CodeScorer`` over the two exported graphs.

    Args:
        folder: a model folder that :func:`genrec_core.export.onnx.export_recommender` wrote.
        items: what the encoder reads of each item, float32 [n_items, item_width] by catalogue row.
        keys: what the dense head compares its query with, of the same shape.
        threads: threads inside an operator; None for every core that this process may use.

    Raises:
        GenrecError: a graph is missing or damaged, or the vectors are not as wide as the model wants.
    """

    def __init__(self, folder: Path, items: np.ndarray, keys: np.ndarray, threads: int | None = None) -> None:
        self.settings = GraphSettings.load(folder)
        width = self.settings.item_width
        for name, array in (("vectors", items), ("keys", keys)):
            if array.ndim != 2 or array.shape[1] != width:
                raise GenrecError(
                    f"{folder}: the model reads item {name} of {width} columns, found shape {array.shape}; "
                    "export it again"
                )
        self.items = np.ascontiguousarray(items, dtype=np.float32)
        self.keys = np.ascontiguousarray(keys, dtype=np.float32)
        sizes = np.asarray(self.settings.level_sizes, dtype=np.int64)
        # Row 0 of the token embedding starts a code; the tokens of level l follow those of the levels before it.
        self.token_offset = 1 + np.cumsum(sizes) - sizes
        self.encoder = open_graph(folder / ENCODER, threads)
        self.decoder = open_graph(folder / DECODER, threads)

    def start(self, histories: HistoryBatch) -> "OnnxSession":
        """Encode the histories of a batch; every one holds at least one item."""
        return OnnxSession(self, histories)


class OnnxSession:
    """The decoding of one batch: caches of the levels done so far."""

    def __init__(self, scorer: OnnxScorer, histories: HistoryBatch) -> None:
        self.scorer, self.level = scorer, 0
        rows = np.maximum(histories.rows, 0)
        inputs = {"items": scorer.items[rows], "lengths": histories.lengths.astype(np.int64)}
        history, bias, context, self.query = scorer.encoder.run(["history", "bias", "context", "query"], inputs)
        self.encoded = {"history": history, "bias": bias, "context": context}
        settings = scorer.settings
        self.cache = np.zeros((settings.decoder_layers, 2, len(rows), 1, 0, settings.d_model), dtype=np.float32)
        self.prefix = np.zeros((len(rows), 1), dtype=np.int64)

    def item_log_probs(self) -> np.ndarray:
        """Log-probabilities float32 [B, n_items] by the dense head; see ``ScorerSession``."""
        logits = self.query @ self.scorer.keys.T
        logits -= logits.max(axis=1, keepdims=True)
        return np.asarray(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))

    def advance(self, tokens: np.ndarray | None, parents: np.ndarray | None) -> np.ndarray:
        """Log-probabilities float32 [B, W, level size] of the next level; see ``ScorerSession``."""
        if tokens is None or parents is None:
            inputs = parents = np.zeros((self.cache.shape[2], 1), dtype=np.int64)
        else:
            inputs = self.scorer.token_offset[self.level - 1] + tokens
            settings, above = self.scorer.settings, np.take_along_axis(self.prefix, parents, axis=1)
            self.prefix = (above * settings.prefix_factor + inputs) % settings.prefix_buckets
        feeds = {
            "tokens": np.asarray(inputs, dtype=np.int64),
            "level": np.asarray(self.level, dtype=np.int64),
            "parents": np.asarray(parents, dtype=np.int64),
            "cache": self.cache,
            "prefix": self.prefix,
            **self.encoded,
        }
        scores, self.cache = self.scorer.decoder.run(["scores", "next_cache"], feeds)
        size = self.scorer.settings.level_sizes[self.level]
        self.level += 1
        return np.asarray(scores[..., :size])
