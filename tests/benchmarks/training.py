"""Targets trained per second by the real training loop, on random data in the shapes of a preset.

Beside it: the original's way to train, and the share of the machine's matrix rate that the loop reaches.
"""

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from genrec_core.errors import GenrecError
from genrec_core.settings import PRESETS, SemanticIdSettings, TrainingSettings
from tests.benchmarks.machine import describe, peak_mb, spread
from tests.benchmarks.workload import random_histories

if TYPE_CHECKING:
    from genrec_core.tiger.training import TrainingData

VECTOR_DIM = 384  # all-MiniLM-L6-v2
SUFFIXES = 16
_ORIGINAL_USERS = 1024  # of a pass the original's way


def run(preset: str = "beauty", users: int = 2000, items: int = 12_101, repeats: int = 3) -> dict[str, Any]:
    """Train ``repeats`` epochs after one that warms up, here alone; then the original's way on the same data.

    Args:
        preset: whose model, batch and semantic ID sizes are used.
        users: random users; their histories are as long as Beauty's on average.
        items: random items.
        repeats: epochs that count.

    Returns:
        ``targets_per_s`` (median), ``ratio_original`` (against :mod:`tests.benchmarks.original`), ``limit_share``
        (floating-point operations of matrix products a second, over the machine's own rate), then
        ``targets_per_second`` and ``original_targets_per_second`` (median, least, most), ``gflop_a_target``,
        ``matrix_gflops``, ``targets`` an epoch, ``parameters``, ``peak_mb``, threads, machine and commit.

    Raises:
        GenrecError: there is no such preset.
    """
    import torch

    from genrec_core.tiger.training import TrainingData
    from tests.benchmarks.original import targets_per_second

    if preset not in PRESETS:
        raise GenrecError(f"preset {preset}: no such preset; choose one of {', '.join(PRESETS)}")
    settings = PRESETS[preset]
    codes, level_sizes = random_codes(settings.semantic_ids, items, seed=0)
    vectors = np.random.default_rng(0).standard_normal((items, VECTOR_DIM), dtype=np.float32)
    data = TrainingData(random_histories(users, items, seed=0), codes, level_sizes, vectors)
    before = matrix_gflops()
    started, rates = train_epochs(data, settings.training, repeats + 1)
    peers = targets_per_second(
        data.histories, codes, level_sizes, settings.training, min(users, _ORIGINAL_USERS), repeats
    )
    work = gflop_a_target(data, settings.training)
    ours, theirs = spread(rates[1:]), spread(peers)
    matrix = max(before, matrix_gflops())
    return {
        "targets_per_s": ours["median"],
        "ratio_original": round(ours["median"] / theirs["median"], 1),
        "limit_share": round(ours["median"] * work / matrix, 3),
        "benchmark": "training",
        "preset": preset,
        "targets_per_second": ours,
        "original_targets_per_second": theirs,
        "gflop_a_target": round(work, 4),
        "matrix_gflops": round(matrix, 1),
        "targets": int(started["targets"]),
        "parameters": int(started["parameters"]),
        "peak_mb": round(peak_mb(), 1),
        "processes": 1,
        "threads": torch.get_num_threads(),
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        **describe(),
    }


def matrix_gflops(size: int = 2048, repeats: int = 5) -> float:
    """Best rate of a product of two float32 matrices, in 10^9 floating-point operations a second."""
    import torch

    left, right = torch.randn(size, size), torch.randn(size, size)
    seconds = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        left @ right
        seconds.append(time.perf_counter() - began)
    return float(2 * size**3 / min(seconds) / 1e9)


def gflop_a_target(data: "TrainingData", settings: TrainingSettings) -> float:
    """Floating-point operations of the matrix products of an epoch, forward and backward, over its targets, in 10^9."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with counter:
        started, _ = train_epochs(data, settings, 1)
    return float(counter.get_total_flops() / started["targets"] / 1e9)


def train_epochs(data: "TrainingData", preset: TrainingSettings, epochs: int) -> tuple[dict[str, float], list[float]]:
    """What the training said at its start, and the rate of every epoch."""
    from genrec_core.tiger.distributed import distributed
    from genrec_core.tiger.training import TrainingEvent, train

    # One user validated once, after the last epoch: validation is not what is timed.
    settings = preset.model_copy(
        update={"epochs": epochs, "validate_every": epochs, "validation_users": 1, "validation_beams": 10}
    )
    started: dict[str, float] = {}
    rates: list[float] = []

    def listen(event: TrainingEvent) -> None:
        if event.kind == "start":
            started.update(event.values)
        elif event.kind == "epoch":
            rates.append(event.values["targets_per_second"])

    with tempfile.TemporaryDirectory() as folder, distributed() as world:
        train(data, settings, Path(folder) / "training", world, listen)
    return started, rates


def random_codes(settings: SemanticIdSettings, items: int, seed: int) -> tuple[np.ndarray, tuple[int, ...]]:
    """Distinct random semantic IDs int32 [items, levels + 1], and the vocabulary by level.

    Raises:
        GenrecError: the levels have too few codes for that many items.
    """
    sizes = (*settings.sizes(items), SUFFIXES)
    if float(np.prod(sizes, dtype=np.float64)) < 2 * items:
        raise GenrecError(f"{sizes} codes a level are too few for {items} random items; use fewer items")
    random = np.random.default_rng(seed)
    codes = np.empty((0, len(sizes)), dtype=np.int32)
    while len(codes) < items:
        drawn = random.integers(0, sizes, (items, len(sizes)), dtype=np.int32)
        codes = np.unique(np.concatenate([codes, drawn]), axis=0)
    return random.permutation(codes)[:items], sizes
