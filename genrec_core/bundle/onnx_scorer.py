"""Scores beams with onnxruntime, for the search in :mod:`genrec_core.search.generative`. Needs no torch."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from genrec_core.bundle.constant_product import ConstantProduct
from genrec_core.data.histories import HistoryBatch
from genrec_core.errors import GenrecError
from genrec_core.graphs import open_graph, read_array
from genrec_core.search.neighbors import TextNeighbors
from genrec_core.search.prefixes import BeamAncestry
from genrec_core.storage.artifacts import read_json

SETTINGS, ENCODER = "recommender.json", "history_encoder.onnx"
TOKENS, PREFIXES = "token_vectors.npy", "prefix_vectors.npy"
FORMAT = 6


@dataclass(frozen=True)
class GraphSettings:
    """What a caller of the two graphs must know; the content of ``recommender.json``.

    Args:
        level_sizes: vocabulary by level, the collision suffix last.
        max_history: newest items that the encoder reads.
        item_width: width of the item vectors and keys.
        dense: whether the dense head was trained.
        hybrid_weight: share of the dense head in the hybrid ranking.
        int8: whether the weights were rounded, and the dense head's keys are to be.
    """

    level_sizes: tuple[int, ...]
    max_history: int
    item_width: int
    dense: bool
    hybrid_weight: float
    int8: bool = False

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


def step_graph(level: int) -> str:
    """The file name of a level's decoder step."""
    return f"decoder_step_{level}.onnx"


class OnnxScorer:
    """A ``CodeScorer`` over the exported graphs: one that reads histories and one for each level but the first.

    Args:
        folder: a model folder that :func:`genrec_core.export.onnx.export_recommender` wrote.
        items: what the encoder reads of each item, float32 [n_items, item_width] by catalogue row.
        keys: what the dense head compares its query with, of the same shape.
        neighbors: items that the dense head's ranking lifts beside those of a history; None for none.
        threads: threads inside an operator.

    Raises:
        GenrecError: a graph is missing or damaged, or the vectors are not as wide as the model wants.
    """

    def __init__(
        self,
        folder: Path,
        items: np.ndarray,
        keys: np.ndarray,
        neighbors: TextNeighbors | None = None,
        threads: int = 1,
    ) -> None:
        self.settings, self.neighbors = GraphSettings.load(folder), neighbors
        width = self.settings.item_width
        for name, array in (("vectors", items), ("keys", keys)):
            if array.ndim != 2 or array.shape[1] != width:
                raise GenrecError(
                    f"{folder}: the model reads item {name} of {width} columns, found shape {array.shape}; "
                    "export it again"
                )
        self.items = np.ascontiguousarray(items, dtype=np.float32)
        by_column = np.ascontiguousarray(keys.T, dtype=np.float32)
        self.keys_product = ConstantProduct(by_column, self.settings.int8)
        self.keys = None if self.settings.int8 else by_column  # for one query, whose product is faster so
        sizes = np.asarray(self.settings.level_sizes, dtype=np.int64)
        # Row 0 of the token vectors starts a code; the tokens of level l follow those of the levels before it.
        self.token_offset = 1 + np.cumsum(sizes) - sizes
        self.tokens, self.prefixes = (read_array(folder / name) for name in (TOKENS, PREFIXES))
        self.encoder = open_graph(folder / ENCODER, threads)
        self.steps = [open_graph(folder / step_graph(level), threads) for level in range(1, len(sizes))]
        self.step_inputs = [[put.name for put in step.get_inputs()] for step in self.steps]
        self.outputs = [[put.name for put in graph.get_outputs()] for graph in (self.encoder, *self.steps)]

    def start(self, histories: HistoryBatch) -> "OnnxSession":
        """Encode the histories of a batch; every one holds at least one item."""
        return OnnxSession(self, histories)


class OnnxSession:
    """The decoding of one batch."""

    def __init__(self, scorer: OnnxScorer, histories: HistoryBatch) -> None:
        self.scorer, self.alone = scorer, histories.alone and len(histories.lengths) == 1
        self.histories = flat = histories.flat()
        inputs = {
            "items": scorer.items.take(flat.rows, axis=0),
            "lengths": flat.lengths,
            "places": flat.places,
            "own": flat.own,
            "newest": flat.newest,
        }
        self.context, self.query, self.logits, *rest = scorer.encoder.run(scorer.outputs[0], inputs)
        layers = len(rest) // 5  # a layer has three inputs of cross-attention, a key and a value
        self.crossed, self.earlier = rest[: 3 * layers], [rest[3 * layers :]]
        self.lineage = BeamAncestry(len(histories.lengths), len(scorer.prefixes))

    def item_logits(self) -> np.ndarray:
        """Logits float32 [B, n_items] by the dense head; see ``ScorerSession``."""
        scorer, query = self.scorer, self.query
        if self.alone and scorer.keys is not None:  # a BLAS copies nothing for one query, and uses several threads
            logits = np.asarray(query @ scorer.keys)
        else:
            logits = scorer.keys_product(query)
        if scorer.neighbors is not None:
            scorer.neighbors.lift(logits, self.histories)
        return logits

    def first(self) -> np.ndarray:
        """Logits float32 [B, level size] of level 0; see ``ScorerSession``."""
        return np.asarray(self.logits)

    def advance(self, tokens: np.ndarray, parents: np.ndarray, users: np.ndarray) -> np.ndarray:
        """Logits float32 [N, level size] of the next level; see ``ScorerSession``."""
        scorer, lineage, level = self.scorer, self.lineage, len(self.earlier)
        rows = tokens + scorer.token_offset[level - 1]
        lineage.descend(rows, parents, users)
        x = scorer.prefixes.take(lineage.prefix, axis=0)  # [N, D]
        x += scorer.tokens.take(rows, axis=0)
        x += self.context if len(self.context) == 1 else self.context.take(users, axis=0)
        inputs = [x, *self.crossed, lineage.places, lineage.own]
        for ancestors, kept in zip(lineage.ancestors, self.earlier, strict=True):
            inputs += [ancestors, *kept]
        names = scorer.step_inputs[level - 1]
        logits, *own = scorer.steps[level - 1].run(scorer.outputs[level], dict(zip(names, inputs, strict=True)))
        self.earlier.append(own)
        return np.asarray(logits)
