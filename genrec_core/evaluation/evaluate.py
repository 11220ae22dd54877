"""The test metrics of a model: decoded once, beside the popularity baseline, sliced, and written to a folder."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from genrec_core.data.histories import Histories
from genrec_core.data.popularity import training_counts
from genrec_core.data.split import HeldOut, test_part, validation_part
from genrec_core.errors import GenrecError
from genrec_core.evaluation.baselines import exposure, gini, popular_unseen, popularity_ranks, repeated_targets
from genrec_core.evaluation.exactness import beam_agreement
from genrec_core.evaluation.metrics import CONFIDENCE, Cutoffs, paired_differences, recall_hits, summarize
from genrec_core.evaluation.slices import HISTORY_LENGTH, TARGET_POPULARITY, SlicedRanks, slices_as_json
from genrec_core.quantization.semantic_ids import SemanticIds
from genrec_core.search.beams import CodeScorer
from genrec_core.search.generative import RankingWeights
from genrec_core.search.held_out import LISTED_ITEMS, OnProgress, TargetRanks, miss_share, rank_test_items
from genrec_core.search.trie import CodeTrie
from genrec_core.settings import EvaluationSettings, RankingMode
from genrec_core.storage.artifacts import atomic_folder, write_json

METRICS_FILE, SLICES_FILE, RANKS_FILE = "beauty_metrics.json", "slices.parquet", "ranks.parquet"
REPORT_FILE, BASELINE = "report.html", "sasrec"
RECALL_PLOT, SLICES_PLOT = "recall.png", "slices.png"
_FILES = (METRICS_FILE, SLICES_FILE, RANKS_FILE, REPORT_FILE, RECALL_PLOT, SLICES_PLOT)
TIE_ORDER = (
    "The order of same-day ties follows the raw file. The files hold no dates, so what ties do cannot be sliced by."
)
Split = Literal["test", "validation"]
RANKINGS = ("generative", "hybrid", "dense", BASELINE, "popularity")
_COVERAGE_CUTOFFS = (10, 100)
_NEW_ITEM_CUTOFFS = (10, 100, 1000)


@dataclass(frozen=True)
class Evaluation:
    """What is known of a model.

    Args:
        metrics: the content of ``beauty_metrics.json``.
        slices: the content of ``slices.parquet``.
        ranks: 0-based rank of each user's target, history taken out, by ranking: int32 [n], -1 beyond the beams. The
            content of ``ranks.parquet``.
        shown: how many users have each item among their first 10, by ranking: int64 [n_items].
    """

    metrics: dict[str, Any]
    slices: pl.DataFrame
    ranks: dict[str, np.ndarray]
    shown: dict[str, np.ndarray]


def evaluate(
    scorer: CodeScorer,
    ids: SemanticIds,
    histories: Histories,
    settings: EvaluationSettings,
    max_history: int,
    weights: RankingWeights,
    on_progress: OnProgress | None = None,
    split: Split = "test",
    baseline: CodeScorer | None = None,
) -> Evaluation:
    """Measure a model on the test item of every user with at least three items.

    Args:
        scorer: the model, torch or ONNX.
        ids: semantic IDs of the catalogue.
        histories: whole histories; the last item of each is the target.
        settings: beams, batches and bootstrap.
        max_history: newest items of a history that the model reads.
        weights: the ranking modes that the model has; all of them are measured.
        on_progress: told the users ranked and all users of all modes, after every batch.
        split: ``validation`` measures on the items that training selects by instead, to compare without the test items.
        baseline: a SASRec to be measured on the same users, its history as long.

    Raises:
        GenrecError: no history has three items.
    """
    held_out = test_part(histories) if split == "test" else validation_part(histories)
    if len(held_out.targets) == 0:
        raise GenrecError(f"none of {len(histories)} histories has three items, so there is nothing to test on")
    if settings.users is not None:
        random = np.random.default_rng(settings.seed)
        held_out = held_out.take(np.sort(random.permutation(len(held_out.targets))[: settings.users]))
    trie = CodeTrie.build(ids.codes, ids.level_sizes)
    modes, users = weights.modes(), len(held_out.targets)
    misses = miss_share(scorer, trie, held_out, max_history, settings.workers) if "generative" in modes else None
    ranks: dict[RankingMode, TargetRanks] = {}
    for number, mode in enumerate(modes):
        progress = _part_of_progress(on_progress, number * users, len(modes) * users)
        ranks[mode] = rank_test_items(scorer, trie, held_out, settings, max_history, weights.of(mode), progress)
    rivals: dict[str, TargetRanks] = {}
    if baseline is not None:
        rivals[BASELINE] = rank_test_items(baseline, trie, held_out, settings, max_history, 1.0)
    exact = {
        mode: beam_agreement(
            scorer,
            trie,
            held_out,
            users=settings.exact_users,
            beams=settings.beams,
            max_history=max_history,
            dense_weight=weights.of(mode),
            seed=settings.seed,
        )
        for mode in modes
        if mode != "dense" and settings.exact_users
    }
    counts = training_counts(histories, trie.n_items)
    found = _report(ranks, rivals, weights, misses, counts, held_out, len(histories), settings, max_history)
    return replace(found, metrics={"split": split, **found.metrics, "beam_against_exact": exact})


def _part_of_progress(on_progress: OnProgress | None, before: int, users: int) -> OnProgress | None:
    """``on_progress`` as told by one mode of several."""
    return None if on_progress is None else lambda done, of: on_progress(before + done, users)


def write_metrics(folder: Path, evaluation: Evaluation) -> None:
    """Write ``beauty_metrics.json``, ``slices.parquet``, ``ranks.parquet``, ``report.html`` and two plots.

    ``folder`` is written whole or not at all; an earlier evaluation in it is replaced.

    Raises:
        GenrecError: as :func:`require_room_for_metrics`; matplotlib is not installed; ``folder`` cannot be written.
    """
    from genrec_core.evaluation.pages.metrics import recall_by_cutoff, slice_bars
    from genrec_core.evaluation.pages.report import report_page

    require_room_for_metrics(folder)
    try:
        with atomic_folder(folder) as part:
            write_json(part / METRICS_FILE, evaluation.metrics)
            evaluation.slices.write_parquet(part / SLICES_FILE)
            pl.DataFrame(evaluation.ranks).write_parquet(part / RANKS_FILE)
            (part / REPORT_FILE).write_text(report_page(evaluation), encoding="utf-8")
            (part / RECALL_PLOT).write_bytes(recall_by_cutoff(evaluation.metrics))
            (part / SLICES_PLOT).write_bytes(slice_bars(evaluation.slices))
    except OSError as error:
        raise GenrecError(f"{folder}: cannot be written ({error.strerror or error}); name another folder") from error


def require_room_for_metrics(folder: Path) -> None:
    """Refuse a folder that cannot be replaced whole, or that holds more than an earlier evaluation.

    Raises:
        GenrecError: ``folder`` is a file, the root of a disk, or lies where nothing may be written; something else lies
            in it.
    """
    place = folder.resolve()
    if folder.exists() and not folder.is_dir():
        raise GenrecError(f"{folder}: is not a folder; name a new folder for the metrics")
    if os.path.ismount(place):
        raise GenrecError(f"{folder}: is the root of a disk, which cannot be replaced; name a new folder in it")
    parent = next(path for path in place.parents if os.path.exists(path))
    if not os.access(parent, os.W_OK | os.X_OK):
        raise GenrecError(f"{folder}: no folder may be made in {parent}; name one elsewhere, or get the right to write")
    others = sorted(path.name for path in folder.iterdir() if path.name not in _FILES) if folder.is_dir() else []
    if others:
        raise GenrecError(
            f"{folder}: holds {others[0]}, which is not a metrics file; name a new folder for the metrics"
        )


def _report(
    ranks: dict[RankingMode, TargetRanks],
    rivals: dict[str, TargetRanks],
    weights: RankingWeights,
    misses: float | None,
    counts: np.ndarray,
    held_out: HeldOut,
    all_users: int,
    settings: EvaluationSettings,
    max_history: int,
) -> Evaluation:
    """Everything that is said about the model."""
    n_items = len(counts)
    headline: RankingMode = "hybrid" if "hybrid" in ranks else next(iter(ranks))
    beams = ranks[headline].beams
    cutoffs = Cutoffs(beams, n_items)
    popular = popularity_ranks(counts, held_out, beams)
    slices = _slices(ranks[headline].history_removed, popular, cutoffs, counts, held_out, settings)

    def summary(of: np.ndarray) -> dict[str, Any]:
        return dict(summarize(of, cutoffs, settings.bootstrap_samples, settings.seed))

    metrics: dict[str, Any] = {}
    every: dict[str, TargetRanks] = {str(mode): found for mode, found in ranks.items()} | rivals
    for mode, found in every.items():
        exposed = _exposure(found.listed, cutoffs, counts)
        metrics[mode] = {**summary(found.history_removed), **exposed, **_cold(found.history_removed, counts, held_out)}
        metrics[f"{mode}_history_kept"] = summary(found.history_kept)
    if misses is not None:
        metrics["generative"]["miss_share"] = misses
    lists = {mode: found.listed for mode, found in every.items()}
    lists["popularity"] = popular_unseen(counts, held_out, min(LISTED_ITEMS, beams))
    by_user = {**{mode: found.history_removed for mode, found in every.items()}, "popularity": popular}
    metrics |= {
        "popularity": {**summary(popular), **_exposure(lists["popularity"], cutoffs, counts)},
        "against": {
            rival: paired_differences(
                by_user[headline], by_user[rival], cutoffs, settings.bootstrap_samples, settings.seed
            )
            for rival in ("popularity", *rivals)
        },
        "ranking": headline,
        "hybrid_weight": weights.hybrid if "hybrid" in ranks else None,
        "new_items": {
            "items": int((counts == 0).sum()),
            "test_users": int((counts[held_out.targets] == 0).sum()),
            "meaning": "items that no training target or history holds",
        },
        "slices": slices_as_json(slices),
        "users": len(held_out.targets),
        "skipped_users": all_users - len(held_out.targets),
        "repeated_targets": repeated_targets(held_out),
        "items": n_items,
        "beams": beams,
        "cutoffs_not_reported": cutoffs.not_reported(),
        "cutoffs_over_all_items": cutoffs.over_all_items(),
        "max_history": max_history,
        "seed": settings.seed,
        "settings": settings.model_dump(),
        "interval": f"{CONFIDENCE:.0%} percentile bootstrap over users, {settings.bootstrap_samples} resamples",
        "headline": f"{headline}, the items of the user's whole history taken out of the list; _history_kept: left in.",
        "tie_order": TIE_ORDER,
    }
    shown = {mode: exposure(listed, 10, n_items) for mode, listed in lists.items()}
    return Evaluation(metrics, slices, by_user, shown)


def _exposure(lists: np.ndarray, cutoffs: Cutoffs, counts: np.ndarray) -> dict[str, float]:
    """Which items are shown in the first 10 and 100 places, where the lists are that long."""
    values: dict[str, float] = {}
    for k in cutoffs.reported(_COVERAGE_CUTOFFS):
        shown = exposure(lists, k, cutoffs.n_items)
        values[f"coverage@{k}"] = float((shown > 0).mean())
        values[f"gini@{k}"] = gini(shown)
        values[f"new_item_share@{k}"] = float(shown[counts == 0].sum() / max(shown.sum(), 1))
    return values


def _cold(ranks: np.ndarray, counts: np.ndarray, held_out: HeldOut) -> dict[str, float]:
    """Recall on the users whose test item training never saw, where there are any."""
    cold = ranks[counts[held_out.targets] == 0]
    if len(cold) == 0:
        return {}
    return {f"new_item_recall@{k}": float(recall_hits(cold, k).mean()) for k in _NEW_ITEM_CUTOFFS}


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
