"""Mean and spread of metrics over trainings that differ only in their seed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np

from genrec_core.evaluation.metrics import USER_METRIC_NAMES
from genrec_core.settings import RankingMode
from genrec_core.storage.artifacts import read_json


def over_seeds(evaluations: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Mean and standard deviation of each metric over seeds; None for fewer than two seeds.

    Args:
        evaluations: contents of ``beauty_metrics.json`` of one recipe. The first evaluation of each seed counts.

    Returns:
        ``seeds``, and under ``metrics`` for each ranking and metric ``mean``, ``spread`` (sample standard deviation)
        and ``values`` in the order of the seeds.
    """
    by_seed: dict[int, Mapping[str, Any]] = {}
    for metrics in evaluations:
        by_seed.setdefault(int(metrics["training"]["seed"]), metrics)
    if len(by_seed) < 2:
        return None
    seeds = sorted(by_seed)
    summary: dict[str, dict[str, Any]] = {}
    for mode in get_args(RankingMode):
        for name in USER_METRIC_NAMES:
            values = [by_seed[seed].get(mode, {}).get(name) for seed in seeds]
            if None not in values:
                mean, spread = float(np.mean(values)), float(np.std(values, ddof=1))
                summary.setdefault(mode, {})[name] = {"mean": mean, "spread": spread, "values": values}
    return {"seeds": seeds, "metrics": summary}


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
