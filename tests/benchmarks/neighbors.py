"""What the neighbours of a large catalogue cost as it grows, and the share of the exact ones that its cells find."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from genrec_core.search.neighbors import Related
from tests.benchmarks.machine import describe, peak_mb
from tests.benchmarks.workload import random_histories

_DIM, _SAMPLE, _ITEMS_A_KIND, _ITEMS_A_USER, _BLOCK = 384, 500, 25, 5, 1 << 13


def run(
    items: Sequence[int] = (12_101, 100_000, 1_000_000), count: int = 64, vectors: Path | None = None
) -> dict[str, Any]:
    """Choose the neighbours of generated catalogues by texts and followers, as those beyond the exact size do.

    Args:
        items: sizes of the catalogues, ascending: the peak of memory is that of the process so far.
        count: neighbours of each item.
        vectors: an `.npy` file of text vectors of length 1, float32 [n, dim], measured instead of generated ones.

    Returns:
        By size: ``cpu_s`` of the process for the first choice of weights, ``again_cpu_s`` for another, ``peak_mb``,
        and ``recall``: the share of the exact nearest texts that is found, over 500 items.
    """
    catalogues = map(clustered_vectors, items) if vectors is None else [np.load(vectors)]
    return {
        "benchmark": "neighbors",
        "count": count,
        "by_items": dict(_measured(catalogue, count) for catalogue in catalogues),
        **describe(),
    }


def clustered_vectors(items: int) -> np.ndarray:
    """Vectors of length 1, float32 [items, 384], around those of kinds of 25 items, and these around 20 times fewer."""
    random = np.random.default_rng(items)
    kinds = random.standard_normal((items // _ITEMS_A_KIND + 1, _DIM), dtype=np.float32)
    kinds += random.standard_normal((len(kinds) // 20 + 1, _DIM), dtype=np.float32)[np.arange(len(kinds)) // 20]
    vectors = random.standard_normal((items, _DIM), dtype=np.float32)
    for first in range(0, items, _BLOCK):
        block = vectors[first : first + _BLOCK]
        block += kinds[random.integers(len(kinds), size=len(block))]
        block /= np.linalg.norm(block, axis=1, keepdims=True)
    return vectors


def recall_of(rows: np.ndarray, vectors: np.ndarray) -> float:
    """The share of the exact nearest others that ``rows`` [n, count] hold, over some items."""
    sample = np.random.default_rng(0).permutation(len(vectors))[:_SAMPLE]
    shares = []
    for item in sample:
        similarity = vectors @ vectors[item]
        similarity[item] = -np.inf
        nearest = np.argpartition(similarity, -rows.shape[1])[-rows.shape[1] :]
        shares.append(np.isin(nearest, rows[item]).mean())
    return float(np.mean(shares))


def _measured(vectors: np.ndarray, count: int) -> tuple[str, dict[str, float]]:
    histories = random_histories(len(vectors) // _ITEMS_A_USER, len(vectors), seed=0)
    began = time.process_time()
    related = Related(vectors, count, histories, all_pairs_items=0)
    related.neighbors(3.0, 1.0)
    chosen = time.process_time()
    by_text = related.neighbors(6.0, 0.0)
    again, peak = time.process_time(), peak_mb()
    return str(len(vectors)), {
        "cpu_s": round(chosen - began, 1),
        "again_cpu_s": round(again - chosen, 1),
        "peak_mb": round(peak),
        "recall": round(recall_of(by_text.rows, vectors), 4),
    }
