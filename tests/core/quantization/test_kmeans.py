"""k-means of one level: it finds the clusters, each centroid is a mean, none stays dead, and memory stays bounded."""

import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch

from genrec_core.quantization import kmeans
from genrec_core.quantization.kmeans import RowShare, assign

torch.set_num_threads(1)


def cluster(
    vectors: np.ndarray, size: int, iterations: int = 100, tolerance: float = 0.0, seed: int = 0
) -> tuple[torch.Tensor, int]:
    rows, rng = torch.from_numpy(vectors), np.random.default_rng(seed)
    share = RowShare.of(len(rows), None)
    return kmeans.kmeans(rows, share, size, iterations=iterations, tolerance=tolerance, rng=rng)


def codes_and_error(vectors: np.ndarray, found: tuple[torch.Tensor, int]) -> tuple[np.ndarray, float]:
    rows = torch.from_numpy(vectors)
    codes, errors = assign(rows, found[0], RowShare.of(len(rows), None))
    return codes.numpy(), float(errors.sum())


@pytest.fixture(scope="module")
def blobs() -> np.ndarray:
    """2,500 points (three blocks of rows) around 50 well separated centres."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(50, 8)) * 20
    return (centres[np.arange(2500) % 50] + rng.normal(size=(2500, 8)) * 0.1).astype(np.float32)


def test_separated_clusters_are_found_exactly(blobs: np.ndarray) -> None:
    codes, _ = codes_and_error(blobs, cluster(blobs, 50))

    groups = codes.reshape(50, 50)  # row i of the data belongs to centre i mod 50
    assert (groups == groups[0]).all()
    assert len(set(groups[0])) == 50


def test_each_centroid_is_the_mean_of_its_cluster() -> None:
    vectors = np.random.default_rng(1).normal(size=(1500, 6)).astype(np.float32)
    found = cluster(vectors, 12)
    codes, _ = codes_and_error(vectors, found)

    means = [vectors[codes == code].astype(np.float64).mean(axis=0) for code in range(12)]

    assert found[1] < 100  # it came to rest
    np.testing.assert_allclose(found[0].numpy(), means, atol=1e-6)


def test_the_error_never_rises_with_iterations() -> None:
    vectors = np.random.default_rng(2).normal(size=(1200, 10)).astype(np.float32)

    errors = [codes_and_error(vectors, cluster(vectors, 30, iterations=steps))[1] for steps in range(1, 9)]

    assert all(later <= earlier for earlier, later in pairwise(errors))
    assert errors[-1] < 0.95 * errors[0]


def test_a_tolerance_stops_early() -> None:
    vectors = np.random.default_rng(3).normal(size=(1200, 10)).astype(np.float32)

    assert cluster(vectors, 30, tolerance=0.01)[1] < cluster(vectors, 30)[1]


def test_kmeans_plus_plus_starts_better_than_random_rows(blobs: np.ndarray) -> None:
    random_start = torch.from_numpy(blobs[np.random.default_rng(0).choice(2500, 50, replace=False)])
    _, random_error = codes_and_error(blobs, (random_start, 0))
    share, rows = RowShare.of(2500, None), torch.from_numpy(blobs)
    scales = kmeans._Scales.of(rows, share)

    start = kmeans._spread_start(rows, share, 50, scales, np.random.default_rng(0))

    assert codes_and_error(blobs, (start, 0))[1] < 0.2 * random_error


def test_kmeans_plus_plus_draws_rows_of_the_data_each_once() -> None:
    vectors = np.repeat(np.random.default_rng(4).normal(size=(40, 3)).astype(np.float32), 50, axis=0)
    share, rows = RowShare.of(2000, None), torch.from_numpy(vectors)

    start = kmeans._spread_start(rows, share, 40, kmeans._Scales.of(rows, share), np.random.default_rng(0))

    assert {row.tobytes() for row in start.numpy()} == {row.tobytes() for row in vectors}


def test_rows_are_drawn_in_proportion_to_their_weight() -> None:
    rows = torch.arange(1500, dtype=torch.float32)[:, None]
    weights = torch.zeros(1500, dtype=torch.int64)
    weights[3], weights[1400] = 1 << 50, 3 << 50
    share, rng = RowShare.of(1500, None), np.random.default_rng(0)

    drawn = [kmeans._draw_row(rows, weights, share, rng) for _ in range(400)]

    values = [float(row) for row in drawn if row is not None]
    assert set(values) == {3.0, 1400.0}
    assert 0.68 < values.count(1400.0) / 400 < 0.82


def test_dead_centroids_come_back_to_life(blobs: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kmeans, "_spread_start", lambda vectors, share, size, *rest: torch.zeros(size, 8))

    codes, _ = codes_and_error(blobs, cluster(blobs, 50, iterations=20))

    assert len(set(codes.tolist())) == 50


def test_worst_rows_are_distinct_and_largest_first() -> None:
    vectors = torch.tensor([[0.0], [5.0], [5.0], [1.0], [9.0]])
    errors = vectors.double().square().flatten()

    found = kmeans._worst_rows(vectors, errors, RowShare.of(5, None), 10)

    assert found.flatten().tolist() == [9, 5, 1]


def test_centroids_that_no_row_needs_stay_unused() -> None:
    vectors = np.repeat(np.array([[1, 0], [0, 1], [5, 5]], dtype=np.float32), 10, axis=0)
    found = cluster(vectors, 8)
    codes, error = codes_and_error(vectors, found)

    assert error == 0
    assert len(set(codes.tolist())) == 3
    assert torch.isfinite(found[0]).all()


def test_vectors_of_nothing_but_zeros_are_one_cluster() -> None:
    codes, error = codes_and_error(np.zeros((20, 3), np.float32), cluster(np.zeros((20, 3), np.float32), 4))

    assert error == 0
    assert set(codes.tolist()) == {0}


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_the_unit_of_the_vectors_does_not_matter(blobs: np.ndarray, scale: float) -> None:
    scaled = (blobs.astype(np.float64) * scale).astype(np.float32)
    codes, _ = codes_and_error(scaled, cluster(scaled, 50))

    assert len(set(codes[:50].tolist())) == 50


def test_memory_does_not_grow_with_rows_times_centroids() -> None:
    program = """
import numpy as np, torch
from pathlib import Path
from genrec_core.quantization.kmeans import RowShare, kmeans
def kilobytes(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1])
torch.set_num_threads(1)
def run(rows, size):
    vectors = torch.from_numpy(np.random.default_rng(0).normal(size=(rows, 4)).astype(np.float32))
    kmeans(vectors, RowShare.of(rows, None), size, iterations=2, tolerance=0, rng=np.random.default_rng(0))
run(2000, 20)  # the libraries' own memory
before = kilobytes("VmRSS")
run(40_000, 1000)
print(kilobytes("VmHWM") - before)
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)

    assert int(done.stdout) < 60_000  # kilobytes; all distances at once would take 160,000
