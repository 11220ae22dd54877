"""Items like given items: by the model's keys, by text, or by semantic ID."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from genrec_core.search.key_index import RoundedKeys
from genrec_core.search.trie import CodeTrie

SimilarBy = Literal["model", "text", "codes"]
_CHUNK = 1 << 12  # vectors in float32 at once, which should fit a core's cache


@dataclass(frozen=True)
class Similar:
    """Items like others, the most similar first."""

    items: np.ndarray  # item ids, int64 or text [at most k]
    scores: np.ndarray  # cosines; by codes: how many first numbers of the semantic ID are shared; float32 [at most k]


class Directions:
    """Vectors of all items, compared by their cosine. A comparison reads all of them once.

    Args:
        vectors: by catalogue row, floats [n_items, width] of any length, or rounded.
    """

    def __init__(self, vectors: np.ndarray | RoundedKeys) -> None:
        self._vectors = vectors

    def cosines(self, rows: np.ndarray) -> np.ndarray:
        """The cosine of each item and the mean direction of those at ``rows``, float32 [n_items]."""
        given = np.concatenate([self._part(row, row + 1) for row in rows.tolist()])
        query = _of_length_one(_of_length_one(given).mean(axis=0, keepdims=True))[0]
        products = np.concatenate([self._part(begin, end) @ query for begin, end in self._bounds])
        return np.asarray(products / self._lengths)  # the scale of a rounded vector is no part of its direction

    @property
    def _bounds(self) -> list[tuple[int, int]]:
        items = len(self._vectors.steps if isinstance(self._vectors, RoundedKeys) else self._vectors)
        return [(begin, min(begin + _CHUNK, items)) for begin in range(0, items, _CHUNK)]

    @cached_property
    def _lengths(self) -> np.ndarray:
        """Lengths of the vectors float32 [n_items], 1 for that of a zero vector."""
        lengths = np.concatenate([np.linalg.norm(self._part(*bounds), axis=1) for bounds in self._bounds])
        return np.where(lengths > 0, lengths, np.float32(1))

    def _part(self, begin: int, end: int) -> np.ndarray:
        """The vectors of some rows, float32 [end - begin, width]."""
        if isinstance(self._vectors, RoundedKeys):
            return np.asarray(self._vectors.steps[begin:end].astype(np.float32))
        return np.asarray(self._vectors[begin:end], dtype=np.float32)


def most_shared_levels(trie: CodeTrie, rows: np.ndarray) -> np.ndarray:
    """First numbers of the semantic ID that each item shares with the nearest of those at ``rows``, int64 [n_items]."""
    shared = np.zeros(trie.n_items, dtype=np.int64)
    for nodes in trie.leaf_node[1:]:
        above = np.zeros(int(nodes[-1]) + 1, dtype=bool)
        above[nodes[trie.row_leaf[rows]]] = True
        shared += above[nodes]
    return np.asarray(shared[trie.row_leaf])


def best_rows(scores: np.ndarray, open_: np.ndarray, k: int) -> np.ndarray:
    """The ``k`` of the ``open_`` rows with the highest ``scores`` [n_items], best first; of equals the lower row."""
    rows = open_.nonzero()[0]
    if len(rows) > k:
        edge = np.partition(scores[rows], len(rows) - k)[len(rows) - k]
        rows = rows[scores[rows] >= edge]
    return np.asarray(rows[np.argsort(-scores[rows], kind="stable")][:k])


def _of_length_one(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1), dtype=np.float32)
