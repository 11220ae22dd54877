"""What it costs to say why: core time of the explanations of a list of ten items, for one history."""

import time
from pathlib import Path
from typing import Any

import numpy as np

from genrec_core.recommend.recommender import Recommender
from genrec_core.settings import RankingMode
from genrec_core.storage.folders import latest
from tests.benchmarks.machine import describe, spread


def run(model_dir: Path | None = None, items: int = 50, topk: int = 10, users: int = 20) -> dict[str, Any]:
    """Explain the lists of random histories, one after the other, by each ranking of the model.

    Args:
        model_dir: the exported model; the newest ``onnx_encoder`` of the storage where None.
        items: items of a history, all different; fewer where the catalogue has fewer.
        topk: items of a list, which are all explained.
        users: histories.

    Returns:
        ``RANKING_ms`` and ``list_RANKING_ms``: processor time of the explanations, and of the list itself, on all cores
        together, which a busy machine leaves much as it is; machine, commit.

    Raises:
        GenrecError: there is no model.
    """
    folder = model_dir or latest("onnx_encoder")
    recommender, random = Recommender.open(folder), np.random.default_rng(0)
    ids = recommender.item_ids
    histories = [random.choice(ids, min(items, len(ids) - topk), replace=False).tolist() for _ in range(users + 1)]
    figures: dict[str, Any] = {}
    for ranking in recommender.weights.modes():
        times = np.array([_seconds(recommender, history, topk, ranking) for history in histories])[1:]  # one is to warm
        figures[f"{ranking}_ms"], figures[f"list_{ranking}_ms"] = (spread((1000 * part).tolist()) for part in times.T)
    sizes = {"items": items, "top_k": topk, "catalogue": len(ids), "max_history": recommender.max_history}
    return {**figures, "benchmark": "explanation", **sizes, "model_dir": folder.name, **describe()}


def _seconds(recommender: Recommender, history: list[Any], topk: int, ranking: RankingMode) -> tuple[float, float]:
    """Processor time of the explanations, and of the list."""
    began = time.process_time()
    listed = recommender.recommend([history], topk, ranking=ranking)[0].tolist()
    ranked = time.process_time()
    recommender.explain(history, listed, ranking=ranking)
    return time.process_time() - ranked, ranked - began
