"""The benchmark of the trie makes the codes it claims, and times the search on them."""

import numpy as np
import pytest

from genrec_core.errors import GenrecError
from genrec_core.search.trie import CodeTrie
from tests.benchmarks import trie as benchmark


def test_every_prefix_has_ten_children() -> None:
    codes = benchmark.branching_codes(10_000)
    trie = CodeTrie.build(codes, (256,) * 4)
    assert [trie.nodes(depth) for depth in range(5)] == [1, 10, 100, 1000, 10_000]
    assert all((np.diff(starts) == 10).all() for starts in trie.child_start)
    assert len(np.unique(codes[:, 0])) == 10
    assert len(np.unique(codes[:, 3])) == 256  # each prefix has tokens of its own


def test_random_codes_are_distinct_and_use_every_token() -> None:
    codes = benchmark.random_codes(5000)
    assert len(np.unique(codes, axis=0)) == 5000
    assert [len(np.unique(column)) for column in codes.T] == [256] * 3


def test_a_catalogue_that_is_no_power_of_ten_is_refused() -> None:
    with pytest.raises(GenrecError, match="12000 items: give a power of 10"):
        benchmark.branching_codes(12_000)


def test_the_figures_are_of_real_searches() -> None:
    figures = benchmark.run(items=(1000, 100_000), beams=10, users=4, repeats=2)
    assert list(figures)[:3] == ["bytes_per_item", "build_s", "step_ratio"]
    assert figures["ten_children_a_prefix"]["by_items"]["1000"]["nodes"] == [1, 10, 100, 1000]
    for kind in ("ten_children_a_prefix", "random_3x256"):
        found = figures[kind]
        assert found["step_ratio"]["repeats"] == 2
        assert set(found["by_items"]) == {"1000", "100000"}
        assert all(size["step_ms"]["least"] > 0 for size in found["by_items"].values())
        assert all(0 < size["bytes_per_item"] <= 48 for size in found["by_items"].values())
    assert figures["peak_mb"] > 0
    assert figures["machine"]


def test_beams_that_no_step_fills_are_an_error() -> None:
    with pytest.raises(GenrecError, match="too few to fill 200 beams"):
        benchmark.run(items=(10, 100), beams=200, users=2, repeats=1)
