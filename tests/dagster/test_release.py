"""Releases in the graph: they move through gates only, are compared with the served one, and go back."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import numpy as np
import polars as pl
import pytest

from genrec_core.bundle.model_folder import ModelFolder
from genrec_core.releases.pointer import (
    MODEL,
    require_pointer,
    serve,
    served_model,
    served_release,
    withdraw_from_served,
)
from genrec_core.storage.artifacts import MANIFEST, read_json, write_json, write_manifest
from genrec_core.storage.folders import latest
from genrec_dagster.assets import release
from genrec_dagster.assets.release import model_release
from genrec_dagster.checks.release import not_worse_than_current
from genrec_dagster.config import ReleaseRule
from genrec_dagster.experiment import release_of_alias
from genrec_dagster.resources import WorkFolders

if TYPE_CHECKING:
    from conftest import Place

RELEASE = ["model_release", "served_release"]


def built(result: dg.ExecuteInProcessResult) -> list[str]:
    return [event.asset_key.to_user_string() for event in result.get_asset_materialization_events()]


def said(result: dg.ExecuteInProcessResult, check: str) -> str:
    return next(e.description or "" for e in result.get_asset_check_evaluations() if e.check_name == check)


def metadata(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, Any]:
    events = result.get_asset_materialization_events()
    event = next(event for event in events if event.asset_key.to_user_string() == asset)
    return {name: entry.value for name, entry in event.materialization.metadata.items()}


def spoil(release: Path, some: bool = False) -> Path:
    """Make a release recommend what nobody buys, or only take some items' names for each other's."""
    ids = np.load(release / MODEL / "item_ids.npy")
    (release / MODEL / "item_ids.npy").unlink()  # a hard link of the release that is served
    changed = ids + 10**6
    if some:
        changed = ids.copy()
        changed[[0, 1]] = ids[[1, 0]]
    np.save(release / MODEL / "item_ids.npy", changed)
    write_manifest(release / MODEL)
    return release


def serve_another(place: "Place", version: str) -> None:
    shutil.copytree(served_release(place.storage), place.storage / "model_release" / version)
    serve(require_pointer(place.storage).moved(version, "items added"), place.storage)


def test_the_graph_ends_with_a_release_that_is_served_and_says_what_it_is_made_of(finished_graph: Any) -> None:
    run = finished_graph.result.run_id
    folder = served_release(finished_graph.storage)
    assert folder == finished_graph.storage / "model_release" / run
    facts = read_json(folder / "release.json")
    assert facts["version"] == run
    assert set(facts["made_from"]) == {
        *("raw_beauty", "item_catalog", "user_histories", "item_embeddings", "semantic_ids"),
        *("tiger_checkpoint", "recall_metrics", "onnx_encoder"),
    }
    assert {origin["run"] for origins in facts["made_from"].values() for origin in origins} == {run}
    assert facts["settings"]["tiger_checkpoint"]["epochs"] == 3
    assert facts["settings"]["semantic_ids"]["levels"] == 2
    for part, file in (("checkpoint", "model.safetensors"), ("semantic_ids", "codes.npy"), ("metrics", "report.html")):
        assert (folder / part / file).is_file()
    assert metadata(finished_graph.result, "batch_predictions")["release"] == run
    assert "21 gates passed" in said(finished_graph.result, "gates_passed")


def test_a_release_is_a_version_of_the_registered_model_with_a_copy_of_its_own(finished_graph: Any) -> None:
    from mlflow import MlflowClient

    run = finished_graph.result.run_id
    noted = read_json(latest("tiger_checkpoint", finished_graph.storage) / "experiment.json")
    client = MlflowClient(noted["tracking_uri"], noted["tracking_uri"])
    (version,) = client.search_model_versions(f"name = 'genrec' and tags.release = '{run}'")
    assert version.run_id == noted["run_id"]
    assert f"release-{run}/data/recommender" in {
        file.path for file in client.list_artifacts(noted["run_id"], f"release-{run}/data")
    }
    shown = metadata(finished_graph.result, "served_release")
    assert shown["alias"] == f"models:/genrec@champion is version {version.version}"


def test_a_new_release_moves_the_pointer_and_rolling_back_moves_it_back(place: "Place") -> None:
    first = place.served
    again = place.materialize(*RELEASE)
    assert again.success
    assert built(again) == RELEASE
    assert place.served == again.run_id
    assert release_of_alias(served_release(place.storage) / "checkpoint") == again.run_id
    assert "recall@10 +0.0000" in said(again, "not_worse_than_current")

    back = place.run_job("roll_back")
    assert back.success
    assert built(back) == ["served_release"]
    assert place.served == first
    assert release_of_alias(served_release(place.storage) / "checkpoint") == first
    assert metadata(back, "served_release")["reason"] == f"rolled back from {again.run_id}"
    predicted = place.run_job("predict")
    assert metadata(predicted, "batch_predictions")["release"] == first

    forth = place.materialize("served_release", config={"to": again.run_id})
    assert forth.success
    assert place.served == again.run_id


@pytest.mark.slow
def test_a_refitted_model_is_served_while_the_measured_one_is_compared(place: "Place") -> None:
    first = served_release(place.storage)
    result = place.materialize("onnx_encoder", *RELEASE, refit=True)
    assert result.success
    folder = served_release(place.storage)
    assert folder.name == result.run_id
    assert read_json(folder / "release.json")["models"]["measured"] == "measured"
    assert metadata(result, "model_release")["trained_on"].startswith("all interactions, ")
    assert "recall@10 +0.0000" in said(result, "not_worse_than_current")  # the same measured model
    interactions = (
        pl.read_parquet(latest("user_histories", place.storage) / "frame.parquet")["item_ids"].list.len().sum()
    )
    history = read_json(latest("onnx_encoder", place.storage) / "checkpoint" / "training_history.json")
    assert not any("validation_recall@10" in entry for entry in history["epochs"])
    counts = [np.load(model / "popularity.npy") for model in (first / MODEL, folder / "measured", folder / MODEL)]
    np.testing.assert_array_equal(counts[0], counts[1])
    assert counts[2].sum() == interactions > counts[1].sum()
    vectors = [np.load(model / "item_vectors.npy") for model in (first / MODEL, folder / "measured", folder / MODEL)]
    np.testing.assert_array_equal(vectors[0], vectors[1])
    assert not np.array_equal(vectors[1], vectors[2])

    item = int(ModelFolder(folder / MODEL).item_ids[0])
    withdraw_from_served(np.array([item]), root=place.storage)
    again = place.materialize("onnx_encoder", *RELEASE)
    assert again.success
    assert "recall@10 +0.0000" in said(again, "not_worse_than_current")
    assert not (served_release(place.storage) / "measured").exists()
    assert ModelFolder(served_model(place.storage)).withdrawn() == [item]


def test_there_is_nothing_before_the_first_release(place: "Place") -> None:
    first = place.served
    result = place.run_job("roll_back")
    assert not result.success
    data = result.failure_data_for_node("served_release")
    assert "is the first release" in data.user_failure_data.description
    assert data.error_display_string.strip() == data.user_failure_data.description
    assert place.served == first


def test_a_release_that_is_not_better_is_held_back_where_that_is_asked(place: "Place") -> None:
    first = place.served
    result = place.materialize(*RELEASE, rule="better")
    assert not result.success
    assert built(result) == ["model_release"]
    assert f"{first} stays: not better than {first}" in said(result, "not_worse_than_current")
    assert place.served == first
    assert metadata(place.run_job("predict"), "batch_predictions")["release"] == first
    # nor can the pointer be moved to it by itself
    alone = place.materialize("served_release")
    assert not alone.success
    assert "not_worse_than_current did not pass" in str(alone.failure_data_for_node("served_release").user_failure_data)
    assert place.served == first


def test_a_worse_release_is_held_back_and_a_rule_can_let_it_pass(place: "Place", tmp_path: Path) -> None:
    worse = spoil(Path(shutil.copytree(served_release(place.storage), tmp_path / "worse")))
    histories = pl.read_parquet(latest("user_histories", place.storage) / "frame.parquet")
    work = WorkFolders(root=str(place.storage))
    result = not_worse_than_current(worse, histories, ReleaseRule(users=200), work)
    assert not result.passed
    assert result.metadata["champion"].value == place.served
    rows = {record.data["metric"]: record.data for record in result.metadata["metrics"].value.records}
    assert rows["recall@10"]["challenger"] < rows["recall@10"]["champion"]
    assert rows["recall@10"]["high"] < 0
    assert not_worse_than_current(worse, histories, ReleaseRule(rule="always"), work).passed


def test_a_release_that_cannot_be_opened_is_held_back_without_advice_to_serve_it(
    place: "Place", tmp_path: Path
) -> None:
    damaged = Path(shutil.copytree(served_release(place.storage), tmp_path / "damaged"))
    (damaged / MODEL / "item_ids.npy").unlink()
    histories = pl.read_parquet(latest("user_histories", place.storage) / "frame.parquet")
    work = WorkFolders(root=str(place.storage))
    result = not_worse_than_current(damaged, histories, ReleaseRule(users=200), work)
    assert not result.passed
    assert "item_ids.npy: listed in manifest.json but missing" in str(result.description)
    assert "always" not in str(result.description)


def test_a_release_is_compared_with_the_best_that_was_served_before_too(place: "Place") -> None:
    best = place.served
    assert place.materialize(*RELEASE).success
    spoil(served_release(place.storage))
    assert place.served != best
    worse = served_release(place.storage)
    histories = pl.read_parquet(latest("user_histories", place.storage) / "frame.parquet")
    work = WorkFolders(root=str(place.storage))
    result = not_worse_than_current(worse, histories, ReleaseRule(samples=100), work)
    assert not result.passed
    assert f"{place.served} stays: worse than {best}" in str(result.description)
    outcomes = {row.data["against"]: row.data["outcome"] for row in result.metadata["metrics"].value.records}
    assert outcomes == {place.served: "not worse", best: "worse"}


def test_a_release_that_cannot_be_told_apart_waits_for_a_person(place: "Place") -> None:
    first = place.served
    other = spoil(Path(shutil.copytree(served_release(place.storage), place.folder / "other")), some=True)
    histories = pl.read_parquet(latest("user_histories", place.storage) / "frame.parquet")
    work = WorkFolders(root=str(place.storage))
    # Two items changed places, which costs one user of 200: without a margin no interval can tell that from noise.
    undecided = {"samples": 100, "margin": 0.0}
    result = not_worse_than_current(other, histories, ReleaseRule(**undecided), work)
    assert not result.passed
    assert f"{first} stays: cannot tell whether the loss to {first} is within 0.0%" in str(result.description)
    assert "release.accept_undecided: true" in str(result.description)
    assert not_worse_than_current(other, histories, ReleaseRule(**undecided, accept_undecided=True), work).passed


def test_a_release_is_made_and_served_while_mlflow_is_away(place: "Place", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    checkpoint = latest("tiger_checkpoint", place.storage)
    away = "http://127.0.0.1:9"  # nothing listens on the port of "discard"
    write_json(checkpoint / "experiment.json", {**read_json(checkpoint / "experiment.json"), "tracking_uri": away})
    write_manifest(checkpoint)
    result = place.materialize(*RELEASE)
    assert result.success
    assert place.served == result.run_id
    facts = read_json(served_release(place.storage) / "release.json")
    assert facts["settings"]["tiger_checkpoint"]["epochs"] == 3
    assert facts["mlflow"]["version"] is None
    assert metadata(result, "model_release")["mlflow_page"] == "not registered"


def test_a_gate_that_did_not_look_at_what_is_released_holds_it_back(place: "Place", tmp_path: Path) -> None:
    first, scratch = place.served, tmp_path / "scratch"
    export = latest("onnx_encoder", place.storage)

    @dg.asset(name="onnx_encoder", deps=["tiger_checkpoint", "recall_metrics"])
    def exported_again() -> Path:
        return Path(shutil.copytree(export, scratch, ignore=shutil.ignore_patterns(MANIFEST)))

    assert place.materialize("onnx_encoder", replacement=exported_again, checked=False).success
    result = place.materialize(*RELEASE)
    assert not result.success
    assert built(result) == ["model_release"]
    assert "19 gates passed, wanted 21" in said(result, "gates_passed")
    assert "onnx_encoder onnx_latency: not run on this version" in said(result, "gates_passed")
    assert place.served == first


def test_parts_of_different_trainings_are_not_released_together(place: "Place", tmp_path: Path) -> None:
    first, scratch = place.served, tmp_path / "scratch"
    checkpoint = latest("tiger_checkpoint", place.storage)

    @dg.asset(name="tiger_checkpoint")
    def trained_again() -> dg.MaterializeResult[Path]:
        folder = Path(shutil.copytree(checkpoint, scratch, ignore=shutil.ignore_patterns(MANIFEST)))
        return dg.MaterializeResult(value=folder, data_version=dg.DataVersion("another"))

    assert place.materialize("tiger_checkpoint", replacement=trained_again, checked=False).success
    result = place.materialize(*RELEASE)
    assert not result.success
    assert "tiger_checkpoint: parts were made from different versions" in said(result, "parts_belong_together")
    assert place.served == first


def test_a_dagster_that_knows_nothing_of_the_parts_releases_nothing(place: "Place") -> None:
    first = place.served
    place.instance = dg.DagsterInstance.ephemeral()
    result = place.materialize(*RELEASE)
    assert not result.success
    assert "onnx_encoder: not materialised in this Dagster instance" in said(result, "parts_belong_together")
    assert place.served == first


def test_a_bad_release_can_be_left_while_mlflow_is_away(place: "Place", monkeypatch: pytest.MonkeyPatch) -> None:
    first = place.served
    assert place.materialize(*RELEASE).success
    away = "http://127.0.0.1:9"  # nothing listens on the port of "discard"
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    checkpoint = place.storage / "model_release" / first / "checkpoint"
    write_json(checkpoint / "experiment.json", {**read_json(checkpoint / "experiment.json"), "tracking_uri": away})
    write_manifest(checkpoint.parent)
    result = place.run_job("roll_back")
    assert result.success
    assert place.served == first
    assert metadata(result, "served_release")["alias"].startswith("not moved: ")
    (check,) = result.get_asset_check_evaluations()
    assert not check.passed
    assert check.severity == dg.AssetCheckSeverity.WARN


def test_items_withdrawn_from_one_release_are_withdrawn_from_the_next(place: "Place") -> None:
    model = served_model(place.storage)
    ids = np.load(model / "item_ids.npy")
    ModelFolder(model).withdraw(ids[:2])
    assert place.materialize(*RELEASE).success
    assert served_model(place.storage) != model
    assert ModelFolder(served_model(place.storage)).withdrawn() == ids[:2].tolist()
    predictions = place.run_job("predict")
    assert predictions.success
    listed = pl.read_csv(latest("batch_predictions", place.storage) / "predictions.csv").drop("user_id")
    assert not set(ids[:2]) & set(listed.unpivot()["value"].to_list())


def test_an_item_that_is_restored_while_the_pointer_moves_is_restored(
    place: "Place", monkeypatch: pytest.MonkeyPatch
) -> None:
    first = served_model(place.storage)
    ids, move_alias = np.load(first / "item_ids.npy"), release._move_alias
    ModelFolder(first).withdraw(ids[:2])
    serve_another(place, "other")
    (served_model(place.storage) / "withdrawn.json").unlink()
    ModelFolder(served_model(place.storage)).withdraw(ids[2:5])

    def restore_meanwhile(*given: Any) -> str:
        withdraw_from_served(ids[2:4], restore=True, root=place.storage)
        return move_alias(*given)

    monkeypatch.setattr(release, "_move_alias", restore_meanwhile)
    result = place.run_job("roll_back")
    assert metadata(result, "served_release")["withdrawn_carried_over"] == 3
    assert served_model(place.storage) == first
    assert ModelFolder(first).withdrawn() == ids[[0, 1, 4]].tolist()


def test_a_release_that_was_served_meanwhile_stays_served(place: "Place", monkeypatch: pytest.MonkeyPatch) -> None:
    first = place.served
    shutil.copytree(served_release(place.storage), place.storage / "model_release" / "other")
    move_alias = release._move_alias

    def serve_another_meanwhile(*given: Any) -> str:
        serve(require_pointer(place.storage).moved("other", "quicker"), place.storage)
        return move_alias(*given)

    monkeypatch.setattr(release, "_move_alias", serve_another_meanwhile)
    result = place.materialize(*RELEASE)
    assert not result.success
    assert "release other was served while this ran" in str(result.failure_data_for_node("served_release").error)
    assert require_pointer(place.storage).known == (first, "other")
    assert not (place.storage / "served_release" / result.run_id).exists()
    monkeypatch.undo()
    assert place.run_job("roll_back").success
    assert place.served == first


def test_a_release_replaces_only_the_one_that_it_was_compared_with(place: "Place") -> None:
    first = place.served
    made = place.materialize("model_release")
    serve_another(place, "other")
    alone = place.materialize("served_release")
    assert not alone.success
    reason = f"release other is served since the gate compared {made.run_id} with {first}; run the check"
    assert reason in str(alone.failure_data_for_node("served_release").user_failure_data)
    assert place.served == "other"


def test_the_newest_release_by_name_is_not_gone_back_to_unless_it_is_named(place: "Place") -> None:
    first = place.served
    serve_another(place, "other")  # and the process dies before the newest release is `other`
    result = place.materialize("served_release")
    assert not result.success
    said = str(result.failure_data_for_node("served_release").user_failure_data)
    assert f"release {first} was served before other; to go back to it" in said
    assert f"with to: {first}" in said
    assert place.served == "other"
    assert place.materialize("served_release", config={"to": first}).success
    assert place.served == first


def test_a_release_that_needs_no_comparison_replaces_whatever_is_served(place: "Place") -> None:
    made = place.materialize("model_release", rule="always")
    serve_another(place, "other")
    assert place.materialize("served_release").success
    assert place.served == made.run_id


def test_the_release_says_what_it_holds() -> None:
    assert {key.to_user_string() for key in model_release.asset_deps[model_release.key]} == {
        *("tiger_checkpoint", "semantic_ids", "recall_metrics", "onnx_encoder", "user_histories"),
    }


def test_a_served_model_of_an_older_form_says_how_to_replace_it(place: "Place") -> None:
    model = served_release(place.storage) / MODEL
    settings = read_json(model / "recommender.json")
    (model / "recommender.json").unlink()  # a hard link
    write_json(model / "recommender.json", {**settings, "format": 6})
    write_manifest(model)
    result = place.materialize("model_release", "served_release")
    assert not result.success
    assert "format 6, but this version reads" in said(result, "not_worse_than_current")
    assert "set release.rule to always" in said(result, "not_worse_than_current")
    assert place.materialize("model_release", "served_release", rule="always").success
