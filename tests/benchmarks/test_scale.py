"""The generated catalogue has the structure that it is described by, and its training can be measured."""

import numpy as np

from tests.benchmarks import scale


def test_a_catalogue_has_histories_without_repeats_and_items_that_are_near_their_topic() -> None:
    histories, vectors = scale.catalogue(items=1000, users=400, dim=32)
    again, same = scale.catalogue(items=1000, users=400, dim=32)
    assert np.array_equal(histories.rows, again.rows)
    assert np.array_equal(vectors, same)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    lists = [histories.of(user) for user in range(len(histories))]
    assert all(len(set(rows.tolist())) == len(rows) for rows in lists)
    assert 7 < histories.lengths.mean() < 13
    follows = np.concatenate([np.stack([rows[:-1], rows[1:]], axis=1) for rows in lists])
    pairs, counts = np.unique(follows, axis=0, return_counts=True)
    popular = np.flatnonzero(np.bincount(follows[:, 0], minlength=1000) >= 10)
    likeliest = [counts[pairs[:, 0] == row].max() / counts[pairs[:, 0] == row].sum() for row in popular]
    assert np.mean(likeliest) > 0.4  # the next item of the ring
    cosines = (vectors[follows[:, 0]] * vectors[follows[:, 1]]).sum(axis=1)
    assert cosines.mean() > 0.2 + (vectors @ vectors.T).mean()


def test_training_is_measured_at_each_size() -> None:
    found = scale.run(items=(300,), users=100, steps=1, dim=16)
    assert found["train_ratio"] == 1
    assert found["by_items"]["300"]["ms_a_target"] > 0
    assert found["peak_mb"] > 100
