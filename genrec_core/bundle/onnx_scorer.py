"""Scores beams with onnxruntime, for the search in :mod:`genrec_core.search.generative`. Needs no torch.

onnxruntime multiplies int8 matrices by instructions that differ between processors. Some of them saturate: they give
another product, without an error. So the export stores the logits of a few histories, and each opening computes them
again.
"""

from pathlib import Path
from typing import Any

import numpy as np

from genrec_core.bundle.model_folder import ENCODER, ITEM_LOGITS, PREFIXES, TOKENS, ModelFolder, ModelItems, step_graph
from genrec_core.data.histories import HistoryBatch, padded
from genrec_core.errors import GenrecError
from genrec_core.graphs import SELF_TEST, open_graph, read_self_test, require_same_answers
from genrec_core.search.beams import BeamAncestry, Lifted
from genrec_core.search.key_index import KeyIndex, KeySketches, Matches, RoundedKeys
from genrec_core.search.neighbors import Neighbors
from genrec_core.search.trie import CodeTrie

# Of a key's largest number as int8. Processors without VNNI add two products of uint8 and int8 in 16 bits, which
# saturate: 2 * 255 * 64 fits, 2 * 255 * 127 does not.
_KEY_STEPS = 64
_HISTORIES, _HISTORY_ITEMS, _SCORED_ITEMS = 4, 5, 256  # of the self-test


class OnnxScorer:
    """A ``CodeScorer`` over the exported graphs: the history encoder and one decoder step a level from 1 on.

    Each operator has one thread: those of a user are too small to share, and batches are decoded in parallel.
    """

    def __init__(self, folder: ModelFolder, items: ModelItems) -> None:
        self.settings = folder.settings
        width = self.settings.item_width
        for name, array in (("vectors", items.vectors), ("keys", items.keys)):
            if array.ndim != 2 or array.shape[1] != width:
                reads = f"the model reads item {name} of {width} columns, found shape {array.shape}"
                raise GenrecError(f"{folder.path}: {reads}; export it again")
        self.items = items.vectors
        self.neighbors = Neighbors.load(folder.path, len(self.items))
        self.index: KeyIndex | None = None
        self.keys: KeysProduct | RoundedKeys
        self.sketches: KeySketches | None = None
        if items.scales is None:
            self.keys = KeysProduct(folder.path / ITEM_LOGITS, items.keys, self.settings.int8)
        else:
            self.keys, self.sketches = RoundedKeys(items.keys, items.scales), folder.sketches()
        sizes = np.asarray(self.settings.level_sizes, dtype=np.int64)
        # Row 0 of the token vectors starts a code; the tokens of level l follow those of the levels before it.
        self.token_offset = 1 + np.cumsum(sizes) - sizes
        self.tokens, self.prefixes = folder.array(TOKENS), folder.array(PREFIXES)
        self.encoder = open_graph(folder.path / ENCODER, threads=1)
        self.steps = [open_graph(folder.path / step_graph(level), threads=1) for level in range(1, len(sizes))]
        self.step_inputs = [[node.name for node in step.get_inputs()] for step in self.steps]
        self.outputs = [[node.name for node in graph.get_outputs()] for graph in (self.encoder, *self.steps)]

    def start(self, histories: HistoryBatch) -> "OnnxSession":
        """Encode the histories of a batch; each holds at least one item."""
        return OnnxSession(self, histories)


