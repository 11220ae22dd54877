"""The catalogue's semantic IDs as a trie of flat arrays.

The nodes of a depth are numbered in the lexicographic order of their prefixes, so the children of a node, and the
leaves below it, are contiguous ranges. Depth 0 is the root, depth L holds one leaf an item. Below the first levels,
whose children stand in dense tables, a child is found by bisecting its siblings.

Source: youtube/static-constraint-decoding (STATIC), for dense tables of the first levels over flat arrays of the rest.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from genrec_core.errors import GenrecError

_MOST_ITEMS = np.iinfo(np.int32).max - 1  # nodes and leaves are int32
_KEY_BITS = 64


@dataclass(frozen=True)
class CodeTrie:
    """All valid codes.

    Args:
        level_sizes: vocabulary by level, as long as a code.
        tokens: by depth 1..L (index 0 is depth 1), the last token of each node's prefix, of the smallest unsigned type
            that holds its level; convert before arithmetic.
        child_start: by depth 0..L-1, node ``n`` owns nodes ``child_start[n]:child_start[n + 1]`` of the next depth,
            int32.
        inner_first_leaf: :attr:`first_leaf` of depths 0..L-1, int32; the last is the last ``child_start``.
        dense: by depth from 0, as far as tables are no larger than the catalogue: the child for every token, or -1,
            int32 [nodes at that depth, level size].
        leaf_row: catalogue row of each leaf, int32 [n_items].
        row_leaf: leaf of each catalogue row, int32 [n_items].
    """

    level_sizes: tuple[int, ...]
    tokens: list[np.ndarray]
    child_start: list[np.ndarray]
    inner_first_leaf: list[np.ndarray]
    dense: list[np.ndarray]
    leaf_row: np.ndarray
    row_leaf: np.ndarray

    @classmethod
    def build(cls, codes: np.ndarray, level_sizes: tuple[int, ...] | list[int]) -> "CodeTrie":
        """Build from codes, int [n_items, L]; items added later are built in by building again.

        Raises:
            GenrecError: there is no item, or there are 2^31 or more; a token is outside its level, or two items share a
                code.
        """
        _check_tokens(codes, level_sizes)
        order = _lexicographic_order(codes, level_sizes)
        tokens, first_leaf = _nodes_by_depth(codes, order, level_sizes)
        # The nodes of depth L are the leaves, so those of depth L - 1 own children as they own leaves.
        child_start = [np.searchsorted(below, above).astype(np.int32) for above, below in pairwise(first_leaf)]
        child_start.append(first_leaf[-1])
        row_leaf = np.empty(len(codes), dtype=np.int32)
        row_leaf[order] = np.arange(len(codes), dtype=np.int32)
        dense = _dense_tables(tokens, child_start, level_sizes, len(codes))
        return cls(tuple(level_sizes), tokens, child_start, first_leaf, dense, order, row_leaf)

    @property
    def depth(self) -> int:
        """Levels of a code."""
        return len(self.level_sizes)

    @property
    def n_items(self) -> int:
        """Leaves."""
        return len(self.leaf_row)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        starts = *self.child_start[:-1], *self.inner_first_leaf  # which share their last array
        return sum(array.nbytes for array in (*self.tokens, *starts, *self.dense, self.leaf_row, self.row_leaf))

    @cached_property
    def first_leaf(self) -> list[np.ndarray]:
        """By depth 0..L, node ``n`` owns leaves ``first_leaf[n]:first_leaf[n + 1]``, int32."""
        return [*self.inner_first_leaf, np.arange(self.n_items + 1, dtype=np.int32)]

    @cached_property
    def branch_sizes(self) -> np.ndarray:
        """How many leaves lie below each node of depth 1, int32."""
        return np.diff(self.first_leaf[1])

    @cached_property
    def leaf_node(self) -> list[np.ndarray]:
        """By depth 0..L, the node above each leaf, int32 [n_items]."""
        inner = [np.arange(len(starts) - 1, dtype=np.int32).repeat(np.diff(starts)) for starts in self.inner_first_leaf]
        return [*inner, np.arange(self.n_items, dtype=np.int32)]

    @cached_property
    def branching(self) -> list[np.ndarray]:
        """By depth 0..L-1, whether more than one leaf lies below each node, bool."""
        return [np.diff(starts) > 1 for starts in self.inner_first_leaf]

    def nodes(self, depth: int) -> int:
        """Distinct prefixes of ``depth`` tokens."""
        return self.n_items if depth == self.depth else len(self.inner_first_leaf[depth]) - 1

    def leaves(self, depth: int, nodes: np.ndarray) -> np.ndarray:
        """How many leaves lie below each node."""
        if depth == self.depth:
            return np.ones(np.shape(nodes), dtype=np.int32)
        starts = self.inner_first_leaf[depth]
        return np.asarray(starts.take(nodes + 1) - starts.take(nodes))

    def child(self, depth: int, nodes: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """The child that each token leads to, int64 [...]; -1 where it leads to none.

        Args:
            depth: of the nodes, in 0..L-1.
            nodes: int [...]; -1 for none.
            tokens: int [...] of any value.
        """
        size = self.level_sizes[depth]
        valid = (nodes >= 0) & (tokens >= 0) & (tokens < size)
        node, token = np.where(valid, nodes, 0), np.where(valid, tokens, 0)
        if depth < len(self.dense):
            return np.where(valid, self.dense[depth][node, token], -1).astype(np.int64)
        starts, siblings = self.child_start[depth], self.tokens[depth]
        low, end = starts[node].astype(np.int64), starts[node + 1].astype(np.int64)
        high = end
        for _ in range(int((high - low).max(initial=0)).bit_length()):
            middle = (low + high) // 2
            below = (low < high) & (siblings[np.minimum(middle, len(siblings) - 1)] < token)
            low, high = np.where(below, middle + 1, low), np.where(below, high, middle)
        found = valid & (low < end) & (siblings[np.minimum(low, len(siblings) - 1)] == token)
        return np.where(found, low, -1)

    def lookup(self, codes: np.ndarray) -> np.ndarray:
        """Catalogue row of each code, int32 [...]; -1 where it is no item's. Codes int [..., L]."""
        node = np.zeros(codes.shape[:-1], dtype=np.int64)
        for level in range(self.depth):
            node = self.child(level, node, codes[..., level])
        return np.where(node >= 0, self.leaf_row[node], -1).astype(np.int32)

    @cached_property
    def all_live(self) -> "LiveLeaves":
        """Every leaf allowed."""
        return LiveLeaves(self, None)

    def live_leaves(self, allowed: np.ndarray | None) -> "LiveLeaves":
        """The leaves that are allowed, counted below each node.

        Args:
            allowed: bool [n_items] by catalogue row; None allows all, which costs nothing.
        """
        return self.all_live if allowed is None else LiveLeaves(self, allowed[self.leaf_row])

    def dead_nodes(self, excluded: np.ndarray, live: "LiveLeaves") -> list[np.ndarray]:
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
        if live.allowed is not None:
            counted = live.allowed[leaf]
            user, leaf, keys = user[counted], leaf[counted], keys[counted]
        dead = []
        for depth, starts in enumerate(self.inner_first_leaf):
            node = np.searchsorted(starts, leaf, side="right") - 1
            above = user * self.nodes(depth) + node  # sorted, as the leaves are
            first = np.flatnonzero(np.concatenate(([True], above[1:] != above[:-1]))) if len(above) else above
            lost = np.diff(first, append=len(above))
            dead.append(above[first[lost == live.count(depth, node[first])]])
        return [*dead, keys]


