"""The array trie against Python sets of prefixes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_core.errors import GenrecError
from genrec_core.tiger.trie import CodeTrie

SIZES = (4, 3, 5)
EVERY = np.stack(np.unravel_index(np.arange(60), SIZES), axis=1)
code_sets = st.lists(st.integers(0, 59), min_size=1, max_size=60, unique=True).map(lambda chosen: EVERY[chosen])


@settings(max_examples=60, deadline=None)
@given(code_sets)
def test_every_node_is_a_prefix_and_its_children_continue_it(codes):
    trie = CodeTrie.build(codes, SIZES)
    prefixes: list[tuple[int, ...]] = [()]
    for level in range(trie.depth):
        starts = trie.child_start[level]
        children = [
            (*prefix, int(trie.tokens[level][child]))
            for node, prefix in enumerate(prefixes)
            for child in range(starts[node], starts[node + 1])
        ]
        assert children == sorted({tuple(code[: level + 1]) for code in codes.tolist()})
        prefixes = children
    assert [tuple(codes[row]) for row in trie.leaf_row] == prefixes


@settings(max_examples=60, deadline=None)
@given(code_sets)
def test_lookup_finds_items_and_nothing_else(codes):
    trie = CodeTrie.build(codes, SIZES)
    rows = {tuple(code): row for row, code in enumerate(codes.tolist())}
    asked = np.stack(np.meshgrid(*[np.arange(-2, size + 2) for size in SIZES], indexing="ij"), axis=-1)
    wanted = [rows.get(tuple(code), -1) for code in asked.reshape(-1, 3).tolist()]
    assert trie.lookup(asked).reshape(-1).tolist() == wanted


@settings(max_examples=60, deadline=None)
@given(code_sets, st.data())
def test_a_node_dies_when_its_last_allowed_leaf_is_excluded(codes, data):
    trie = CodeTrie.build(codes, SIZES)
    allowed = np.array(data.draw(st.lists(st.booleans(), min_size=len(codes), max_size=len(codes))))
    excluded = np.array([data.draw(st.lists(st.integers(-1, len(codes) - 1), min_size=6, max_size=6)) for _ in "ab"])
    live = trie.live_leaves(allowed)
    dead = trie.dead_nodes(excluded, live)
    for depth in range(trie.depth + 1):
        for node in range(trie.nodes(depth)):
            begin, end = trie.first_leaf[depth][node : node + 2]
            below = {int(row) for row in trie.leaf_row[begin:end] if allowed[row]}
            assert live[depth][node] == len(below)
            for user in range(2):
                gone = bool(below) and below <= set(excluded[user].tolist())
                assert (user * trie.nodes(depth) + node in dead[depth]) == gone


def test_a_collision_is_refused_and_named():
    with pytest.raises(GenrecError, match=r"rows 0 and 2 share the code \[1, 1, 1\]"):
        CodeTrie.build(np.array([[1, 1, 1], [0, 0, 0], [1, 1, 1]]), SIZES)


def test_a_token_outside_its_level_is_refused_and_named():
    with pytest.raises(GenrecError, match=r"row 1: token 3 of level 1 is outside 0\.\.2"):
        CodeTrie.build(np.array([[0, 0, 0], [0, 3, 0]]), SIZES)


def test_an_empty_catalogue_is_refused():
    with pytest.raises(GenrecError, match="at least one item"):
        CodeTrie.build(np.zeros((0, 3), int), SIZES)


def test_a_catalogue_of_beauty_size_is_built_whole():
    random = np.random.default_rng(2)
    codes = np.unique(random.integers(0, 256, (12_101, 4)), axis=0)
    codes = codes[random.permutation(len(codes))]
    trie = CodeTrie.build(codes, (256,) * 4)
    np.testing.assert_array_equal(trie.lookup(codes), np.arange(len(codes)))
    np.testing.assert_array_equal(trie.leaf_row[trie.row_leaf], np.arange(len(codes)))
    assert [int(trie.leaves(depth, np.arange(trie.nodes(depth))).sum()) for depth in range(5)] == [len(codes)] * 5
