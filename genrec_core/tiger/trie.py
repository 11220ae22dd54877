"""The catalogue's semantic IDs as a trie of flat arrays.

The nodes of a depth are numbered in the lexicographic order of their prefixes, so the children of a node, and the
leaves below it, are contiguous ranges. Depth 0 is the root, depth L holds one leaf an item.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from genrec_core.errors import GenrecError


@dataclass(frozen=True)
class CodeTrie:
    """All valid codes.

    Args:
        level_sizes: vocabulary by level, as long as a code.
        tokens: by depth 1..L (index 0 is depth 1), the last token of each node's prefix, int32 [nodes at that depth].
        child_start: by depth 0..L-1, node ``n`` owns nodes ``child_start[n]:child_start[n + 1]`` of the next depth.
        first_leaf: by depth 0..L, node ``n`` owns leaves ``first_leaf[n]:first_leaf[n + 1]``.
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
        """Build from codes, int [n_items, L].

        Raises:
            GenrecError: there is no item, a token is outside its level, or two items share a code.
        """
        _check_tokens(codes, level_sizes)
        order = np.lexsort(codes.T[::-1]).astype(np.int32)
        ordered = codes[order]
        changes = ordered[1:] != ordered[:-1]  # [n_items - 1, L]
        new_prefix = np.logical_or.accumulate(changes, axis=1)
        _check_unique(new_prefix, order, ordered)
        first_leaf = [np.array([0, len(codes)], dtype=np.int32)]
        for level in range(codes.shape[1]):
            starts = np.concatenate([[0], np.flatnonzero(new_prefix[:, level]) + 1, [len(codes)]])
            first_leaf.append(starts.astype(np.int32))
        row_leaf = np.empty(len(codes), dtype=np.int32)
        row_leaf[order] = np.arange(len(codes), dtype=np.int32)
        return cls(
            level_sizes=tuple(level_sizes),
            tokens=[ordered[starts[:-1], level].astype(np.int32) for level, starts in enumerate(first_leaf[1:])],
            child_start=[np.searchsorted(below, above).astype(np.int32) for above, below in pairwise(first_leaf)],
            first_leaf=first_leaf,
            leaf_row=order,
            row_leaf=row_leaf,
        )

    @property
    def depth(self) -> int:
        """Levels of a code."""
        return len(self.level_sizes)

    @property
    def n_items(self) -> int:
        """Leaves."""
        return len(self.leaf_row)

    def nodes(self, depth: int) -> int:
        """Distinct prefixes of ``depth`` tokens."""
        return len(self.first_leaf[depth]) - 1

    def leaves(self, depth: int, nodes: np.ndarray) -> np.ndarray:
        """How many leaves lie below each node."""
        starts = self.first_leaf[depth]
        return np.asarray(starts[nodes + 1] - starts[nodes])

    def lookup(self, codes: np.ndarray) -> np.ndarray:
        """Catalogue row of each code, int32 [...]; -1 where it is no item's. Codes int [..., L]."""
        node = np.zeros(codes.shape[:-1], dtype=np.int64)
        for level in range(self.depth):
            token = codes[..., level]
            size = self.level_sizes[level]
            parents = np.repeat(np.arange(self.nodes(level)), np.diff(self.child_start[level]))
            keys = parents * size + self.tokens[level]  # sorted, for the nodes are in lexicographic order
            wanted = node * size + token
            found = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
            valid = (node >= 0) & (token >= 0) & (token < size) & (keys[found] == wanted)
            node = np.where(valid, found, -1)
        return np.where(node >= 0, self.leaf_row[node], -1).astype(np.int32)

    def live_leaves(self, allowed: np.ndarray | None) -> list[np.ndarray]:
        """By depth 0..L, the leaves below each node that are allowed: a mask on the leaves, propagated upward.

        Args:
            allowed: bool [n_items] by catalogue row; None allows all.
        """
        if allowed is None:
            return [np.diff(starts) for starts in self.first_leaf]
        count = np.concatenate([[0], np.cumsum(allowed[self.leaf_row])])
        return [np.diff(count[starts]) for starts in self.first_leaf]

    def dead_nodes(self, excluded: np.ndarray, live: list[np.ndarray]) -> list[np.ndarray]:
        """By depth 0..L, the nodes that lose their last live leaf to a user's own exclusions.

        Args:
            excluded: rows that each user may not get, int [batch, m], -1 padded.
            live: from :meth:`live_leaves`.

        Returns:
            Sorted keys ``user * nodes(depth) + node``, int64.
        """
        user, column = np.nonzero(excluded >= 0)
        leaf = self.row_leaf[excluded[user, column]]
        keys = np.unique(user.astype(np.int64) * self.n_items + leaf)
        user, leaf = np.divmod(keys, self.n_items)
        counted = live[-1][leaf] > 0
        user, leaf = user[counted], leaf[counted]
        dead = []
        for depth, starts in enumerate(self.first_leaf):
            node = np.searchsorted(starts, leaf, side="right") - 1
            nodes, lost = np.unique(user * self.nodes(depth) + node, return_counts=True)
            dead.append(nodes[lost == live[depth][nodes % self.nodes(depth)]])
        return dead


def _check_tokens(codes: np.ndarray, level_sizes: tuple[int, ...] | list[int]) -> None:
    if codes.ndim != 2 or codes.shape[1] != len(level_sizes) or len(codes) == 0:
        raise GenrecError(f"codes of shape {codes.shape} do not fit {len(level_sizes)} levels of at least one item")
    outside = (codes < 0) | (codes >= np.asarray(level_sizes))
    if outside.any():
        row, level = np.argwhere(outside)[0].tolist()
        raise GenrecError(
            f"row {row}: token {codes[row, level]} of level {level} is outside 0..{level_sizes[level] - 1}; "
            "rebuild semantic_ids"
        )


def _check_unique(new_prefix: np.ndarray, order: np.ndarray, ordered: np.ndarray) -> None:
    same = np.flatnonzero(~new_prefix[:, -1])
    if len(same):
        first = int(same[0])
        raise GenrecError(
            f"rows {order[first]} and {order[first + 1]} share the code {ordered[first].tolist()} "
            f"({len(same)} collisions); give them a suffix (rebuild semantic_ids)"
        )
