"""The nearest centroid of each vector, for NumPy arrays and torch tensors. Needs no torch itself.

Distances are float32, in blocks. If float32 cannot tell two centroids apart, float64 decides; if float64 cannot, the
lower index wins. So the result does not depend on the library, the block size or the number of threads.
"""

from typing import Any

import numpy as np

# Rounding of |c|^2 - 2 x.c, as a share of |x|^2 + |c|^2. A wide margin costs a few exact distances, never a wrong code.
_FLOAT32_MARGIN, _FLOAT64_MARGIN = 32 * 2.0**-23, 2.0**-40
_BLOCK_DISTANCES = 1 << 20  # in memory at once


def nearest_centroids(vectors: Any, centroids: Any, library: Any = np) -> Any:
    """Index [n] of the centroid, float32 [k, dim], that is nearest to each vector, float32 [n, dim].

    ``library`` is the module of the arrays: ``numpy`` or ``torch``.
    """
    rows = max(16, min(1024, _BLOCK_DISTANCES // len(centroids)))
    starts = range(0, max(len(vectors), 1), rows)
    return library.concatenate([_nearest(vectors[start : start + rows], centroids, library) for start in starts])


def _nearest(vectors: Any, centroids: Any, library: Any) -> Any:
    distances, close = _distances(vectors, centroids, _FLOAT32_MARGIN, library)
    nearest = distances.argmin(axis=1)
    tied = close.sum(axis=1) > 1
    if tied.any():
        rows, exact = (library.asarray(part, dtype=library.float64) for part in (vectors[tied], centroids))
        _, close = _distances(rows, exact, _FLOAT64_MARGIN, library)
        nearest[tied] = library.asarray(close, dtype=library.uint8).argmax(axis=1)  # the first that is close
    return nearest


def _distances(vectors: Any, centroids: Any, margin: float, library: Any) -> tuple[Any, Any]:
    """Squared distances [n, k] without the |x|^2 that all k share, and which of them rounding may make the smallest."""
    lengths = library.square(centroids).sum(axis=1)
    distances = lengths - 2 * (vectors @ centroids.T)
    scale = library.square(vectors).sum(axis=1, keepdims=True) + lengths.max()
    return distances, distances <= library.amin(distances, axis=1, keepdims=True) + margin * scale
