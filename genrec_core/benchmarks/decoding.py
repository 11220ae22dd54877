"""Users decoded per second by the exported model, at several beam widths."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from genrec_core.benchmarks.machine import describe, peak_mb, spread
from genrec_core.benchmarks.workload import random_histories
from genrec_core.inference.onnx_scorer import default_threads
from genrec_core.inference.recommender import Recommender
from genrec_core.storage import latest

BEAMS = (10, 100, 1000)


def run(
    model_dir: Path | None = None,
    beams: Sequence[int] = BEAMS,
    users: int = 128,
    repeats: int = 5,
    threads: int | None = None,
) -> dict[str, Any]:
    """Rank for random histories, the seen items excluded, in the batches of ``genrec predict``.

    Args:
        model_dir: the exported model; the newest ``onnx_encoder`` of the storage where None.
        beams: beam widths, each also the number of items asked for.
        users: users of one measurement.
        repeats: measurements that count, after one that warms up; each has other users.
        threads: threads of onnxruntime; None for every core that this process may use.

    Returns:
        ``users_per_second`` and ``peak_mb`` by beam width (memory of the process up to then), machine, commit.

    Raises:
        GenrecError: there is no model.
    """
    folder = model_dir or latest("onnx_encoder")
    recommender = Recommender.from_folder(folder, threads=threads)
    item_ids = recommender.item_ids
    rates: dict[str, dict[str, float | int]] = {}
    peaks: dict[str, float] = {}
    for width in sorted(beams):  # upwards: the memory of a process is known only by its peak
        rates[str(width)] = spread(_rates(recommender, item_ids, width, users, repeats))
        peaks[str(width)] = round(peak_mb(), 1)
    return {
        "benchmark": "decoding",
        "model_dir": str(folder),
        "items": len(item_ids),
        "users_per_second": rates,
        "peak_mb": peaks,
        "users": users,
        "threads": threads or default_threads(),
        **describe(),
    }


def _rates(recommender: Recommender, item_ids: np.ndarray, width: int, users: int, repeats: int) -> list[float]:
    """Users a second of each measurement but the first."""
    rates = []
    for repeat in range(repeats + 1):
        drawn = random_histories(users, len(item_ids), seed=repeat)
        histories = [item_ids[drawn.of(user)].tolist() for user in range(users)]
        began = time.perf_counter()
        recommender.rank(histories, width, beams=width)
        rates.append(users / (time.perf_counter() - began))
    return rates[1:]
