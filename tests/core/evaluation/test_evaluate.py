"""The whole report on a small random catalogue, and what lands on disk."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genrec_core.data.histories import Histories
from genrec_core.errors import GenrecError
from genrec_core.evaluation import evaluate as evaluation
from genrec_core.evaluation.evaluate import TIE_ORDER, evaluate, over_seeds
from genrec_core.evaluation.metrics import paired_differences
from genrec_core.evaluation.pages.metrics import require_room_for_metrics, write_metrics
from genrec_core.quantization.semantic_ids import SemanticIds
from genrec_core.search.beams import CodeScorer
from genrec_core.search.generative import RankingWeights
from genrec_core.settings import EvaluationSettings

N_ITEMS, LEVEL_SIZES = 150, (6, 7, 8)
WEIGHTS = RankingWeights(dense=True, hybrid=0.4)
MakeScorer = Callable[[tuple[int, ...], int, int], CodeScorer]


def histories_of(lengths: list[int], seed: int = 0) -> Histories:
    random = np.random.default_rng(seed)
    rows = np.concatenate([random.choice(N_ITEMS, length, replace=False) for length in lengths])
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Histories([f"u{user}" for user in range(len(lengths))], rows.astype(np.int32), offsets)


def semantic_ids() -> SemanticIds:
    all_codes = np.stack(np.meshgrid(*map(np.arange, LEVEL_SIZES), indexing="ij"), axis=-1).reshape(-1, 3)
    codes = np.random.default_rng(1).permutation(all_codes)[:N_ITEMS].astype(np.int32)
    return SemanticIds(np.arange(1, N_ITEMS + 1), codes, LEVEL_SIZES)


def measured(make_scorer: MakeScorer, beams: int, weights: RankingWeights = WEIGHTS) -> dict[str, Any]:
    histories = histories_of([2, *range(3, 28), 40, 9, 9, 1])
    settings = EvaluationSettings(beams=beams, batch_users=8, bootstrap_samples=50, seed=4)
    return evaluate(make_scorer(LEVEL_SIZES, N_ITEMS, 2), semantic_ids(), histories, settings, 10, weights)


@pytest.fixture(scope="module")
def whole(table_scorer: MakeScorer) -> dict[str, Any]:
    """Beams hold the catalogue, so all figures are exact."""
    return measured(table_scorer, beams=1000)


def test_every_mode_has_every_metric_with_its_interval(whole: dict[str, Any]) -> None:
    names = ["recall@5", "recall@10", "recall@50", "recall@100", "recall@1000", "ndcg@5", "ndcg@10"]
    for mode in ("generative", "hybrid", "dense", "hybrid_history_kept", "popularity"):
        for name in names:
            low, high = whole[mode][f"{name}_interval"]
            assert 0 <= low <= whole[mode][name] <= high <= 1


def test_the_report_says_what_was_measured(whole: dict[str, Any]) -> None:
    metrics = whole
    assert (metrics["users"], metrics["skipped_users"]) == (28, 2)
    assert (metrics["items"], metrics["beams"], metrics["seed"], metrics["max_history"]) == (N_ITEMS, N_ITEMS, 4, 10)
    assert metrics["settings"]["bootstrap_samples"] == 50
    assert metrics["tie_order"] == f"{TIE_ORDER} No times are known here."
    assert metrics["repeated_targets"] == 0
    assert metrics["cutoffs_over_all_items"] == [1000]
    assert metrics["cutoffs_not_reported"] == []
    assert 0 < metrics["generative"]["miss_share"] < 1


def test_a_list_of_every_item_holds_every_target_and_covers_the_catalogue(whole: dict[str, Any]) -> None:
    assert whole["generative"]["recall@1000"] == 1.0
    assert whole["generative_history_kept"]["recall@1000"] == 1.0
    assert whole["popularity"]["recall@1000"] == 1.0
    assert 10 / N_ITEMS <= whole["generative"]["coverage@10"] <= whole["generative"]["coverage@100"] <= 1


def test_taking_the_history_out_never_lowers_recall(whole: dict[str, Any]) -> None:
    for k in (5, 10, 50, 100):
        removed, kept = whole["generative"], whole["generative_history_kept"]
        assert removed[f"recall@{k}"] >= kept[f"recall@{k}"]


def test_slices_of_each_kind_hold_every_user_once(whole: dict[str, Any]) -> None:
    assert list(whole["slices"]) == ["history_length", "target_popularity"]
    for rows in whole["slices"].values():
        assert sum(row["users"] for row in rows) == 28
        hits = sum(row["users"] * row["recall@10"] for row in rows if row["users"])
        assert hits == pytest.approx(28 * whole["hybrid"]["recall@10"])


def test_a_model_without_a_dense_head_is_measured_by_generating_alone(table_scorer: MakeScorer) -> None:
    settings, scorer = EvaluationSettings(beams=50, bootstrap_samples=20), table_scorer(LEVEL_SIZES, N_ITEMS, 2)
    weights = RankingWeights(dense=False, hybrid=0.4)
    metrics = evaluate(scorer, semantic_ids(), histories_of([5, 6, 7]), settings, 10, weights)
    assert metrics["ranking"] == "generative"
    assert "hybrid" not in metrics
    assert "dense" not in metrics


def test_items_new_since_training_are_measured_apart(whole: dict[str, Any]) -> None:
    new = whole["new_items"]
    assert 0 < new["test_targets"] < 28
    assert 0 < whole["hybrid"]["new_item_share@10"] < 1
    assert whole["dense"]["new_item_recall@1000"] == 1.0  # the list holds every item
    assert whole["popularity"]["new_item_share@10"] == 0.0


def test_recall_beyond_the_beams_is_not_reported(table_scorer: MakeScorer) -> None:
    metrics = measured(table_scorer, beams=20)
    assert metrics["beams"] == 20
    assert metrics["cutoffs_not_reported"] == [50, 100, 1000]
    assert "recall@50" not in metrics["generative"]
    assert "coverage@100" not in metrics["generative"]
    assert {"recall@5", "recall@10", "ndcg@10", "coverage@10"} < set(metrics["generative"])


def test_a_second_evaluation_is_the_same(whole: dict[str, Any], table_scorer: MakeScorer) -> None:
    assert measured(table_scorer, beams=1000) == whole


def test_what_is_written_reads_back(whole: dict[str, Any], tmp_path: Path) -> None:
    write_metrics(tmp_path, whole)
    assert json.loads((tmp_path / "beauty_metrics.json").read_text()) == whole
    for plot in ("recall.png", "slices.png"):
        content = (tmp_path / plot).read_bytes()
        assert content.startswith(b"\x89PNG")
        assert len(content) < 100_000


def test_the_folder_that_one_is_in_is_written(
    whole: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "metrics").mkdir()
    monkeypatch.chdir(tmp_path / "metrics")
    write_metrics(Path("."), whole)
    assert json.loads((tmp_path / "metrics" / "beauty_metrics.json").read_text()) == whole
    assert [path.name for path in tmp_path.iterdir()] == ["metrics"]


def test_a_folder_that_cannot_be_replaced_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    with pytest.raises(GenrecError, match="/proc: is the root of a disk"):
        require_room_for_metrics(Path("/proc"))
    with pytest.raises(GenrecError, match=r"no folder may be made in /proc/\d+"):
        require_room_for_metrics(Path("/proc/self/new/metrics"))
    (tmp_path / "notes.txt").write_text("keep me")
    with pytest.raises(GenrecError, match=r"notes\.txt: is not a folder"):
        require_room_for_metrics(tmp_path / "notes.txt")
    with pytest.raises(GenrecError, match=r"holds notes\.txt, which is not a metrics file"):
        require_room_for_metrics(tmp_path)
    (tmp_path / "notes.txt").rename(tmp_path / "ranks.parquet")  # a file of an evaluation of 0.1
    require_room_for_metrics(tmp_path)


def test_a_folder_that_can_no_longer_be_written_is_told_of_in_a_sentence(whole: dict[str, Any]) -> None:
    with pytest.raises(GenrecError, match=r"/proc/new: cannot be written .*; name another folder"):
        write_metrics(Path("/proc/new"), whole)  # access(2) says that root may


def test_the_figures_of_a_model_that_keeps_seen_items_are_those_with_them(
    whole: dict[str, Any], table_scorer: MakeScorer, tmp_path: Path
) -> None:
    kept = measured(table_scorer, beams=1000, weights=replace(WEIGHTS, exclude_seen=False))
    for name in ("recall@10", "ndcg@10", "recall@10_interval"):
        assert kept["hybrid"][name] == whole["hybrid_history_kept"][name]
        assert kept["hybrid_history_removed"][name] == whole["hybrid"][name]
    assert kept["popularity_history_removed"]["ndcg@10"] == whole["popularity"]["ndcg@10"]
    assert kept["popularity"]["coverage@10"] == 10 / N_ITEMS  # one list for all users
    write_metrics(tmp_path, kept)
    page = (tmp_path / "report.html").read_text()
    assert "Lists may hold items that the user already has." in page
    assert f"<tr><td>Recall@10, history removed</td><td>{kept['generative_history_removed']['recall@10']:.4f}" in page


def test_differences_are_paired_and_an_equal_rival_has_none(whole: dict[str, Any], table_scorer: MakeScorer) -> None:
    against = whole["against"]["popularity"]["recall@10"]
    difference = whole["hybrid"]["recall@10"] - whole["popularity"]["recall@10"]
    assert against["difference"] == pytest.approx(difference)
    assert against["low"] <= against["difference"] <= against["high"]
    ranks = np.array([0, 3, -1, 12])
    same = paired_differences(ranks, ranks, np.arange(4), math.inf, 20, 0)["recall@10"]
    assert same == {"difference": 0.0, "low": 0.0, "high": 0.0}


def test_a_baseline_is_measured_on_the_same_users(table_scorer: MakeScorer) -> None:
    settings, scorer = EvaluationSettings(beams=50, bootstrap_samples=20), table_scorer(LEVEL_SIZES, N_ITEMS, 2)
    metrics = evaluate(
        scorer, semantic_ids(), histories_of([5, 6, 7]), settings, 10, WEIGHTS, rivals={"sasrec": scorer}
    )
    assert metrics["sasrec"] == metrics["dense"]
    assert set(metrics["against"]) == {"generative", "dense", "popularity", "sasrec"}


def test_a_beam_over_the_whole_catalogue_finds_all_that_exact_scoring_finds(whole: dict[str, Any]) -> None:
    for mode in ("generative", "hybrid"):
        exact = whole["beam_against_exact"][mode]
        assert (exact["exact@10"], exact["exact@100"]) == (1.0, 1.0)


def test_the_report_is_one_page_with_its_plots_inside(whole: dict[str, Any], tmp_path: Path) -> None:
    seeds = over_seeds([{**whole, "training": {"seed": seed, "recipe": "r"}} for seed in (1, 2)])
    write_metrics(tmp_path, {**whole, "seeds": seeds})
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "http://" not in page.replace("http://www.w3.org", "")
    for text in ("hybrid", "less popularity", "Over 2 seeds", "Beam against exact", "Gini of exposure"):
        assert text in page
    assert f"{whole['hybrid']['recall@10']:.4f}" in page


def test_the_mean_over_seeds_needs_two_of_them() -> None:
    def metrics_of(seed: int, recall: float) -> dict[str, object]:
        return {"generative": {"recall@10": recall}, "training": {"seed": seed, "recipe": "r"}}

    assert over_seeds([metrics_of(1, 0.1), metrics_of(1, 0.2)]) is None
    seeds = over_seeds([metrics_of(2, 0.1), metrics_of(1, 0.3)])
    assert seeds is not None
    assert seeds["seeds"] == [1, 2]
    at = seeds["metrics"]["generative"]["recall@10"]
    assert at["values"] == [0.3, 0.1]
    assert (at["mean"], at["spread"]) == (pytest.approx(0.2), pytest.approx(0.02**0.5))


def test_the_first_items_of_users_of_the_test_window_are_measured_apart(
    table_scorer: MakeScorer, tmp_path: Path
) -> None:
    histories = histories_of([5, 6, 2, 4])
    windows = np.array([[1, 1, 0, 1], [2, 1, 2, 3]])
    by_time = Histories(histories.user_ids, histories.rows, histories.offsets, np.zeros(17, np.int64), windows)
    settings, scorer = EvaluationSettings(beams=1000, bootstrap_samples=20), table_scorer(LEVEL_SIZES, N_ITEMS, 2)
    metrics = evaluate(scorer, semantic_ids(), by_time, settings, 10, WEIGHTS)
    assert (metrics["users"], metrics["targets"], metrics["skipped_users"]) == (4, 2 + 1 + 1 + 3, 0)
    assert metrics["new_users"]["users"] == 1  # the third: one of its two items in the window has an item before it
    assert metrics["new_users"]["popularity"]["recall@1000"] == 1.0  # the list holds every item
    assert metrics["tie_order"].endswith("100.0% have the time of the item before or after them.")
    write_metrics(tmp_path, metrics)
    page = " ".join((tmp_path / "report.html").read_text().split())
    assert "4 users of the test split with 7 targets, and each user counts alike," in page


def test_histories_too_short_to_test_on_are_an_error(table_scorer: MakeScorer) -> None:
    scorer = table_scorer(LEVEL_SIZES, N_ITEMS, 2)
    with pytest.raises(GenrecError, match="none of 2 histories has three items"):
        evaluate(scorer, semantic_ids(), histories_of([2, 1]), EvaluationSettings(), 10, WEIGHTS)


def test_in_a_large_catalogue_some_users_are_ranked_and_the_dense_ranking_is_checked(
    table_scorer: MakeScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "_LARGE_ITEMS", N_ITEMS - 1)
    monkeypatch.setattr(evaluation, "_LARGE_USERS", 7)
    metrics = measured(table_scorer, beams=50)
    assert (metrics["users"], list(metrics["beam_against_exact"])) == (7, ["dense"])
    assert metrics["beam_against_exact"]["dense"]["exact@10"] == 1.0
