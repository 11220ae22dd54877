"""Drift and odd predictions are shown with numbers and stop nothing; old assets are stale."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import numpy as np
import polars as pl
import pytest
from dagster._core.definitions import freshness_evaluator
from dagster._core.definitions.freshness import FreshnessState
from dagster._core.loader import LoadingContextForTest

from genrec_core.errors import GenrecError
from genrec_core.monitoring.answers import Exposure
from genrec_core.recommend.predict import PredictionReport
from genrec_core.releases.pointer import served_release
from genrec_core.settings import freshness_from_environment
from genrec_core.storage.folders import latest
from genrec_dagster.checks import drift
from genrec_dagster.checks.serving import misses_are_few, shows_enough
from genrec_dagster.config import Monitoring
from genrec_dagster.definitions import defs
from genrec_dagster.jobs import daily_monitoring
from genrec_dagster.resources import WorkFolders

if TYPE_CHECKING:
    from conftest import Place

DRIFT = {"new_items", "gone_items", "unknown_items", "history_lengths", "item_popularity"}
WARN = dg.AssetCheckSeverity.WARN


def evaluations(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    return {evaluation.check_name: evaluation for evaluation in result.get_asset_check_evaluations()}


def frame(place: "Place", asset: str) -> pl.DataFrame:
    return pl.read_parquet(latest(asset, place.storage) / "frame.parquet")


# --- drift ----------------------------------------------------------------------------------------------------------


def test_before_the_first_release_there_is_nothing_to_compare_with(finished_graph: Any) -> None:
    found = evaluations(finished_graph.result)
    assert {name: found[name].passed for name in DRIFT} == dict.fromkeys(DRIFT, True)
    assert {found[name].description for name in DRIFT} == {"skipped: no release is served yet"}


def test_the_job_finds_no_drift_where_the_release_was_trained_on_these_data(place: "Place") -> None:
    job = place.definitions().resolve_job_def("monitor")
    result = job.execute_in_process(instance=place.instance)
    found = evaluations(result)
    assert set(found) == DRIFT
    assert {name: found[name].metadata["measured"].value for name in DRIFT} == dict.fromkeys(DRIFT, 0.0)
    assert not result.get_asset_materialization_events()


def moved(place: "Place") -> dict[str, dg.AssetCheckResult]:
    """The checks on other data: a third of the items is new, histories are four times as long, all of the new items."""
    catalog, histories = frame(place, "item_catalog"), frame(place, "user_histories")
    new = catalog.head(60).with_columns(pl.col("item_id") + 10_000)
    catalog = pl.concat([catalog.tail(100), new])
    longer = pl.concat_list([pl.col("item_ids").list.eval(pl.element() % 60 + 10_001)] * 4)
    histories = histories.with_columns(item_ids=longer)
    given = (Monitoring(), WorkFolders(root=str(place.storage)))
    return {
        "new_items": drift.new_items(catalog, *given),
        "gone_items": drift.gone_items(catalog, *given),
        "unknown_items": drift.unknown_items(histories, *given),
        "history_lengths": drift.history_lengths(histories, *given),
        "item_popularity": drift.item_popularity(histories, *given),
    }


def test_data_that_moved_away_are_a_warning_with_its_number(place: "Place") -> None:
    found = moved(place)
    assert {(result.passed, result.severity) for result in found.values()} == {(False, WARN)}
    measured = {name: result.metadata["measured"].value for name, result in found.items()}
    assert measured["new_items"] == 60 / 160
    assert measured["gone_items"] == 20 / 120
    assert measured["unknown_items"] == 1
    assert measured["item_popularity"] == pytest.approx(1)
    assert measured["history_lengths"] > 0.25
    said = str(found["new_items"].description)
    assert said.startswith(
        "measured 0.375, wanted at most 0.05 (share of new items); 60 of 160 items are new; add them"
    )


def test_bounds_and_severity_are_settings(place: "Place") -> None:
    catalog, work = frame(place, "item_catalog").head(100), WorkFolders(root=str(place.storage))
    assert drift.gone_items(catalog, Monitoring(max_gone_items=0.2), work).passed
    assert drift.gone_items(catalog, Monitoring(severity="error"), work).severity == dg.AssetCheckSeverity.ERROR


def test_a_release_that_keeps_no_profile_is_told(place: "Place") -> None:
    (served_release(place.storage) / "profile.json").unlink()
    result = drift.new_items(frame(place, "item_catalog"), Monitoring(), WorkFolders(root=str(place.storage)))
    assert (result.passed, result.severity) == (False, WARN)
    assert "materialise model_release, then served_release" in str(result.description)


def test_the_schedule_waits_for_a_release(place: "Place", tmp_path: Path) -> None:
    def tick(root: Path) -> Any:
        return daily_monitoring(dg.build_schedule_context(resources={"work": WorkFolders(root=str(root))}))

    assert isinstance(tick(tmp_path / "empty"), dg.SkipReason)
    assert isinstance(tick(place.storage), dg.RunRequest)


# --- predictions ----------------------------------------------------------------------------------------------------


def test_a_batch_says_what_it_shows_and_misses(finished_graph: Any) -> None:
    events = finished_graph.result.get_asset_materialization_events()
    event = next(event for event in events if event.asset_key.to_user_string() == "batch_predictions")
    metadata = {name: entry.value for name, entry in event.materialization.metadata.items()}
    lists = pl.read_csv(latest("batch_predictions", finished_graph.storage) / "predictions.csv").drop("user_id")
    assert metadata["coverage"] == pytest.approx(len(np.unique(lists.to_numpy())) / 120, rel=1e-3)
    assert 0 < metadata["gini"] < 1
    for name in ("unknown_items", "popular_answers", "short_answers", "rejected_lines"):
        assert metadata[f"{name}_share"] == 0
    found = evaluations(finished_graph.result)
    assert found["catalogue_shown"].metadata["gini"].value == pytest.approx(metadata["gini"], rel=1e-3)
    assert found["served_as_asked"].passed


def test_lists_that_are_all_alike_are_a_warning() -> None:
    alike = shows_enough(Exposure(np.array([200] * 10 + [0] * 990)), Monitoring())
    assert (alike.passed, alike.severity) == (False, WARN)
    assert alike.metadata["coverage"].value == 0.01
    assert "wanted a coverage of at least 0.05, a Gini coefficient of at most 0.95" in str(alike.description)


def test_the_exposure_of_a_few_lists_is_no_warning() -> None:
    """Whoever asks for one list of ten items cannot see every item as often."""
    few = shows_enough(Exposure(np.array([1] * 10 + [0] * 990)), Monitoring())
    assert few.passed
    assert "Gini" not in few.metadata["wanted"].value


def test_each_kind_of_miss_has_its_bound() -> None:
    report = PredictionReport(users=100, history_items=100, unknown_items=3, empty_histories=10, rejected=5)
    result = misses_are_few(report, Monitoring())
    assert (result.passed, result.severity) == (False, WARN)
    assert "too many: unknown items, rejected lines" in str(result.description)
    assert result.metadata["popular_answers"].value == 0.1
    assert misses_are_few(report, Monitoring(max_unknown_items=0.03, max_rejected_lines=0.05)).passed


# --- freshness ------------------------------------------------------------------------------------------------------


def state(name: str, instance: dg.DagsterInstance) -> FreshnessState:
    node = defs.resolve_asset_graph().get(dg.AssetKey(name))
    evaluator = freshness_evaluator.TimeWindowFreshnessPolicyEvaluator()
    return asyncio.run(evaluator.evaluate_freshness(LoadingContextForTest(instance), node))


@pytest.mark.parametrize(("name", "days"), [("raw_beauty", 7), ("served_release", 30), ("batch_predictions", 7)])
def test_an_asset_that_was_not_built_anew_for_long_is_stale(
    name: str, days: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        assert state(name, instance) == FreshnessState.UNKNOWN
        instance.report_runless_asset_event(dg.AssetMaterialization(name))
        assert state(name, instance) == FreshnessState.PASS
        now = freshness_evaluator.get_current_timestamp()
        for share, wanted in ((0.6, FreshnessState.WARN), (1.1, FreshnessState.FAIL)):
            later = now + share * days * 86_400
            monkeypatch.setattr(freshness_evaluator, "get_current_timestamp", lambda later=later: later)
            assert state(name, instance) == wanted


def test_the_instance_evaluates_freshness(place: "Place") -> None:
    assert "FRESHNESS_DAEMON" in place.instance.get_required_daemon_types()


def test_how_old_an_asset_may_become_is_set_by_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENREC_FRESH_RAW_HOURS", "12.5")
    assert freshness_from_environment().raw_hours == 12.5
    assert freshness_from_environment().predictions_hours == 168
    monkeypatch.setenv("GENREC_FRESH_RAW_HOURS", "0")
    with pytest.raises(GenrecError, match=r"GENREC_FRESH_RAW_HOURS=0: .*greater than or equal to 0\.1"):
        freshness_from_environment()
