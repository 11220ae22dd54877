"""Evaluations of trainings that differ in their seed alone, side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from genrec_core.storage.artifacts import read_json

_MODES = ("generative", "hybrid", "dense")
_METRICS = ("recall@5", "recall@10", "recall@50", "recall@100", "recall@1000", "ndcg@5", "ndcg@10")


def over_seeds(evaluations: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Mean and standard deviation of each metric; None where there are not two seeds.

    Args:
        evaluations: contents of ``beauty_metrics.json``, whose ``training`` holds ``recipe``, the same for all, and
            ``seed``; of one seed the first counts.

    Returns:
        ``seeds``, and under ``metrics`` by ranking and metric ``mean``, ``spread`` (sample standard deviation) and
        ``values``, one a seed.
    """
    by_seed: dict[int, Mapping[str, Any]] = {}
    for found in evaluations:
        by_seed.setdefault(int(found["training"]["seed"]), found)
    if len(by_seed) < 2:
        return None
    seeds = sorted(by_seed)
    metrics: dict[str, dict[str, Any]] = {}
    for mode in _MODES:
        for name in _METRICS:
            values = [by_seed[seed].get(mode, {}).get(name) for seed in seeds]
            if None not in values:
                at = {"mean": float(np.mean(values)), "spread": float(np.std(values, ddof=1)), "values": values}
                metrics.setdefault(mode, {})[name] = at
    return {"seeds": seeds, "metrics": metrics}


def with_other_seeds(
    metrics: Mapping[str, Any], training: Mapping[str, Any], earlier: Sequence[Path]
) -> dict[str, Any]:
    """The metrics beside those of earlier trainings that differ in their seed alone.

    Args:
        metrics: the content of ``beauty_metrics.json``.
        training: ``recipe`` and ``seed`` of the model's training.
        earlier: files ``beauty_metrics.json`` of earlier evaluations; those of other recipes or settings are ignored.

    Returns:
        The metrics with ``training``, and with ``seeds`` as :func:`over_seeds` gives it.
    """
    own = {**metrics, "training": training}
    alike = [
        other
        for other in map(read_json, earlier)
        if other.get("training", {}).get("recipe") == training["recipe"] and other["settings"] == own["settings"]
    ]
    return {**own, "seeds": over_seeds([own, *alike])}
