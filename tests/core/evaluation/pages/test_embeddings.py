"""Neighbours and the map of a catalogue agree with what a loop, and the definition of principal components, give."""

from collections.abc import Callable

import numpy as np
import pytest

from genrec_core.embedding.item_embeddings import ItemEmbeddings, l2_normalized
from genrec_core.evaluation.pages.catalog import embedding_picture, nearest_items, principal_components, spread


def embeddings(items: int, dim: int = 5) -> ItemEmbeddings:
    raw = np.random.default_rng(1).normal(size=(items, dim)).astype(np.float32)
    return ItemEmbeddings(np.arange(items), raw, l2_normalized(raw))


def test_the_nearest_items_are_those_of_the_largest_cosine() -> None:
    vectors, names = embeddings(12), [f"item {row}" for row in range(12)]
    rows = nearest_items(vectors, names, shown=2, neighbors=3)
    assert [row["item"] for row in rows] == ["item 0"] * 3 + ["item 11"] * 3
    cosines = {names[row]: float(vectors.l2norm[11] @ vectors.l2norm[row]) for row in range(11)}
    best = sorted(cosines, key=lambda name: -cosines[name])[:3]
    assert [row["neighbour"] for row in rows[3:]] == best
    assert [row["cosine"] for row in rows[3:]] == pytest.approx([cosines[name] for name in best])


def test_a_lonely_item_has_no_neighbour() -> None:
    assert nearest_items(embeddings(1), ["alone"], shown=3, neighbors=3) == []


@pytest.mark.parametrize(("items", "count", "rows"), [(0, 3, []), (1, 3, [0]), (3, 9, [0, 1, 2]), (10, 3, [0, 4, 9])])
def test_shown_rows_are_spread_evenly(items: int, count: int, rows: list[int]) -> None:
    assert spread(items, count) == rows


def test_principal_components_are_uncorrelated_and_hold_the_most_variance() -> None:
    vectors = embeddings(200).raw * np.array([1, 9, 2, 4, 1], dtype=np.float32)
    places, share = principal_components(vectors, 2)
    singular = np.linalg.svd(vectors - vectors.mean(axis=0), compute_uv=False)
    assert np.linalg.norm(places, axis=0) == pytest.approx(singular[:2], rel=1e-4)
    assert abs(np.corrcoef(places.T)[0, 1]) < 1e-6
    assert share == pytest.approx((singular[:2] ** 2).sum() / (singular**2).sum(), rel=1e-4)


@pytest.mark.parametrize("items", [1, 2, 300])
def test_a_catalogue_of_any_size_is_drawn(items: int, assert_picture: Callable[[bytes], None]) -> None:
    groups = ["a" if row % 3 else "b" for row in range(items)]
    assert_picture(embedding_picture(embeddings(items), groups))


def test_zero_vectors_are_drawn(assert_picture: Callable[[bytes], None]) -> None:
    zero = np.zeros((4, 3), dtype=np.float32)
    assert_picture(embedding_picture(ItemEmbeddings(np.arange(4), zero, zero), ["a"] * 4))


def test_vectors_of_one_length_are_drawn(assert_picture: Callable[[bytes], None]) -> None:
    vectors = l2_normalized(np.random.default_rng(0).normal(size=(2000, 64)).astype(np.float32))
    assert_picture(embedding_picture(ItemEmbeddings(np.arange(2000), vectors, vectors), ["a"] * 2000))
