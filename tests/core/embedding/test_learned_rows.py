"""Whose learned vector items have that training never saw."""

import numpy as np

from genrec_core.embedding.item_embeddings import learned_rows

DIM = 6


def text(n: int) -> np.ndarray:
    vectors = np.random.default_rng(0).normal(size=(n, DIM)).astype(np.float32)
    vectors[2], vectors[7] = 3 * vectors[5], vectors[0] + 0.01  # what items 2 and 7 are like
    return vectors


def test_an_item_without_training_stands_on_the_trained_item_of_the_nearest_text() -> None:
    found = learned_rows(text(8), 6, [2]).tolist()
    assert found[:6] == [0, 1, 5, 3, 4, 5]
    assert found[7] == 0
    assert set(found) <= {0, 1, 3, 4, 5}


def test_without_texts_it_has_what_unknown_items_have() -> None:
    assert learned_rows(np.zeros((8, 0), dtype=np.float32), 6, [2]).tolist() == [0, 1, 6, 3, 4, 5, 6, 6]
    assert learned_rows(text(8)[:3], 0, []).tolist() == [0, 0, 0]


def test_only_the_newest_rows_are_found_if_no_others_are_asked_for() -> None:
    assert learned_rows(text(8), 6, [2], first=6).tolist() == learned_rows(text(8), 6, [2])[6:].tolist()
