"""Items that share a code: how all but the first of them find another one."""

import numpy as np
from numpy.typing import NDArray

from genrec_core.quantization.residual import ResidualQuantizer


def rank_within_group(codes: NDArray[np.int32]) -> NDArray[np.int32]:
    """How many earlier rows have the same code: int32 [n] of ``codes`` [n, levels]; 0 for the first of its kind."""
    _, group, counts = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    order = np.argsort(group.ravel(), kind="stable")
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    ranks = np.empty(len(codes), dtype=np.int32)
    ranks[order] = np.arange(len(codes)) - np.repeat(starts, counts)
    return ranks


def nearest_free_codes(
    codes: NDArray[np.int32], vectors: NDArray[np.float32], quantizer: ResidualQuantizer
) -> NDArray[np.int32]:
    """Codes where an item whose code is taken has the nearest free token of the last level instead.

    The first item of a code keeps it; the others choose in row order. Where all tokens below a prefix are taken, the
    code stays as it is, for the suffix to tell apart.

    Args:
        codes: int32 [n, levels], of the quantiser.
        vectors: float32 [n, dim], what they are the codes of.
        quantizer: the quantiser.

    Returns:
        int32 [n, levels].

    Source: Zheng et al. 2024 (LC-Rec), section 3.2, which spreads collisions over the last level.
    """
    last, found = quantizer.codebooks[-1], codes.copy()
    taken = {tuple(code) for code in codes.tolist()}
    for row in np.flatnonzero(rank_within_group(codes)):
        residual = quantizer.residual(vectors[row : row + 1], codes[row : row + 1, :-1])[0]
        prefix = tuple(codes[row, :-1].tolist())
        nearest = np.square(last - residual).sum(axis=1).argsort(kind="stable").tolist()
        free = next((token for token in nearest if (*prefix, token) not in taken), None)
        if free is not None:
            found[row, -1] = free
            taken.add((*prefix, free))
    return found
