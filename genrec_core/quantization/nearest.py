"""The nearest centroid of each vector, in NumPy: it encodes new items without torch.

Distances are float32, in blocks. If float32 cannot tell two centroids apart, float64 decides; if float64 cannot, the
lower index wins. So the result does not depend on the library, the block size or the number of threads.
"""

import numpy as np
from numpy.typing import NDArray

# Rounding of |c|^2 - 2 x.c, as a share of |x|^2 + |c|^2. A wide margin costs a few exact distances, never a wrong code.
FLOAT32_MARGIN = 32 * 2.0**-23
FLOAT64_MARGIN = 2.0**-40
_BLOCK_DISTANCES = 1 << 20


def rows_per_block(centroids: int) -> int:
    """Rows of a block: about a million distances are in memory at once."""
    return max(16, min(1024, _BLOCK_DISTANCES // centroids))


def nearest_centroids(vectors: NDArray[np.float32], centroids: NDArray[np.float32]) -> NDArray[np.int32]:
    """Index int32 [n] of the centroid, float32 [k, dim], that is nearest to each vector, float32 [n, dim]."""
    codes = np.empty(len(vectors), dtype=np.int32)
    lengths = np.square(centroids).sum(axis=1)
    rows = rows_per_block(len(centroids))
    for start in range(0, len(vectors), rows):
        block = vectors[start : start + rows]
        distances = lengths - 2 * (block @ centroids.T)  # [rows, k], short of the |x|^2 that all k share
        margin = FLOAT32_MARGIN * (np.square(block).sum(axis=1, keepdims=True) + lengths.max())
        nearest = distances.argmin(axis=1)
        close = distances <= distances.min(axis=1, keepdims=True) + margin
        tied = np.flatnonzero(close.sum(axis=1) > 1)
        if tied.size:
            nearest[tied] = _nearest_exact(block[tied].astype(np.float64), centroids.astype(np.float64))
        codes[start : start + rows] = nearest
    return codes


def _nearest_exact(vectors: NDArray[np.float64], centroids: NDArray[np.float64]) -> NDArray[np.int64]:
    lengths = np.square(centroids).sum(axis=1)
    distances = lengths - 2 * (vectors @ centroids.T)
    margin = FLOAT64_MARGIN * (np.square(vectors).sum(axis=1, keepdims=True) + lengths.max())
    first: NDArray[np.int64] = (distances <= distances.min(axis=1, keepdims=True) + margin).argmax(axis=1)
    return first
