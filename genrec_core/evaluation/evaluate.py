"""Measures a model on held-out items, beside baselines. ``pages`` draws the figures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

import numpy as np
import polars as pl

from genrec_core.data.histories import Histories, padded
from genrec_core.data.split import (
    HeldOut,
    held_out_test_part,
    new_users,
    tied_targets,
    training_counts,
    validation_part,
)
from genrec_core.embedding.item_embeddings import ItemEmbeddings
from genrec_core.errors import GenrecError
from genrec_core.evaluation.baselines import BASELINES, NeighborScorer
from genrec_core.evaluation.metrics import (
    CONFIDENCE,
    RECALL_CUTOFFS,
    SLICED,
    USER_METRIC_NAMES,
    RankingResult,
    deepest_cutoff,
    list_metrics,
    mean_metrics,
    paired_differences,
    summarize,
)
from genrec_core.evaluation.reading import OTHER_WAY, examples, item_names, other_way, worst_departments
from genrec_core.quantization.semantic_ids import SemanticIds
from genrec_core.search.beams import CodeScorer
from genrec_core.search.generative import RankingWeights, beam_search, exact_scores
from genrec_core.search.held_out import OnProgress, TargetRanks, miss_share, rank_test_items
from genrec_core.search.trie import CodeTrie
from genrec_core.settings import EvaluationSettings, RankingMode
from genrec_core.storage.artifacts import read_json

METRICS_FILE = "beauty_metrics.json"
SCORED_BASELINES = ("sasrec", "bsarec", "neighbors")  # ranked as the model's modes are
RANKINGS = (*get_args(RankingMode), *SCORED_BASELINES, *BASELINES)
_EXACT_BATCH_USERS = 4
_LARGE_ITEMS, _LARGE_USERS = 100_000, 5_000  # where the catalogue has more items, so many users are ranked if unset
TIE_ORDER = "Items of the same time keep the order of the raw data."
Split = Literal["test", "validation"]
# What users are sliced by: the largest value of each slice but the last, and the names of the slices.
SLICES = {
    "history_length": ((5, 10, 20), ("<=5", "6-10", "11-20", ">20")),
    "target_popularity": ((0, 5, 20, 100), ("0", "1-5", "6-20", "21-100", ">100")),
}


def evaluate_checkpoint(
    checkpoint: Path,
    semantic_ids: Path,
    embeddings: Path,
    user_histories: pl.DataFrame,
    settings: EvaluationSettings,
    on_progress: OnProgress = lambda done, users: None,
    split: Split = "test",
    catalog: pl.DataFrame | None = None,
) -> dict[str, Any]:
    """:func:`evaluate` a model by its folder, and ``settings.baseline`` on the same users if it is set.

    Args:
        user_histories: the frame of that asset, oldest item first.
        catalog: ``item_catalog``, for examples by title and for departments; None leaves these out.
    """
    from genrec_core.tiger.scorer import one_thread_an_operator

    ids, vectors = SemanticIds.load(semantic_ids), ItemEmbeddings.load(embeddings)
    if not np.array_equal(ids.item_ids, vectors.item_ids):
        raise GenrecError(f"{semantic_ids} and {embeddings} hold different items; give those of one catalogue")
    histories = Histories.from_frame(user_histories, ids.item_ids)
    scorer, max_history, weights = open_checkpoint(checkpoint, ids.codes, vectors.l2norm)
    rivals = dict[str, CodeScorer]()
    if settings.baseline:
        kind = read_json(Path(settings.baseline) / "config.json").get("model_type", "").removeprefix("genrec_")
        rivals[kind] = open_checkpoint(Path(settings.baseline), ids.codes, vectors.l2norm)[0]
    if neighbors := getattr(scorer, "neighbors", None):
        rivals["neighbors"] = NeighborScorer(neighbors, training_counts(histories, len(ids.codes)))
    with one_thread_an_operator():
        metrics = evaluate(scorer, ids, histories, settings, max_history, weights, on_progress, split, rivals, catalog)
    if (history := checkpoint / "training_history.json").is_file():
        metrics["seen_items"] |= read_json(history).get("seen_items", {})  # what validation found in both ways
    return metrics


def evaluate_training(
    checkpoint: Path,
    semantic_ids: Path,
    embeddings: Path,
    user_histories: pl.DataFrame,
    catalog: pl.DataFrame,
    settings: EvaluationSettings,
    storage: Path,
    on_progress: OnProgress = lambda done, users: None,
) -> dict[str, Any]:
    """The content of ``beauty_metrics.json``: test metrics with recipe and seed, beside other seeds in ``storage``."""
    measured = evaluate_checkpoint(
        checkpoint, semantic_ids, embeddings, user_histories, settings, on_progress, catalog=catalog
    )
    history = read_json(checkpoint / "training_history.json")
    training = {name: history[name] for name in ("recipe", "seed")}
    return with_other_seeds(measured, training, sorted(storage.glob(f"recall_metrics/*/{METRICS_FILE}")))


def open_checkpoint(checkpoint: Path, codes: np.ndarray, vectors: np.ndarray) -> tuple[CodeScorer, int, RankingWeights]:
    """Load TIGER or a baseline, with the newest items of a history that it reads and the weights of its ranking modes.

    Args:
        codes: semantic IDs with suffix by catalogue row, int [n_items, L].
        vectors: item text vectors by catalogue row, float32 [n_items, dim].
    """
    from genrec_core.sasrec.bsarec import MODELS
    from genrec_core.sasrec.model import SasRecScorer
    from genrec_core.tiger.scorer import TorchScorer, ranking_weights

    kind = read_json(checkpoint / "config.json").get("model_type")
    if kind == "genrec_tiger":
        tiger = TorchScorer.from_folder(checkpoint, codes, vectors)
        return tiger, tiger.model.config.max_history, ranking_weights(tiger.model.config)
    if kind not in MODELS:
        raise GenrecError(f"{checkpoint}: holds a model of kind {kind}; give a folder that `genrec train` wrote")
    model = MODELS[kind].from_pretrained(checkpoint)
    if model.config.n_items != len(codes):
        raise GenrecError(f"{checkpoint} knows {model.config.n_items} items, but there are {len(codes)}; train again")
    weights = RankingWeights(True, 1.0, generative=False, exclude_seen=model.config.exclude_seen)
    return SasRecScorer(model), model.config.max_history, weights


def evaluate(
    scorer: CodeScorer,
    ids: SemanticIds,
    histories: Histories,
    settings: EvaluationSettings,
    max_history: int,
    weights: RankingWeights,
    on_progress: OnProgress = lambda done, users: None,
    split: Split = "test",
    rivals: Mapping[str, CodeScorer] = MappingProxyType({}),
    catalog: pl.DataFrame | None = None,
) -> dict[str, Any]:
    """Measure a model on the held-out items of each user that have an item before them.

    Args:
        histories: whole histories; they say how they are split, see :mod:`genrec_core.data.split`.
        max_history: newest items of a history that the models read.
        weights: how the model ranks; all its modes are measured, and with and without seen items.
        on_progress: told the targets ranked and all targets of all modes, after each batch.
        split: ``validation`` takes the items by which training chose its epoch, and leaves the test items unread.
        rivals: baselines of ``SCORED_BASELINES``, measured on the same users.
        catalog: as in :func:`evaluate_checkpoint`.

    Returns:
        The content of ``beauty_metrics.json``.
    """
    held_out = _held_out(histories, settings, split, len(ids.codes))
    trie = CodeTrie.build(ids.codes, ids.level_sizes)
    modes, targets = weights.modes(), len(held_out.targets)
    ranked: dict[str, TargetRanks] = {}
    for number, mode in enumerate(modes):

        def progress(done: int, _: int, before: int = number * targets) -> None:
            on_progress(before + done, len(modes) * targets)

        ranked[mode] = rank_test_items(
            scorer, trie, held_out, settings, max_history, weights.of(mode), progress, weights.exclude_seen
        )
    for name, rival in rivals.items():
        ranked[name] = rank_test_items(
            rival, trie, held_out, settings, max_history, 1.0, exclude_seen=weights.exclude_seen
        )
    counts = training_counts(histories, trie.n_items)
    metrics = {"split": split, **_figures(ranked, weights, held_out, counts, settings)}
    metrics |= {"skipped_users": len(histories) - held_out.n_users, "max_history": max_history}
    metrics |= {"tie_order": _tie_order(tied_targets(histories, held_out))}
    if split == "test" and histories.windows is not None:
        metrics["new_users"] = _new_users(new_users(histories), counts, settings)
    if catalog is not None:
        metrics |= _read(ranked[metrics["ranking"]].of(weights.exclude_seen), held_out, catalog, ids, settings.seed)
    if "generative" in modes:
        metrics["generative"]["miss_share"] = miss_share(scorer, trie, held_out, max_history, settings.workers)
    # In a large catalogue the dense ranking searches too, and scoring all codes of all items would take hours.
    searched = [mode for mode in modes if (mode == "dense") == (trie.n_items > _LARGE_ITEMS) and settings.exact_users]
    metrics["beam_against_exact"] = {
        mode: _beam_agreement(scorer, trie, held_out, settings, max_history, weights.of(mode)) for mode in searched
    }
    return metrics


def _read(ranks: np.ndarray, held_out: HeldOut, catalog: pl.DataFrame, ids: SemanticIds, seed: int) -> dict[str, Any]:
    """Examples by title and the worst departments of the headline ranking."""
    items = pl.DataFrame({"item_id": ids.item_ids}).join(catalog, on="item_id", how="left", maintain_order="left")
    return {
        "examples": examples(ranks, held_out, item_names(items), seed),
        "worst_departments": worst_departments(ranks, held_out, items["categories"]),
    }


def _held_out(histories: Histories, settings: EvaluationSettings, split: Split, n_items: int) -> HeldOut:
    part = held_out_test_part if split == "test" else validation_part
    held_out = part(histories, settings.users or (_LARGE_USERS if n_items > _LARGE_ITEMS else None), settings.seed)
    if not len(held_out.targets):
        needed = "three items" if histories.windows is None else f"an item in the {split} window and one before it"
        raise GenrecError(f"none of {len(histories)} histories has {needed}, so there is nothing to test on")
    return held_out


def _figures(
    ranked: dict[str, TargetRanks],
    weights: RankingWeights,
    held_out: HeldOut,
    counts: np.ndarray,
    settings: EvaluationSettings,
) -> dict[str, Any]:
    """What follows from the ranks and lists, with counts int64 [n_items] of training interactions."""
    beams, deepest = min(settings.beams, len(counts)), deepest_cutoff(settings.beams, len(counts))
    random, users = (settings.bootstrap_samples, settings.seed), held_out.users
    rankings, metrics, exclude_seen = dict[str, RankingResult](), dict[str, Any](), weights.exclude_seen
    for name, targets in ranked.items():
        rankings[name] = RankingResult(targets.of(exclude_seen), targets.listed, held_out.targets, counts == 0)
    for name, rank in BASELINES.items():
        rankings[name] = RankingResult(*rank(counts, held_out, beams, exclude_seen), held_out.targets, counts == 0)
    others = {name: targets.of(not exclude_seen) for name, targets in ranked.items()}
    others |= {name: rank(counts, held_out, beams, not exclude_seen)[0] for name, rank in BASELINES.items()}
    for name, ranking in rankings.items():
        metrics[name] = summarize(ranking.ranks, users, deepest, *random) | list_metrics(ranking, deepest)
        metrics[f"{name}_{OTHER_WAY[exclude_seen]}"] = summarize(others[name], users, deepest, *random)
    ranks = {name: ranking.ranks for name, ranking in rankings.items()}
    headline = weights.auto if weights.auto in ranked else next(iter(ranked))
    sliced_by = {"history_length": held_out.histories.lengths, "target_popularity": counts[held_out.targets]}
    rivals = [name for name in RANKINGS if name in rankings and name != headline]
    return metrics | {
        "against": {name: paired_differences(ranks[headline], ranks[name], users, deepest, *random) for name in rivals},
        "slices": metrics_by_slice(sliced_by, ranks[headline], ranks["popularity"], users, deepest, *random),
        "hybrid_weight": weights.hybrid if "hybrid" in ranked else None,
        **_description(headline, exclude_seen, held_out, counts, settings),
    }


def _description(
    headline: str, exclude_seen: bool, held_out: HeldOut, counts: np.ndarray, settings: EvaluationSettings
) -> dict[str, Any]:
    """What was measured, and how."""
    deepest, ways = deepest_cutoff(settings.beams, len(counts)), ("left in the list", "taken out of the list")
    return {
        "ranking": headline,
        "headline": f"{headline}, the items of the user's whole history {ways[exclude_seen]}; "
        f"_{OTHER_WAY[exclude_seen]}: {ways[not exclude_seen]}.",
        "seen_items": {"lists": "exclude" if exclude_seen else "keep"},
        "new_items": {
            "items": int((counts == 0).sum()),
            "test_targets": int((counts[held_out.targets] == 0).sum()),
            "meaning": "items that no training target or history holds",
        },
        "users": held_out.n_users,
        "targets": len(held_out.targets),
        "repeated_targets": held_out.repeated_targets(),
        "items": len(counts),
        "beams": min(settings.beams, len(counts)),
        "cutoffs_not_reported": [k for k in RECALL_CUTOFFS if k > deepest],
        "cutoffs_over_all_items": [k for k in RECALL_CUTOFFS if len(counts) < k <= deepest],
        "seed": settings.seed,
        "settings": settings.model_dump(),
        "mean": "over users; a user with several targets counts with the mean over these",
        "interval": f"{CONFIDENCE:.0%} percentile bootstrap over users, {settings.bootstrap_samples} resamples",
    }


def _tie_order(tied: float | None) -> str:
    """What is known of targets whose order is arbitrary; ``tied`` is their share, as of :func:`tied_targets`."""
    if tied is None:
        return f"{TIE_ORDER} No times are known here."
    return f"{TIE_ORDER} Of the targets, {tied:.1%} have the time of the item before or after them."


def _new_users(held_out: HeldOut, counts: np.ndarray, settings: EvaluationSettings) -> dict[str, Any]:
    """The first items of users whom the model does not know, so that only the most popular items can be listed."""
    users = held_out.n_users
    if not users:
        return {"users": 0}
    beams = min(settings.beams, len(counts))
    ranks, _ = BASELINES["popularity"](counts, held_out, beams)
    return {
        "users": users,
        "popularity": mean_metrics(ranks, held_out.users, deepest_cutoff(settings.beams, len(counts))),
    }


def _beam_agreement(
    scorer: CodeScorer,
    trie: CodeTrie,
    held_out: HeldOut,
    settings: EvaluationSettings,
    max_history: int,
    dense_weight: float,
) -> dict[str, float | int]:
    """Share of the exact first 10 and 100 items that the beam finds too, on a sample of users."""
    users = np.random.default_rng(settings.seed).permutation(len(held_out.targets))[: settings.exact_users]
    width = min(settings.beams, trie.n_items)
    shares: dict[int, list[float]] = {k: [] for k in (10, 100) if k <= width}
    for batch in np.array_split(users, max(1, len(users) // _EXACT_BATCH_USERS)):
        histories = padded([held_out.histories.of(int(user)) for user in batch], max_history)
        ranked = beam_search(scorer, trie, histories, beams=width, top_k=width, dense_weight=dense_weight)
        exact = np.argsort(-exact_scores(scorer, trie, histories, dense_weight), axis=1, kind="stable")
        for k in shares:
            for beam_items, exact_items in zip(ranked.items[:, :k], exact[:, :k], strict=True):
                shares[k].append(len(np.intersect1d(beam_items, exact_items)) / k)
    means = {f"exact@{k}": float(np.mean(values)) for k, values in shares.items()}
    return {"users": len(users), "beams": width, **means}


def slice_names(by: str, values: np.ndarray) -> np.ndarray:
    """The slice of each target, str [n_targets]."""
    edges, names = SLICES[by]
    return np.array(names)[np.searchsorted(edges, values)]


def metrics_by_slice(
    values: Mapping[str, np.ndarray],
    ranks: np.ndarray,
    popularity_ranks: np.ndarray,
    users: np.ndarray,
    deepest: float,
    samples: int,
    seed: int,
) -> dict[str, list[dict[str, Any]]]:
    """The metrics of each slice of targets, those that cannot be computed as None.

    Args:
        values: numbers to slice by, int [n_targets], under the names of ``SLICES``.
        ranks: ranks that the model gives, int [n_targets]; ``popularity_ranks`` are those of the popularity baseline.
        users: whose target each is, int [n_targets].
    """
    rows: dict[str, list[dict[str, Any]]] = {by: [] for by in values}
    for by, numbers in values.items():
        slices = slice_names(by, numbers)
        for name in SLICES[by][1]:
            inside = slices == name
            own = users[inside]
            summary = summarize(ranks[inside], own, deepest, samples, seed) if len(own) else {}
            popularity = mean_metrics(popularity_ranks[inside], own, deepest) if len(own) else {}
            low, high = summary.get("recall@10_interval", (None, None))
            rows[by].append(
                {"slice": name, "users": len(np.unique(own))}
                | {metric: summary.get(metric) for metric in SLICED}
                | {"recall@10_low": low, "recall@10_high": high, "popularity_recall@10": popularity.get("recall@10")}
            )
    return rows


def over_seeds(evaluations: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Mean and standard deviation of each metric over trainings that differ only in their seed; None for one seed.

    Args:
        evaluations: contents of ``beauty_metrics.json`` of one recipe. The first evaluation of each seed counts.

    Returns:
        ``seeds``, and under ``metrics`` for each ranking and metric ``mean``, ``spread`` (sample standard deviation)
        and ``values`` in the order of the seeds.
    """
    by_seed = {int(metrics["training"]["seed"]): metrics for metrics in reversed(evaluations)}
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
    """The metrics with ``training`` (``recipe`` and ``seed``), and under ``seeds`` what :func:`over_seeds` gives.

    Args:
        earlier: files ``beauty_metrics.json`` of earlier evaluations. Those of other recipes or settings, or of models
            that treat seen items in the other way, are ignored.
    """
    own = {**metrics, "training": training}
    alike = [
        other
        for other in map(read_json, earlier)
        if other.get("training", {}).get("recipe") == training["recipe"]
        and (other["settings"], other_way(other)) == (own["settings"], other_way(own))
    ]
    return {**own, "seeds": over_seeds([own, *alike])}