class LiveLeaves:
    """How many allowed leaves lie below each node: a mask on the leaves, propagated upward.

    Counts of a depth are made when they are first asked for and then kept.

    Args:
        trie: the catalogue.
        allowed: bool [n_items] by leaf; None for all of them, which needs no array.
    """

    def __init__(self, trie: CodeTrie, allowed: np.ndarray | None) -> None:
        self.trie, self.allowed = trie, allowed
        self._counts: dict[int, np.ndarray] = {}

    def __getitem__(self, depth: int) -> np.ndarray:
        """Counts of all nodes of a depth in 0..L, int [nodes]."""
        if depth not in self._counts:
            self._counts[depth] = self._counted(depth)
        return self._counts[depth]

    def count(self, depth: int, nodes: np.ndarray) -> np.ndarray:
        """Counts of some nodes; needs no array of all of them where every leaf is allowed."""
        return self.trie.leaves(depth, nodes) if self.allowed is None else np.asarray(self[depth][nodes])

    def _counted(self, depth: int) -> np.ndarray:
        if self.allowed is None:
            if depth == self.trie.depth:
                return np.broadcast_to(np.int8(1), self.trie.n_items)
            return np.diff(self.trie.inner_first_leaf[depth])
        if depth == self.trie.depth:
            return self.allowed.view(np.int8)
        return np.add.reduceat(self[depth + 1], self.trie.child_start[depth][:-1], dtype=np.int32)


