"""The nearest centroid: exact, the lowest of equals, the same in NumPy and torch, in bounded memory."""

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from genrec_core.quantization.nearest import nearest_centroids

torch.set_num_threads(1)


def on_torch(vectors: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    codes: np.ndarray = nearest_centroids(torch.from_numpy(vectors), torch.from_numpy(centroids), torch).numpy()
    return codes


@st.composite
def lattice(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Small integers, where many centroids are exactly equally near, moved far from the origin."""
    dim, offset = draw(st.integers(1, 4)), draw(st.sampled_from([0, 1000]))
    values = st.integers(-2, 2)
    vectors = draw(hnp.arrays(np.float32, (draw(st.integers(1, 40)), dim), elements=values))
    centroids = draw(hnp.arrays(np.float32, (draw(st.integers(1, 12)), dim), elements=values))
    return vectors + np.float32(offset), centroids + np.float32(offset)


@settings(deadline=None)
@given(lattice())
def test_it_is_the_lowest_of_the_nearest_by_exact_arithmetic(case: tuple[np.ndarray, np.ndarray]) -> None:
    vectors, centroids = case
    exact = np.square(vectors[:, None].astype(np.int64) - centroids[None].astype(np.int64)).sum(axis=2)

    np.testing.assert_array_equal(nearest_centroids(vectors, centroids), exact.argmin(axis=1))
    np.testing.assert_array_equal(on_torch(vectors, centroids), exact.argmin(axis=1))


@pytest.mark.parametrize("offset", [0.0, 50.0])
def test_numpy_and_torch_agree_with_float64_on_real_valued_vectors(offset: float) -> None:
    rng = np.random.default_rng(1)
    vectors = (rng.normal(size=(3000, 64)) + offset).astype(np.float32)
    centroids = (rng.normal(size=(300, 64)) + offset).astype(np.float32)
    distances = np.square(centroids.astype(np.float64)).sum(1) - 2 * vectors.astype(np.float64) @ centroids.T.astype(
        np.float64
    )

    np.testing.assert_array_equal(nearest_centroids(vectors, centroids), distances.argmin(axis=1))
    np.testing.assert_array_equal(on_torch(vectors, centroids), distances.argmin(axis=1))


def test_codes_do_not_depend_on_how_the_rows_are_cut() -> None:
    rng = np.random.default_rng(2)
    vectors, centroids = rng.normal(size=(1500, 16)).astype(np.float32), rng.normal(size=(40, 16)).astype(np.float32)
    whole = nearest_centroids(vectors, centroids)

    cut = [nearest_centroids(vectors[start : start + 7], centroids) for start in range(0, 1500, 7)]

    np.testing.assert_array_equal(np.concatenate(cut), whole)


def test_memory_does_not_grow_with_rows_times_centroids() -> None:
    rng = np.random.default_rng(3)
    vectors, centroids = rng.normal(size=(20_000, 8)).astype(np.float32), rng.normal(size=(4096, 8)).astype(np.float32)
    tracemalloc.start()
    try:
        nearest_centroids(vectors, centroids)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < 40e6  # all distances at once would take 328 MB
