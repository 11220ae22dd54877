"""Targets trained per second by the real training loop, on random data in the shapes of a preset."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from genrec_core.benchmarks.machine import describe, peak_mb, spread
from genrec_core.benchmarks.workload import random_histories
from genrec_core.errors import GenrecError
from genrec_core.settings import PRESETS, Preset, SemanticIdSettings

VECTOR_DIM = 384  # all-MiniLM-L6-v2
SUFFIXES = 16


def run(preset: str = "beauty", users: int = 2000, items: int = 2000, repeats: int = 3) -> dict[str, Any]:
    """Train ``repeats`` epochs after one that warms up, in this process alone.

    Args:
        preset: whose model, batch and semantic ID sizes are used.
        users: random users; their histories are as long as Beauty's on average.
        items: random items.
        repeats: epochs that count.

    Returns:
        ``targets_per_second`` (median, least, most), ``targets`` an epoch, ``parameters``, ``peak_mb``, threads,
        machine and commit.

    Raises:
        GenrecError: there is no such preset.
    """
    import torch

    if preset not in PRESETS:
        raise GenrecError(f"preset {preset}: no such preset; choose one of {', '.join(PRESETS)}")
    started, rates = _train(PRESETS[preset], users, items, repeats + 1)
    return {
        "benchmark": "training",
        "preset": preset,
        "targets_per_second": spread(rates[1:]),
        "targets": int(started["targets"]),
        "parameters": int(started["parameters"]),
        "peak_mb": round(peak_mb(), 1),
        "processes": 1,
        "threads": torch.get_num_threads(),
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        **describe(),
    }


def _train(preset: Preset, users: int, items: int, epochs: int) -> tuple[dict[str, float], list[float]]:
    """What the training said at its start, and the rate of every epoch."""
    from genrec_core.tiger.distributed import distributed
    from genrec_core.tiger.training import TrainingData, TrainingEvent, train

    # One user validated once, after the last epoch: validation is not what is timed.
    settings = preset.training.model_copy(
        update={"epochs": epochs, "validate_every": epochs, "validation_users": 1, "validation_beams": 10}
    )
    codes, level_sizes = random_codes(preset.semantic_ids, items, seed=0)
    vectors = np.random.default_rng(0).standard_normal((items, VECTOR_DIM), dtype=np.float32)
    data = TrainingData(random_histories(users, items, seed=0), codes, level_sizes, vectors)
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
    sizes = (*settings.sizes(), SUFFIXES)
    if float(np.prod(sizes, dtype=np.float64)) < 2 * items:
        raise GenrecError(f"{sizes} codes a level are too few for {items} random items; use fewer items")
    random = np.random.default_rng(seed)
    codes = np.empty((0, len(sizes)), dtype=np.int32)
    while len(codes) < items:
        drawn = random.integers(0, sizes, (items, len(sizes)), dtype=np.int32)
        codes = np.unique(np.concatenate([codes, drawn]), axis=0)
    return random.permutation(codes)[:items], sizes
