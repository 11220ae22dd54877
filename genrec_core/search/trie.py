"""The catalogue's semantic IDs as a trie of flat arrays.

The nodes of a depth are numbered in the lexicographic order of their prefixes. So the children of a node are a range of
nodes, and the leaves below a node are a range of leaves. Depth 0 is the root. Depth L holds one leaf for each item.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from genrec_core.errors import GenrecError


@dataclass(frozen=True)
class CodeTrie:
    """All valid codes.

    Args:
        level_sizes: vocabulary size of each of the L levels.
        tokens: for each depth 1..L (index 0 is depth 1), the last token of each node's prefix. The type is the smallest
            unsigned integer that holds the level; convert before arithmetic.
        child_start: for each depth 0..L-1, node ``n`` owns nodes ``child_start[n]:child_start[n + 1]`` of the next
            depth, int32.
        first_leaf: for each depth 0..L, node ``n`` owns leaves ``first_leaf[n]:first_leaf[n + 1]``, int32.
        leaf_row: catalogue row of each leaf, int32 [n_items].
        row_leaf: leaf of each catalogue row, int32 [n_items].
    """

    level_sizes: tuple[int, ...]
    tokens: list[np.ndarray]
    child_start: list[np.ndarray]
    first_leaf: list[np.ndarray]
    leaf_row: np.ndarray
    row_leaf: np.ndarray

    @classmethod
    def build(cls, codes: np.ndarray, level_sizes: tuple[int, ...] | list[int]) -> "CodeTrie":
        """Build the trie of codes, int [n_items, L]."""
        fits = codes.size and codes.ndim == 2 and codes.shape[1] == len(level_sizes) and codes.min() >= 0
        if not fits or (codes.max(axis=0) >= level_sizes).any():
            raise GenrecError(f"codes of shape {codes.shape} do not fit levels of {level_sizes}; rebuild semantic_ids")
        columns = [codes[:, level].astype(np.min_scalar_type(size - 1)) for level, size in enumerate(level_sizes)]
        order = np.lexsort(columns[::-1]).astype(np.int32)
        tokens, first_leaf = [], [np.array([0, len(codes)], dtype=np.int32)]
        begins = np.arange(len(codes)) == 0  # where a leaf's prefix differs from the prefix of the leaf before
        for column in columns:
            ordered = column[order]
            begins[1:] |= ordered[1:] != ordered[:-1]
            starts = np.flatnonzero(begins)
            tokens.append(ordered[starts])
            first_leaf.append(np.append(starts, len(codes)).astype(np.int32))
        if not begins.all():
            shared = codes[order[~begins][0]].tolist()
            raise GenrecError(f"several items share the code {shared}; rebuild semantic_ids, which gives each a suffix")
        child_start = [np.searchsorted(below, above).astype(np.int32) for above, below in pairwise(first_leaf[:-1])]
        child_start.append(first_leaf[-2])  # the nodes of depth L are the leaves
        row_leaf = np.empty(len(codes), dtype=np.int32)
        row_leaf[order] = np.arange(len(codes), dtype=np.int32)
        return cls(tuple(level_sizes), tokens, child_start, first_leaf, order, row_leaf)

    @property
    def depth(self) -> int:
        """Levels of a code, L."""
        return len(self.level_sizes)

    @property
    def n_items(self) -> int:
        """Number of leaves."""
        return len(self.leaf_row)

    @cached_property
    def leaf_node(self) -> list[np.ndarray]:
        """For each depth 0..L, the node above each leaf, int32 [n_items]."""
        return [np.arange(len(starts) - 1, dtype=np.int32).repeat(np.diff(starts)) for starts in self.first_leaf]

    @cached_property
    def branching(self) -> list[np.ndarray]:
        """For each depth 0..L, whether a node has more than one leaf below it, bool."""
        return [np.diff(starts) > 1 for starts in self.first_leaf]

    def nodes(self, depth: int) -> int:
        """Number of distinct prefixes of ``depth`` tokens."""
        return len(self.first_leaf[depth]) - 1

    def lookup(self, codes: np.ndarray) -> np.ndarray:
        """Catalogue row of each code, int32 [...], for codes int [..., L]; -1 where no item has the code."""
        node = np.zeros(codes.shape[:-1], dtype=np.int64)
        for level, size in enumerate(self.level_sizes):
            token = codes[..., level].astype(np.int64)
            parents = np.arange(self.nodes(level)).repeat(np.diff(self.child_start[level]))
            keys = parents * size + self.tokens[level]  # ascending
            key = node * size + token
            child = np.searchsorted(keys, key).clip(max=len(keys) - 1)
            is_there = (node >= 0) & (token >= 0) & (token < size) & (keys[child] == key)
            node = np.where(is_there, child, -1)
        return np.where(node >= 0, self.leaf_row[node], -1).astype(np.int32)
