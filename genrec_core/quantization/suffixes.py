"""Collisions: items with the same code get different suffixes."""

import numpy as np
from numpy.typing import NDArray

from genrec_core.errors import GenrecError

_LEAST_SUFFIXES = 8


class NoSuffixLeftError(GenrecError):
    """All suffixes of a code are in use."""


def suffixes_of(codes: NDArray[np.int32]) -> NDArray[np.int32]:
    """Suffix of each row of ``codes`` [n, levels]: the number of earlier rows with the same code, int32 [n]."""
    _, group, counts = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    order = np.argsort(group.ravel(), kind="stable")
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    suffixes = np.empty(len(codes), dtype=np.int32)
    suffixes[order] = np.arange(len(codes)) - np.repeat(starts, counts)
    return suffixes


def suffix_vocabulary(largest: int) -> int:
    """Vocabulary size of the suffix level if ``largest`` is the largest suffix in use.

    Twice the suffixes in use and at least 16, rounded up to a multiple of 8: new items need free suffixes.
    """
    return -(-2 * max(largest + 1, _LEAST_SUFFIXES) // 8) * 8


def next_suffixes(
    known: NDArray[np.int32], codes: NDArray[np.int32], item_ids: NDArray[np.int64], vocabulary: int
) -> NDArray[np.int32]:
    """The next free suffix of each new code, in order, int32 [m].

    Args:
        known: codes with suffix of the known items, int32 [n, levels + 1].
        codes: codes of the new items, int32 [m, levels].
        item_ids: ids of the new items, int64 [m].
        vocabulary: number of suffixes that there are.

    Raises:
        NoSuffixLeftError: all suffixes of a code are in use.
    """
    free: dict[tuple[int, ...], int] = {}
    for *code, suffix in known.tolist():
        free[tuple(code)] = max(free.get(tuple(code), 0), suffix + 1)
    suffixes = np.empty(len(codes), dtype=np.int32)
    for row, code in enumerate(map(tuple, codes.tolist())):
        suffix = free.get(code, 0)
        if suffix >= vocabulary:
            raise NoSuffixLeftError(
                f"item {item_ids[row]}: code {code} is shared by {suffix} items and the suffix vocabulary holds "
                f"{vocabulary}; build new semantic IDs with a larger codebook_size or more levels, and train on them"
            )
        suffixes[row], free[code] = suffix, suffix + 1
    return suffixes
