"""Measures a model on held-out items, beside baselines, and writes the figures; ``pages`` draws them."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import polars as pl

from genrec_core.data.histories import Histories
from genrec_core.data.split import HeldOut, test_part, training_counts, validation_part
from genrec_core.errors import GenrecError
from genrec_core.evaluation.baselines import BASELINES
from genrec_core.evaluation.exactness import beam_agreement
from genrec_core.evaluation.intervals import CONFIDENCE, paired_differences, summarize
from genrec_core.evaluation.metrics import RECALL_CUTOFFS, RankingResult, deepest_cutoff, exposure, list_metrics
from genrec_core.evaluation.slices import metrics_by_slice, slices_as_json
from genrec_core.quantization.semantic_ids import SemanticIds
from genrec_core.search.beams import CodeScorer
from genrec_core.search.generative import RankingWeights
from genrec_core.search.held_out import OnProgress, TargetRanks, miss_share, rank_test_items
from genrec_core.search.trie import CodeTrie
from genrec_core.settings import EvaluationSettings, RankingMode
from genrec_core.storage.artifacts import write_json

METRICS_FILE, SLICES_FILE, RANKS_FILE = "beauty_metrics.json", "slices.parquet", "ranks.parquet"
TRAINED_BASELINE = "sasrec"
RANKINGS = (*get_args(RankingMode), TRAINED_BASELINE, *BASELINES)
_EXPOSURE_PLACES = 10
TIE_ORDER = (
    "Items of the same day keep the order of the raw file. The files hold no dates, so no slice shows what ties do."
)
Split = Literal["test", "validation"]


@dataclass(frozen=True)
class Evaluation:
    """The figures of a model; ``ranks`` and ``shown`` hold an array for each ranking."""

    metrics: dict[str, Any]  # the content of beauty_metrics.json
    slices: pl.DataFrame
    ranks: dict[str, np.ndarray]  # 0-based rank of each target, history taken out, int32 [n]; -1 beyond the beams
    shown: dict[str, np.ndarray]  # how many users have each item among their first 10, int64 [n_items]

    def write(self, folder: Path) -> None:
        """Write the metrics, slices and ranks into ``folder``."""
        write_json(folder / METRICS_FILE, self.metrics)
        self.slices.write_parquet(folder / SLICES_FILE)
        pl.DataFrame(self.ranks).write_parquet(folder / RANKS_FILE)


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
    """Measure a model on one held-out item of each user with at least three items.

    Args:
        histories: whole histories; the last item of each is the test item.
        max_history: newest items of a history that the models read.
        weights: the ranking modes that the model has; all of them are measured.
        on_progress: called after each batch with the users ranked and the users of all modes.
        split: ``validation`` takes the items by which training chose its epoch, and leaves the test items unread.
        baseline: a trained SASRec, measured on the same users.

    Raises:
        GenrecError: no history has three items.
    """
    held_out = _held_out(histories, settings, split)
    trie = CodeTrie.build(ids.codes, ids.level_sizes)
    modes, users = weights.modes(), len(held_out.targets)
    ranked: dict[str, TargetRanks] = {}
    for number, mode in enumerate(modes):
        progress = _part_of_progress(on_progress, number * users, len(modes) * users)
        ranked[mode] = rank_test_items(scorer, trie, held_out, settings, max_history, weights.of(mode), progress)
    if baseline is not None:
        ranked[TRAINED_BASELINE] = rank_test_items(baseline, trie, held_out, settings, max_history, 1.0)
    evaluation = _figures(ranked, weights, held_out, training_counts(histories, trie.n_items), settings)
    metrics = {"split": split, **evaluation.metrics}
    metrics |= {"skipped_users": len(histories) - users, "max_history": max_history}
    if "generative" in modes:
        metrics["generative"]["miss_share"] = miss_share(scorer, trie, held_out, max_history, settings.workers)
    searched = [mode for mode in modes if mode != "dense" and settings.exact_users]
    metrics["beam_against_exact"] = {
        mode: beam_agreement(scorer, trie, held_out, settings, max_history, weights.of(mode)) for mode in searched
    }
    return replace(evaluation, metrics=metrics)


def repeated_targets(held_out: HeldOut) -> int:
    """Users whose target is in their own history, so that no list without the history can hold it."""
    users = np.repeat(np.arange(len(held_out.targets)), held_out.histories.lengths)
    return len(np.unique(users[held_out.histories.rows == held_out.targets[users]]))


def _held_out(histories: Histories, settings: EvaluationSettings, split: Split) -> HeldOut:
    held_out = test_part(histories) if split == "test" else validation_part(histories)
    users = len(held_out.targets)
    if users == 0:
        raise GenrecError(f"none of {len(histories)} histories has three items, so there is nothing to test on")
    if settings.users is None:
        return held_out
    return held_out.take(np.sort(np.random.default_rng(settings.seed).permutation(users)[: settings.users]))


def _part_of_progress(on_progress: OnProgress | None, before: int, users: int) -> OnProgress | None:
    """The progress of one mode, counted after ``before`` users of earlier modes."""
    return None if on_progress is None else lambda done, of: on_progress(before + done, users)


def _figures(
    ranked: dict[str, TargetRanks],
    weights: RankingWeights,
    held_out: HeldOut,
    counts: np.ndarray,
    settings: EvaluationSettings,
) -> Evaluation:
    """What follows from the ranks and lists, with counts int64 [n_items] of training interactions."""
    beams, deepest = min(settings.beams, len(counts)), deepest_cutoff(settings.beams, len(counts))
    random = settings.bootstrap_samples, settings.seed
    rankings, metrics = dict[str, RankingResult](), dict[str, Any]()
    for name, targets in ranked.items():
        rankings[name] = RankingResult(targets.history_removed, targets.listed, held_out.targets, counts == 0)
    for name, rank in BASELINES.items():
        rankings[name] = RankingResult(*rank(counts, held_out, beams), held_out.targets, counts == 0)
    for name, ranking in rankings.items():
        metrics[name] = summarize(ranking.ranks, deepest, *random) | list_metrics(ranking, deepest)
        if name in ranked:
            metrics[f"{name}_history_kept"] = summarize(ranked[name].history_kept, deepest, *random)
    ranks = {name: ranking.ranks for name, ranking in rankings.items()}
    headline = "hybrid" if "hybrid" in ranked else next(iter(ranked))
    sliced_by = {"history_length": held_out.histories.lengths, "target_popularity": counts[held_out.targets]}
    slices = metrics_by_slice(sliced_by, ranks[headline], ranks["popularity"], deepest, *random)
    rivals = [name for name in (*BASELINES, TRAINED_BASELINE) if name in rankings]
    metrics |= {
        "against": {name: paired_differences(ranks[headline], ranks[name], deepest, *random) for name in rivals},
        "slices": slices_as_json(slices),
        "hybrid_weight": weights.hybrid if "hybrid" in ranked else None,
        **_description(headline, held_out, counts, settings),
    }
    shown = {name: exposure(ranking, _EXPOSURE_PLACES) for name, ranking in rankings.items()}
    return Evaluation(metrics, slices, ranks, shown)


def _description(headline: str, held_out: HeldOut, counts: np.ndarray, settings: EvaluationSettings) -> dict[str, Any]:
    """What was measured, and how."""
    deepest = deepest_cutoff(settings.beams, len(counts))
    return {
        "ranking": headline,
        "headline": f"{headline}, the items of the user's whole history taken out of the list; _history_kept: left in.",
        "new_items": {
            "items": int((counts == 0).sum()),
            "test_users": int((counts[held_out.targets] == 0).sum()),
            "meaning": "items that no training target or history holds",
        },
        "users": len(held_out.targets),
        "repeated_targets": repeated_targets(held_out),
        "items": len(counts),
        "beams": min(settings.beams, len(counts)),
        "cutoffs_not_reported": [k for k in RECALL_CUTOFFS if k > deepest],
        "cutoffs_over_all_items": [k for k in RECALL_CUTOFFS if len(counts) < k <= deepest],
        "seed": settings.seed,
        "settings": settings.model_dump(),
        "interval": f"{CONFIDENCE:.0%} percentile bootstrap over users, {settings.bootstrap_samples} resamples",
        "tie_order": TIE_ORDER,
    }
