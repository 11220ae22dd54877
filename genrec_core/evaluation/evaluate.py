"""The test metrics of a model: decoded once, beside the popularity baseline, sliced, and written to a folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from genrec_core.artifacts import write_json
from genrec_core.data.histories import Histories
from genrec_core.data.split import HeldOut, test_part
from genrec_core.errors import GenrecError
from genrec_core.evaluation.baselines import (
    coverage,
    popular_unseen,
    popularity_ranks,
    repeated_targets,
    training_counts,
)
from genrec_core.evaluation.metrics import CONFIDENCE, Cutoffs, summarize
from genrec_core.evaluation.ranks import LISTED_ITEMS, OnProgress, TargetRanks, miss_share, rank_test_items
from genrec_core.evaluation.slices import HISTORY_LENGTH, TARGET_POPULARITY, SlicedRanks, slices_as_json
from genrec_core.quantization.semantic_ids import SemanticIds
from genrec_core.settings import EvaluationSettings
from genrec_core.tiger.search import CodeScorer
from genrec_core.tiger.trie import CodeTrie

METRICS_FILE, SLICES_FILE = "beauty_metrics.json", "slices.parquet"
RECALL_PLOT, SLICES_PLOT = "recall.png", "slices.png"
TIE_ORDER = "The order of same-day ties follows the raw file."
_COVERAGE_CUTOFFS = (10, 100)


@dataclass(frozen=True)
class Evaluation:
    """The content of ``beauty_metrics.json`` and of ``slices.parquet``."""

    metrics: dict[str, Any]
    slices: pl.DataFrame


def evaluate(
    scorer: CodeScorer,
    ids: SemanticIds,
    histories: Histories,
    settings: EvaluationSettings,
    max_history: int,
    on_progress: OnProgress | None = None,
) -> Evaluation:
    """Measure a model on the test item of every user with at least three items.

    Args:
        scorer: the model, torch or ONNX.
        ids: semantic IDs of the catalogue.
        histories: whole histories; the last item of each is the target.
        settings: beams, batches and bootstrap.
        max_history: newest items of a history that the model reads.
        on_progress: told the users ranked and all users, after every batch.

    Raises:
        GenrecError: no history has three items.
    """
    held_out = test_part(histories)
    if len(held_out.targets) == 0:
        raise GenrecError(f"none of {len(histories)} histories has three items, so there is nothing to test on")
    trie = CodeTrie.build(ids.codes, ids.level_sizes)
    misses = miss_share(scorer, trie, held_out, max_history, settings.workers)
    ranks = rank_test_items(scorer, trie, held_out, settings, max_history, on_progress)
    counts = training_counts(histories, trie.n_items)
    return _report(ranks, misses, counts, held_out, len(histories), settings, max_history)


def write_metrics(folder: Path, evaluation: Evaluation) -> None:
    """Write ``beauty_metrics.json``, ``slices.parquet`` and the two plots into ``folder``.

    Raises:
        GenrecError: matplotlib is not installed.
    """
    from genrec_core.evaluation.plots import recall_by_cutoff, slice_bars

    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / METRICS_FILE, evaluation.metrics)
    evaluation.slices.write_parquet(folder / SLICES_FILE)
    (folder / RECALL_PLOT).write_bytes(recall_by_cutoff(evaluation.metrics))
    (folder / SLICES_PLOT).write_bytes(slice_bars(evaluation.slices))


def _report(
    ranks: TargetRanks,
    misses: float,
    counts: np.ndarray,
    held_out: HeldOut,
    all_users: int,
    settings: EvaluationSettings,
    max_history: int,
) -> Evaluation:
    """Everything that is said about one ranking."""
    n_items = len(counts)
    cutoffs = Cutoffs(ranks.beams, n_items)
    popular = popularity_ranks(counts, held_out, ranks.beams)
    slices = _slices(ranks.history_removed, popular, cutoffs, counts, held_out, settings)

    def summary(of: np.ndarray) -> dict[str, Any]:
        return dict(summarize(of, cutoffs, settings.bootstrap_samples, settings.seed))

    metrics = {
        "generative": {
            **summary(ranks.history_removed),
            "miss_share": misses,
            **_coverages(ranks.listed, cutoffs),
        },
        "generative_history_kept": summary(ranks.history_kept),
        "popularity": {
            **summary(popular),
            **_coverages(popular_unseen(counts, held_out, min(LISTED_ITEMS, ranks.beams)), cutoffs),
        },
        "slices": slices_as_json(slices),
        "users": len(held_out.targets),
        "skipped_users": all_users - len(held_out.targets),
        "repeated_targets": repeated_targets(held_out),
        "items": n_items,
        "beams": ranks.beams,
        "cutoffs_not_reported": cutoffs.not_reported(),
        "cutoffs_over_all_items": cutoffs.over_all_items(),
        "max_history": max_history,
        "seed": settings.seed,
        "settings": settings.model_dump(),
        "interval": f"{CONFIDENCE:.0%} percentile bootstrap over users, {settings.bootstrap_samples} resamples",
        "headline": "generative: the items of the user's whole history are taken out of the list; "
        "generative_history_kept: they are left in.",
        "tie_order": TIE_ORDER,
    }
    return Evaluation(metrics, slices)


def _coverages(lists: np.ndarray, cutoffs: Cutoffs) -> dict[str, float]:
    """``coverage@10`` and ``coverage@100``, where the lists are that long."""
    return {f"coverage@{k}": coverage(lists, k, cutoffs.n_items) for k in cutoffs.reported(_COVERAGE_CUTOFFS)}


def _slices(
    model: np.ndarray,
    popular: np.ndarray,
    cutoffs: Cutoffs,
    counts: np.ndarray,
    held_out: HeldOut,
    settings: EvaluationSettings,
) -> pl.DataFrame:
    """The rows of both kinds of slices."""
    sliced = SlicedRanks(model, popular, cutoffs, settings.bootstrap_samples, settings.seed)
    lengths = held_out.histories.lengths
    by_length = sliced.by(HISTORY_LENGTH, lengths)
    return pl.concat([by_length, sliced.by(TARGET_POPULARITY, counts[held_out.targets])])