def _lexicographic_order(codes: np.ndarray, level_sizes: tuple[int, ...] | list[int]) -> np.ndarray:
    """Rows int32 [n_items] in the order of their codes; a code is sorted as one integer where it fits 64 bits.

    Raises:
        GenrecError: two items share a code.
    """
    bits = [int(size - 1).bit_length() for size in level_sizes]
    if sum(bits) > _KEY_BITS:
        order = np.lexsort(codes.T[::-1]).astype(np.int32)
        same = (codes[order[1:]] == codes[order[:-1]]).all(axis=1)
    else:
        keys = np.zeros(len(codes), dtype=np.uint64)
        for level, width in enumerate(bits):
            keys <<= np.uint64(width)
            keys |= codes[:, level].astype(np.uint64)
        order = np.argsort(keys).astype(np.int32)
        ordered = keys[order]
        same = ordered[1:] == ordered[:-1]
    _require_unique(codes, order, same)
    return order


def _nodes_by_depth(
    codes: np.ndarray, order: np.ndarray, level_sizes: tuple[int, ...] | list[int]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """``tokens`` of depths 1..L, and ``first_leaf`` of depths 0..L-1."""
    tokens, first_leaf = [], [np.array([0, len(codes)], dtype=np.int32)]
    begins = np.zeros(len(codes), dtype=bool)  # where the prefix differs from that of the leaf before
    begins[0] = True
    for level, size in enumerate(level_sizes):
        column = codes[:, level].astype(np.min_scalar_type(size - 1))[order]
        begins[1:] |= column[1:] != column[:-1]
        if level + 1 == len(level_sizes):
            tokens.append(column)
        else:
            starts = np.flatnonzero(begins)
            tokens.append(column[starts])
            first_leaf.append(np.append(starts, len(codes)).astype(np.int32))
    return tokens, first_leaf


def _dense_tables(
    tokens: list[np.ndarray], child_start: list[np.ndarray], level_sizes: tuple[int, ...] | list[int], n_items: int
) -> list[np.ndarray]:
    """The first levels' tables, as long as each has no more entries than there are items."""
    tables: list[np.ndarray] = []
    for token, starts, size in zip(tokens, child_start, level_sizes, strict=True):
        nodes = len(starts) - 1
        if nodes * size > n_items:
            break
        table = np.full((nodes, size), -1, dtype=np.int32)
        table[np.repeat(np.arange(nodes), np.diff(starts)), token] = np.arange(len(token), dtype=np.int32)
        tables.append(table)
    return tables


def _check_tokens(codes: np.ndarray, level_sizes: tuple[int, ...] | list[int]) -> None:
    if codes.ndim != 2 or codes.shape[1] != len(level_sizes) or codes.size == 0:
        raise GenrecError(f"codes of shape {codes.shape} do not fit {len(level_sizes)} levels of at least one item")
    if len(codes) > _MOST_ITEMS:
        raise GenrecError(f"{len(codes)} items are more than a trie holds, {_MOST_ITEMS}; split the catalogue")
    for level, size in enumerate(level_sizes):
        column = codes[:, level]
        if column.min() < 0 or column.max() >= size:
            row = int(np.flatnonzero((column < 0) | (column >= size))[0])
            raise GenrecError(
                f"row {row}: token {column[row]} of level {level} is outside 0..{size - 1}; rebuild semantic_ids"
            )


def _require_unique(codes: np.ndarray, order: np.ndarray, same: np.ndarray) -> None:
    """Refuse equal codes; ``same``: whether a leaf has the code of the one before it, bool [n_items - 1]."""
    places = np.flatnonzero(same)
    if len(places):
        code = codes[order[places[0]]]
        rows = np.flatnonzero((codes == code).all(axis=1))[:2].tolist()
        raise GenrecError(
            f"rows {rows[0]} and {rows[1]} share the code {code.tolist()} "
            f"({len(places)} collisions); give them a suffix (rebuild semantic_ids)"
        )
