"""The pictures of semantic IDs bear any shape of codes."""

from collections.abc import Callable

import numpy as np
import pytest

from genrec_core.evaluation.pages.catalog import codebook_picture
from genrec_core.quantization.semantic_ids import SemanticIds, suffixes_of, summarize


def semantic_ids(items: int, sizes: tuple[int, ...]) -> SemanticIds:
    random = np.random.default_rng(3)
    codes = np.column_stack([random.integers(0, size, items) for size in sizes]).astype(np.int32)
    with_suffix = np.column_stack([codes, suffixes_of(codes)]).astype(np.int32)
    return SemanticIds(np.arange(items), with_suffix, (*sizes, 64))


@pytest.mark.parametrize("sizes", [(4,), (64, 64, 64, 64)])
def test_codebooks_of_any_depth_are_drawn(sizes: tuple[int, ...], assert_picture: Callable[[bytes], None]) -> None:
    ids = semantic_ids(60, sizes)
    assert_picture(codebook_picture(summarize(ids.codes, ids.level_sizes), ids.codes))
