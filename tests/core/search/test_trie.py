"""The array trie against Python sets of prefixes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_core.errors import GenrecError
from genrec_core.search.trie import CodeTrie
from tests.benchmarks.trie import trie_bytes

SIZES = (4, 3, 5)
EVERY = np.stack(np.unravel_index(np.arange(60), SIZES), axis=1)
code_sets = st.lists(st.integers(0, 59), min_size=1, max_size=60, unique=True).map(lambda chosen: EVERY[chosen])


@st.composite
def catalogues(draw: st.DrawFn) -> tuple[np.ndarray, tuple[int, ...]]:
    """Codes of one to four levels, few or many of those there are."""
    sizes = tuple(draw(st.lists(st.integers(1, 6), min_size=1, max_size=4)))
    every = np.stack(np.unravel_index(np.arange(np.prod(sizes)), sizes), axis=1)
    chosen = draw(st.lists(st.integers(0, len(every) - 1), min_size=1, max_size=50, unique=True))
    return every[chosen], sizes


def arrays_of(trie: CodeTrie) -> list[np.ndarray]:
    parts = (trie.tokens, trie.child_start, trie.first_leaf, [trie.leaf_row, trie.row_leaf])
    return [array for part in parts for array in part]


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
@given(catalogues())
def test_lookup_finds_items_and_nothing_else(catalogue):
    codes, sizes = catalogue
    trie = CodeTrie.build(codes, sizes)
    rows = {tuple(code): row for row, code in enumerate(codes.tolist())}
    asked = np.stack(np.meshgrid(*[np.arange(-2, size + 2) for size in sizes], indexing="ij"), axis=-1)
    wanted = [rows.get(tuple(code), -1) for code in asked.reshape(-1, len(sizes)).tolist()]
    assert trie.lookup(asked).reshape(-1).tolist() == wanted


@settings(max_examples=60, deadline=None)
@given(catalogues())
def test_the_leaves_of_a_node_are_the_items_with_its_prefix(catalogue):
    codes, sizes = catalogue
    trie = CodeTrie.build(codes, sizes)
    for depth in range(len(sizes) + 1):
        prefixes = [tuple(code[:depth]) for code in codes.tolist()]
        number = {prefix: node for node, prefix in enumerate(sorted(set(prefixes)))}
        counts = [prefixes.count(prefix) for prefix in sorted(set(prefixes))]
        assert trie.nodes(depth) == len(number)
        assert np.diff(trie.first_leaf[depth]).tolist() == counts
        assert trie.branching[depth].tolist() == [count > 1 for count in counts]
        assert trie.leaf_node[depth][trie.row_leaf].tolist() == [number[prefix] for prefix in prefixes]


@pytest.mark.parametrize(("size", "kind"), [(2, "uint8"), (256, "uint8"), (257, "uint16"), (65_537, "uint32")])
def test_tokens_take_the_smallest_type_that_holds_their_level(size, kind):
    trie = CodeTrie.build(np.array([[size - 1, 0], [0, 1]]), (size, 2))
    assert [tokens.dtype for tokens in trie.tokens] == [kind, "uint8"]
    assert trie.tokens[0].tolist() == [0, size - 1]
    assert trie.lookup(np.array([[size - 1, 0], [size, 0]])).tolist() == [0, -1]


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int64, np.uint64])
def test_codes_of_any_integer_type_give_the_same_trie(kind):
    wanted = arrays_of(CodeTrie.build(EVERY[::-1], SIZES))
    for ours, theirs in zip(arrays_of(CodeTrie.build(EVERY[::-1].astype(kind), SIZES)), wanted, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_codes_that_no_integer_holds_are_sorted_all_the_same():
    random = np.random.default_rng(4)
    sizes = (1 << 20,) * 4
    codes = np.concatenate([random.integers(0, 1 << 20, (500, 4)), np.tile([[1 << 19, 7, 7, 7]], (3, 1))])
    codes[-3:, 3] = [9, 5, 7]
    trie = CodeTrie.build(codes, sizes)
    assert [tuple(codes[row]) for row in trie.leaf_row] == sorted(map(tuple, codes.tolist()))
    with pytest.raises(GenrecError, match="several items share the code"):
        CodeTrie.build(np.concatenate([codes[:-1], codes[-3:-2]]), sizes)


def test_a_catalogue_of_one_item_and_one_level_is_a_trie():
    trie = CodeTrie.build(np.array([[2]]), (3,))
    assert (trie.nodes(0), trie.nodes(1)) == (1, 1)
    assert trie.lookup(np.array([[2], [1]])).tolist() == [0, -1]
    assert trie.branching[1].tolist() == [False]


@pytest.mark.parametrize("codes", [np.array([2, 3]), np.array([[1], [2]]), np.array([[0, 0, 9]]), np.zeros((0, 3))])
def test_codes_that_do_not_fit_the_levels_are_refused(codes):
    with pytest.raises(GenrecError, match=r"codes of shape \(.*\) do not fit levels of"):
        CodeTrie.build(codes, SIZES)


def test_a_collision_is_refused():
    with pytest.raises(GenrecError, match=r"several items share the code \[1, 1, 1\]"):
        CodeTrie.build(np.array([[1, 1, 1], [0, 0, 0], [1, 1, 1]]), SIZES)


def test_a_token_outside_its_level_is_refused():
    with pytest.raises(GenrecError, match=r"codes of shape \(2, 3\) do not fit levels of \(4, 3, 5\)"):
        CodeTrie.build(np.array([[0, 0, 0], [0, 3, 0]]), SIZES)


def test_an_empty_catalogue_is_refused():
    with pytest.raises(GenrecError, match=r"codes of shape \(0, 3\)"):
        CodeTrie.build(np.zeros((0, 3), int), SIZES)


def test_a_catalogue_of_beauty_size_is_built_whole():
    random = np.random.default_rng(2)
    codes = np.unique(random.integers(0, 256, (12_101, 4)), axis=0)
    codes = codes[random.permutation(len(codes))]
    trie = CodeTrie.build(codes, (256,) * 4)
    np.testing.assert_array_equal(trie.lookup(codes), np.arange(len(codes)))
    np.testing.assert_array_equal(trie.leaf_row[trie.row_leaf], np.arange(len(codes)))
    assert [int(starts[-1]) for starts in trie.first_leaf] == [len(codes)] * 5


@pytest.mark.slow
def test_a_million_items_are_found():
    random = np.random.default_rng(3)
    packed = random.choice(1 << 32, 1_000_000, replace=False).astype(np.uint32)
    codes = packed.view(np.uint8).reshape(-1, 4)
    trie = CodeTrie.build(codes, (256,) * 4)
    assert trie_bytes(trie) <= 48 * trie.n_items
    np.testing.assert_array_equal(trie.lookup(codes), np.arange(trie.n_items))
    asked = random.integers(0, 256, (100_000, 4)).astype(np.uint8)
    known = np.isin(asked.copy().view(np.uint32).ravel(), packed)
    np.testing.assert_array_equal(trie.lookup(asked) >= 0, known)