class KeysProduct:
    """Logits of all items: queries times the item keys.

    The keys are an input of the graph, as items may be added to the model where ``onnx`` is not installed.

    Args:
        graph: the file that :func:`genrec_core.export.onnx.write_item_logits` wrote.
        keys: float32 [n_items, width].
        int8: round the keys to 7 bits, a scale an item; the graph then rounds the queries too.
    """

    def __init__(self, graph: Path, keys: np.ndarray, int8: bool) -> None:
        self.graph, self.int8 = open_graph(graph, threads=1), int8
        self.keys = rounded_keys(keys) if int8 else {"keys": np.ascontiguousarray(keys, dtype=np.float32)}

    def all_logits(self, queries: np.ndarray) -> np.ndarray:
        """Logits float32 [users, n_items] of queries float32 [users, width]."""
        # In fp32 onnxruntime sums one row in another order than several. So a user alone is computed as two.
        alone = len(queries) == 1 and not self.int8
        rows = np.repeat(queries, 2, axis=0) if alone else queries
        logits = np.asarray(self.graph.run(["logits"], {"queries": rows, **self.keys})[0])
        return logits[: len(queries)]

    def logits(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """The same of the items at catalogue rows int [n], float32 [users, n]."""
        return self.all_logits(queries)[:, rows]


def rounded_keys(keys: np.ndarray) -> dict[str, np.ndarray]:
    """Keys float32 [n, width] as ``keys`` int8 [width, n] and ``scales`` float32 [n]."""
    largest = np.abs(keys).max(axis=1)
    largest = np.where(largest > 0, largest, np.float32(1))
    rounded = np.rint(keys.T * (_KEY_STEPS / largest)).astype(np.int8)
    # In C order, as onnxruntime would copy another order at each call.
    return {"keys": np.ascontiguousarray(rounded), "scales": (largest / _KEY_STEPS).astype(np.float32)}


class OnnxSession:
    """The decoding of one batch."""

    def __init__(self, scorer: OnnxScorer, histories: HistoryBatch) -> None:
        self.scorer = scorer
        self.histories = flat = histories.flat()
        inputs = {
            "items": scorer.items.take(flat.rows, axis=0).astype(np.float32, copy=False),
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
        logits = self.scorer.keys.all_logits(self.query)
        if self.scorer.neighbors is not None:
            self.scorer.neighbors.lift(logits, self.histories)
        return logits

    def matches(self, trie: CodeTrie) -> Matches | None:
        """What finds the best items of a large catalogue; see ``ScorerSession``."""
        scorer = self.scorer
        if isinstance(scorer.keys, KeysProduct):
            return None
        if scorer.index is None:
            scorer.index = KeyIndex(trie, scorer.keys, scorer.sketches)
        return Matches(scorer.index, self.query, self.lifted())

    def lifted(self) -> Lifted | None:
        """The items that the histories lift; see ``ScorerSession``."""
        neighbors = self.scorer.neighbors
        return None if neighbors is None else neighbors.lifted(self.histories)

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
        for ancestors, keys_and_values in zip(lineage.ancestors, self.earlier, strict=True):
            inputs += [ancestors, *keys_and_values]
        names = scorer.step_inputs[level - 1]
        logits, *own = scorer.steps[level - 1].run(scorer.outputs[level], dict(zip(names, inputs, strict=True)))
        self.earlier.append(own)
        return np.asarray(logits)


def write_self_test(path: Path) -> None:
    """Store logits of the model in the folder ``path``, before the folder's manifest is written."""
    folder = ModelFolder(path)
    items, random = folder.items(), np.random.default_rng(0)
    shapes = ((_HISTORIES, _HISTORY_ITEMS), _HISTORIES, _SCORED_ITEMS)
    rows, followers, scored = (random.integers(len(items.codes), size=shape) for shape in shapes)
    inputs: dict[str, Any] = {"rows": rows, "targets": items.codes[followers].astype(np.int64), "items": scored}
    np.savez(path / SELF_TEST, answers=_logits(OnnxScorer(folder, items), **inputs), **inputs)


def require_self_test(path: Path, scorer: OnnxScorer) -> None:
    """Compare the logits of ``scorer`` with those stored in its folder ``path``. Added items do not matter."""
    inputs, answers = read_self_test(path, ("rows", "targets", "items"))
    require_same_answers(path, answers, _logits(scorer, **inputs))


def _logits(scorer: OnnxScorer, rows: np.ndarray, targets: np.ndarray, items: np.ndarray) -> np.ndarray:
    """All logits that the graphs give for some histories, float32 [n], without text neighbours: new items move these.

    Args:
        rows: catalogue rows of the histories, int64 [batch, items].
        targets: the code that follows each history, int64 [batch, depth].
        items: catalogue rows that the dense head scores, int64 [items].
    """
    users = np.arange(len(rows))
    session = scorer.start(padded(list(rows), scorer.settings.max_history))
    logits = [session.first()]
    logits += [session.advance(targets[:, level], users, users) for level in range(len(scorer.steps))]
    logits.append(scorer.keys.logits(session.query, items))
    return np.concatenate([level.ravel() for level in logits])
