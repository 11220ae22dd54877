"""Even codebooks: nobody is refused a place, no centroid has too many, and nobody would rather change places."""

from pathlib import Path

import numpy as np
import pytest

from genrec_core.quantization.balance import even_codebook, even_codes, most_items
from genrec_core.quantization.nearest import nearest_centroids
from genrec_core.quantization.residual import ResidualQuantizer
from genrec_core.settings import SemanticIdSettings


def crowded(rows: int = 200, dim: int = 6) -> np.ndarray:
    """Nine in ten vectors lie close together."""
    random = np.random.default_rng(rows)
    spread = np.where(np.arange(rows) < 0.9 * rows, 0.1, 3.0)
    return (random.normal(size=(rows, dim)) * spread[:, None]).astype(np.float32)


@pytest.mark.parametrize(("rows", "balance", "wanted"), [(200, 1, 13), (208, 1, 13), (200, 2.5, 32), (3, 1, 1)])
def test_there_is_room_for_every_item(rows: int, balance: float, wanted: int) -> None:
    assert most_items(rows, 16, balance) == wanted


@pytest.mark.parametrize("most", [13, 20, 200])
def test_no_centroid_has_too_many_and_whoever_missed_a_nearer_one_is_further_from_it_than_all_it_has(most: int) -> None:
    vectors = crowded()
    centroids = vectors[np.random.default_rng(1).permutation(len(vectors))[:16]]
    codes = even_codes(vectors, centroids, most)
    assert np.bincount(codes, minlength=16).max() <= most
    distances = np.square(vectors[:, None] - centroids).sum(axis=2)
    own = distances[np.arange(len(vectors)), codes]
    for row, centroid in zip(*np.nonzero(distances < own[:, None] - 1e-4), strict=True):
        members = codes == centroid
        assert members.sum() == most
        assert distances[row, centroid] >= own[members].max() - 1e-4


def test_with_room_enough_the_nearest_centroid_is_taken() -> None:
    vectors = crowded()
    assert even_codes(vectors, vectors[:16], 200).tolist() == nearest_centroids(vectors, vectors[:16]).tolist()


def test_equal_vectors_are_shared_out_too() -> None:
    vectors = np.ones((12, 3), dtype=np.float32)
    codes = even_codes(vectors, np.arange(12, dtype=np.float32).reshape(4, 3), 3)
    assert np.bincount(codes).tolist() == [3, 3, 3, 3]


def test_centroids_move_to_what_they_got_and_come_nearer() -> None:
    vectors, most = crowded(), 13
    before = vectors[:16]
    after, codes = even_codebook(vectors, before, most)
    errors = [
        float(np.square(vectors - centroids[even_codes(vectors, centroids, most)]).sum())
        for centroids in (before, after)
    ]
    assert errors[1] < errors[0]
    assert codes.tolist() == even_codes(vectors, after, most).tolist()


def test_a_balanced_quantiser_uses_every_level_evenly(tmp_path: Path) -> None:
    vectors, levels = crowded(), {"levels": 2, "codebook_size": 16, "transform": "none"}
    plain, even = (SemanticIdSettings.model_validate(levels | changes) for changes in ({}, {"balance": 1.0}))
    as_it_comes = ResidualQuantizer.fit(vectors, plain).encode(vectors)
    quantizer = ResidualQuantizer.fit(vectors, even)
    quantizer.save(tmp_path)
    codes = ResidualQuantizer.load(tmp_path).encode_evenly(vectors, 1.0)
    for level in range(2):
        assert np.bincount(codes[:, level]).max() <= 13 < np.bincount(as_it_comes[:, level]).max()
    assert len(np.unique(codes, axis=0)) > len(np.unique(as_it_comes, axis=0))
