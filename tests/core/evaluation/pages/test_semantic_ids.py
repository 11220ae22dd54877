"""What is shown of semantic IDs: every shown group does share its prefix, and the pictures bear any shape of codes."""

from collections.abc import Callable

import numpy as np
import pytest

from genrec_core.evaluation.pages.catalog import codebook_picture, shared_prefixes
from genrec_core.quantization.semantic_ids import SemanticIds, suffixes_of, summarize


def semantic_ids(items: int, sizes: tuple[int, ...]) -> SemanticIds:
    random = np.random.default_rng(3)
    codes = np.column_stack([random.integers(0, size, items) for size in sizes]).astype(np.int32)
    with_suffix = np.column_stack([codes, suffixes_of(codes)]).astype(np.int32)
    return SemanticIds(np.arange(items), with_suffix, (*sizes, 64))


def test_shown_items_begin_with_their_prefix_and_are_as_many_as_said() -> None:
    ids = semantic_ids(200, (3, 4))
    names = [f"item {row}" for row in range(200)]
    rows = shared_prefixes(ids, names, shown=2, members=3)
    assert len(rows) == 2 * 2 * 3  # two lengths, two prefixes of each, three items
    for row in rows:
        prefix = [int(code) for code in str(row["prefix"]).split("-")]
        code = ids.codes[names.index(str(row["item"]))].tolist()
        assert code[: len(prefix)] == prefix
        assert row["semantic ID"] == "-".join(map(str, code))
        assert row["items"] == int((ids.codes[:, : len(prefix)] == prefix).all(axis=1).sum())


def test_nothing_is_shown_where_no_two_items_begin_alike() -> None:
    codes = np.array([[0, 0], [1, 0]], dtype=np.int32)
    assert shared_prefixes(SemanticIds(np.arange(2), codes, (2, 16)), ["a", "b"], shown=3, members=2) == []


@pytest.mark.parametrize("sizes", [(4,), (64, 64, 64, 64)])
def test_codebooks_of_any_depth_are_drawn(sizes: tuple[int, ...], assert_picture: Callable[[bytes], None]) -> None:
    ids = semantic_ids(60, sizes)
    assert_picture(codebook_picture(summarize(ids.codes, ids.level_sizes), ids.codes))
