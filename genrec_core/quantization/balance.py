"""Codebooks whose centroids have nearly the same number of items each."""

import numpy as np
from numpy.typing import NDArray

from genrec_core.quantization.nearest import rows_per_block

_ROUNDS = 10  # of moving the centroids to the items that they got


def most_items(rows: int, centroids: int, balance: float) -> int:
    """How many of ``rows`` items a centroid may have, so that there is room for all.

    Args:
        rows: items.
        centroids: of the codebook.
        balance: that many even shares, 1 at least.
    """
    return -int(-rows * balance // centroids)


def even_codes(vectors: NDArray[np.float32], centroids: NDArray[np.float32], most: int) -> NDArray[np.int32]:
    """A centroid for each vector, none for more than ``most``, so that nobody would rather change places.

    Whoever finds a nearer centroid full is further from it than all that it has. Of equal distances the lower row wins.

    Args:
        vectors: float32 [n, dim].
        centroids: float32 [k, dim], with k x ``most`` no less than n.
        most: vectors a centroid.

    Returns:
        int32 [n].

    Source: Gale and Shapley 1962, "College Admissions and the Stability of Marriage", the vectors asking; Deng et al.
    2025 (OneRec), section 3.1, for codebooks that are even.
    """
    codes, distances = np.full(len(vectors), -1, dtype=np.int32), np.zeros(len(vectors), dtype=np.float32)
    limit = np.full(len(centroids), np.inf, dtype=np.float32)  # a full centroid takes only what is nearer
    asking = np.arange(len(vectors))
    while len(asking):
        codes[asking], distances[asking] = _nearest_open(vectors, centroids, limit, asking)
        asking = _refused(codes, distances, most, limit)
        codes[asking] = -1
    return codes


def even_codebook(
    vectors: NDArray[np.float32], centroids: NDArray[np.float32], most: int
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """The centroids moved to the means of the vectors that :func:`even_codes` gives them, and the codes with these.

    Args:
        vectors, centroids, most: as there.

    Returns:
        float32 [k, dim] and int32 [n].
    """
    codes = even_codes(vectors, centroids, most)
    for _ in range(_ROUNDS):
        sums = np.zeros(centroids.shape, dtype=np.float64)
        np.add.at(sums, codes, vectors)
        counts = np.bincount(codes, minlength=len(centroids))[:, None]
        centroids = np.where(counts > 0, sums / np.maximum(counts, 1), centroids).astype(np.float32)
        before, codes = codes, even_codes(vectors, centroids, most)
        if np.array_equal(before, codes):
            break
    return centroids, codes


def _nearest_open(
    vectors: NDArray[np.float32], centroids: NDArray[np.float32], limit: NDArray[np.float32], rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The nearest centroid of each row that is within its limit, and the squared distance to it."""
    found, nearest = np.empty(len(rows), dtype=np.int64), np.empty(len(rows), dtype=np.float32)
    lengths, step = np.square(centroids).sum(axis=1), rows_per_block(len(centroids))
    for start in range(0, len(rows), step):
        block = vectors[rows[start : start + step]]
        distances = np.square(block).sum(axis=1, keepdims=True) + lengths - 2 * (block @ centroids.T)
        distances[distances >= limit] = np.inf
        found[start : start + step] = best = distances.argmin(axis=1)
        nearest[start : start + step] = np.take_along_axis(distances, best[:, None], axis=1)[:, 0]
    return found, nearest


def _refused(
    codes: NDArray[np.int32], distances: NDArray[np.float32], most: int, limit: NDArray[np.float32]
) -> NDArray[np.int64]:
    """The rows that are too many for their centroid, the furthest; lowers the limits of centroids that are full."""
    order = np.lexsort((distances, codes))  # stable: of equal distances the lower row first
    grouped = codes[order]
    place = np.arange(len(order)) - np.searchsorted(grouped, grouped)
    edge = order[place == most - 1]
    limit[codes[edge]] = distances[edge]
    return np.sort(order[place >= most])
