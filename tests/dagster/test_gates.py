"""Each gate fails on data that breaks it, says what was measured and wanted, and stops everything downstream."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
import pytest

from genrec_core.storage.artifacts import MANIFEST, read_json, write_json
from genrec_core.storage.folders import latest
from genrec_dagster.assets.model import onnx_encoder
from genrec_dagster.assets.serving import batch_predictions
from genrec_dagster.checks.catalog import (
    codebook_use,
    every_text_told_apart,
    histories_long_enough,
    suffix_depth,
    texts_told_apart,
)
from genrec_dagster.checks.check import check_result, skipped
from genrec_dagster.checks.model import loss_falls, recall_at_1000
from genrec_dagster.config import CodebookForm, Gates, TextVectorForm

Break = Callable[[Any], Any]


def edit_json(name: str, change: Callable[[Any], None]) -> Break:
    """Change the content of a JSON file in a folder; NaN may be written."""

    def broken(folder: Path) -> None:
        content = read_json(folder / name)
        change(content)
        (folder / name).write_text(json.dumps(content))

    return broken


def edit_array(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Break:
    def broken(folder: Path) -> None:
        np.save(folder / name, change(np.load(folder / name)))

    return broken


def edit_lines(name: str, change: Callable[[list[str]], list[str]]) -> Break:
    def broken(folder: Path) -> None:
        lines = (folder / name).read_text().splitlines()
        (folder / name).write_text("\n".join(change(lines)) + "\n")

    return broken


def empty_meta(folder: Path) -> None:
    (folder / "meta.json.gz").write_bytes(b"")


def change_weights(folder: Path) -> None:
    from safetensors.numpy import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    changed = {
        name: np.asarray(tensor + 0.1, np.float32) if tensor.dtype == np.float32 else tensor
        for name, tensor in weights.items()
    }
    save_file(changed, folder / "model.safetensors", metadata={"format": "pt"})


def change_vectors(folder: Path) -> None:
    """Vectors that the model was not trained on; the folder's own answers and manifest agree with them."""
    from genrec_core.bundle.onnx_scorer import write_self_test
    from genrec_core.storage.artifacts import write_manifest

    edit_array("item_vectors.npy", lambda vectors: vectors[::-1])(folder)
    write_self_test(folder)
    write_manifest(folder)


def with_row(frame: pl.DataFrame, user: str, items: list[int]) -> pl.DataFrame:
    return frame.vstack(pl.DataFrame({"user_id": [user], "item_ids": [items]}, schema=frame.schema))


def repeat_code(codes: np.ndarray) -> np.ndarray:
    codes[1] = codes[0]
    return codes


def spoil_first(vectors: np.ndarray) -> np.ndarray:
    vectors[0, 0] = np.nan
    return vectors


def set_generative(name: str, value: float) -> Break:
    return edit_json("beauty_metrics.json", lambda metrics: metrics["generative"].update({name: value}))


def as_popularity(folder: Path) -> None:
    def change(metrics: dict[str, Any]) -> None:
        for ranking in ("popularity", metrics["ranking"]):
            metrics[ranking]["recall@10"] = 0.5

    edit_json("beauty_metrics.json", change)(folder)


def repeat_first_prediction(lines: list[str]) -> list[str]:
    user, first, _, *rest = lines[1].split(",")
    return [lines[0], ",".join([user, first, first, *rest]), *lines[2:]]


FRAMES = {"item_catalog", "user_histories"}
GATES: list[tuple[str, str, Break, str, str]] = [
    ("raw_beauty", "raw_files_present", empty_meta, "2 files", "3 files"),
    (
        "raw_beauty",
        "raw_lines_parse",
        edit_lines("sequential_data.txt", lambda lines: [*lines, "9999 soap"]),
        "a line that does not parse",
        "every line parses",
    ),
    (
        "raw_beauty",
        "raw_counts",
        edit_json("datamaps.json", lambda maps: maps["item2id"].pop(next(iter(maps["item2id"])))),
        "files that cannot be counted",
        "users, items and interactions",
    ),
    ("item_catalog", "catalog_ids_unique", lambda f: f.vstack(f.head(1)), "1 repeated", "0 repeated"),
    (
        "item_catalog",
        "catalog_text_present",
        lambda f: f.with_columns(text=pl.when(pl.col("item_id") == 3).then(pl.lit(" ")).otherwise("text")),
        "1 items without text",
        "0 items without text",
    ),
    ("user_histories", "histories_know_items", lambda f: with_row(f, "new", [1, 2, 99_999]), "1 unknown", "0 unknown"),
    (
        "user_histories",
        "histories_long_enough",
        lambda f: f.with_columns(pl.col("item_ids").list.head(2)),
        "0 users with 3 items or more, 200 with fewer",
        "at least 1 user",
    ),
    (
        "item_embeddings",
        "embeddings_finite",
        edit_array("item_embeddings_raw.npy", spoil_first),
        "1 vectors that are not finite",
        "0 vectors that are not finite",
    ),
    (
        "item_embeddings",
        "embeddings_follow_catalog",
        edit_json("item_ids.json", lambda ids: ids.reverse()),
        "120 vectors, ids not in catalogue order",
        "120 vectors, ids in catalogue order",
    ),
    (
        "item_embeddings",
        "texts_told_apart",
        edit_array(
            "item_embeddings_l2norm.npy", lambda vectors: np.where(np.arange(120)[:, None] < 7, vectors[0], vectors)
        ),
        "7 of 120 items with the vector of another text",
        "at most 5% of the items",
    ),
    (
        "semantic_ids",
        "semantic_ids_collision_free",
        edit_array("codes_with_suffix.npy", repeat_code),
        "119 distinct codes for 120 items",
        "120 distinct codes for 120 items",
    ),
    (
        "tiger_checkpoint",
        "loss_is_finite",
        edit_json("training_history.json", lambda history: history["epochs"][1].update(loss=float("nan"))),
        "2 finite losses",
        "3",
    ),
    (
        "tiger_checkpoint",
        "loss_falls",
        edit_json("training_history.json", lambda history: history["epochs"][-1].update(loss=99.0)),
        "99",
        "less than the first epoch's",
    ),
    ("tiger_checkpoint", "checkpoint_reloads", change_weights, "", "scores that differ by at most 0.0001"),
    ("recall_metrics", "recall_at_10", set_generative("recall@10", 0.0199), "0.0199", "Recall@10 of at least 0.02"),
    ("recall_metrics", "recall_at_100", set_generative("recall@100", 0.034), "0.034", "Recall@100 of at least 0.035"),
    ("recall_metrics", "recall_at_1000", set_generative("recall@1000", 0.04), "0.04", "Recall@1000 of at least 0.05"),
    ("recall_metrics", "beats_popularity", as_popularity, "0.5", "at least 1.2 times popularity's 0.5, 0.6"),
    ("recall_metrics", "generation_misses", set_generative("miss_share", 0.01), "0.01", "a miss share below 0.01"),
    ("onnx_encoder", "onnx_ranks_like_torch", change_vectors, "of 200 users", "200 of 200 users and 0 invalid items"),
    (
        "batch_predictions",
        "predictions_for_everyone",
        edit_lines("predictions.csv", lambda lines: lines[:-1]),
        "199 rows",
        "200 rows",
    ),
    (
        "batch_predictions",
        "predictions_valid",
        edit_lines("predictions.csv", repeat_first_prediction),
        "0 unknown, 1 repeated, 0 seen",
        "0 unknown, 0 repeated, 0 seen",
    ),
]
DEFAULT_GATES = {
    "recall_at_10": 0.02,
    "recall_at_100": 0.035,
    "recall_at_1000": 0.05,
    "over_popularity": 1.2,
    "max_miss_share": 0.01,
}


def broken_asset(name: str, good: Path, scratch: Path, change: Break) -> dg.AssetsDefinition:
    """An asset that gives the finished graph's value, broken."""
    if name in FRAMES:

        @dg.asset(name=name)
        def frame() -> pl.DataFrame:
            return change(pl.read_parquet(good / "frame.parquet"))

        return frame

    @dg.asset(name=name)
    def folder() -> Path:
        left_out = [] if name == "onnx_encoder" else [MANIFEST]
        shutil.copytree(good, scratch, ignore=shutil.ignore_patterns(*left_out), dirs_exist_ok=True)
        change(scratch)
        return scratch

    return folder


@pytest.mark.parametrize(("asset", "gate", "change", "measured", "wanted"), GATES, ids=[gate[1] for gate in GATES])
def test_a_gate_fails_on_data_that_breaks_it_and_nothing_downstream_runs(
    finished_graph: Any, tmp_path: Path, asset: str, gate: str, change: Break, measured: str, wanted: str
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    broken = broken_asset(asset, latest(asset, finished_graph.storage), scratch, change)
    result = finished_graph.rerun_from(broken, tmp_path, gates=DEFAULT_GATES)
    evaluation = next(e for e in result.get_asset_check_evaluations() if e.check_name == gate)
    assert not result.success
    assert not evaluation.passed
    assert evaluation.severity == dg.AssetCheckSeverity.ERROR
    assert measured in str(evaluation.metadata["measured"].value)
    assert wanted in str(evaluation.metadata["wanted"].value)
    assert evaluation.description.startswith("measured ")
    assert ", wanted " in evaluation.description
    built = [event.asset_key.to_user_string() for event in result.get_asset_materialization_events()]
    assert built == [asset]
    started = [event.step_key for event in result.all_events if event.event_type == dg.DagsterEventType.STEP_START]
    assert all(step == asset or step.startswith(f"{asset}_") for step in started)


def test_the_table_of_gates_is_complete(finished_graph: Any) -> None:
    evaluations = finished_graph.result.get_asset_check_evaluations()
    blocking = {evaluation.check_name for evaluation in evaluations if evaluation.blocking}
    of_releases = {"gates_passed", "parts_belong_together", "not_worse_than_current"}  # in test_release.py
    assert blocking == {gate[1] for gate in GATES} | {"onnx_latency"} | of_releases


def test_a_slow_export_is_not_served(finished_graph: Any, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    same = broken_asset("onnx_encoder", latest("onnx_encoder", finished_graph.storage), scratch, lambda folder: None)
    bounds = {"p95_milliseconds": 0.001, "timed_users": 5}
    result = finished_graph.rerun_from(same, tmp_path, changed={"onnx_encoder_onnx_latency": bounds})
    evaluation = next(e for e in result.get_asset_check_evaluations() if e.check_name == "onnx_latency")
    assert not evaluation.passed
    assert "wanted a 95th percentile of at most 0.001 ms" in evaluation.description
    built = [event.asset_key.to_user_string() for event in result.get_asset_materialization_events()]
    assert built == ["onnx_encoder"]


@pytest.mark.parametrize(("least_shared", "passed"), [pytest.param(0.7, True, marks=pytest.mark.slow), (1.0, False)])
def test_an_int8_export_is_served_where_most_items_are_the_trained_models(
    finished_graph: Any, tmp_path: Path, least_shared: float, passed: bool
) -> None:
    changed = {
        "onnx_encoder": {"int8": True, "largest_loss": 0.2},  # a user of 200 is more than a hundredth of the hits
        "onnx_encoder_onnx_ranks_like_torch": {"least_shared": least_shared},
    }
    result = finished_graph.rerun_from(onnx_encoder, tmp_path, changed=changed)
    evaluation = next(e for e in result.get_asset_check_evaluations() if e.check_name == "onnx_ranks_like_torch")
    assert evaluation.passed == passed
    assert f"wanted {least_shared:.0%} of the items and 0 invalid items" in evaluation.description
    export, *after = result.get_asset_materialization_events()
    rankings = {record.data["ranking"] for record in export.materialization.metadata["int8"].records}
    assert rankings == {"generative", "hybrid", "dense"}
    assert bool(after) == passed


def test_seen_items_in_predictions_pass_only_where_lists_may_hold_them(finished_graph: Any, tmp_path: Path) -> None:
    kept = {"batch_predictions": {"exclude_seen": False}}
    result = finished_graph.rerun_from(batch_predictions, tmp_path, changed=kept)
    evaluation = next(e for e in result.get_asset_check_evaluations() if e.check_name == "predictions_valid")
    assert evaluation.passed
    assert ", 0 seen" not in evaluation.description
    assert "wanted 0 unknown, 0 repeated; lists may hold seen items" in evaluation.description


def test_a_recall_that_was_not_measured_does_not_pass(tmp_path: Path) -> None:
    write_json(
        tmp_path / "beauty_metrics.json",
        {"ranking": "hybrid", "generative": {"recall@10": 0.5}, "hybrid": {"recall@10": 0.5}, "beams": 100},
    )
    result = recall_at_1000(tmp_path, Gates())
    assert not result.passed
    assert result.description.startswith("measured no Recall@1000, wanted Recall@1000 of at least 0.05; 100 beams")
    reason = "100 beams do not reach 1000 items; set recall_metrics.beams to 1000 or more"
    assert result.metadata["reason"].value == reason


def test_poor_codebooks_are_a_warning(tmp_path: Path) -> None:
    write_json(tmp_path / "summary.json", {"codebook_use": [0.9, 0.2], "deepest_suffix": 40})
    for check, measured in ((codebook_use, 0.2), (suffix_depth, 40)):
        result = check(tmp_path, CodebookForm())
        assert not result.passed
        assert result.severity == dg.AssetCheckSeverity.WARN
        assert result.metadata["measured"].value == measured


def test_a_few_texts_that_are_not_told_apart_are_a_warning_that_holds_nothing_back(tmp_path: Path) -> None:
    vectors = np.eye(100, dtype=np.float32)
    vectors[1] = vectors[0]
    np.save(tmp_path / "item_embeddings_l2norm.npy", vectors)
    write_json(tmp_path / "item_text.json", [f"Title: {number};" for number in range(100)])
    write_json(tmp_path / "embedding_stats.json", {"model": "any"})
    assert texts_told_apart(tmp_path, TextVectorForm()).passed  # the gate, which every release asks for
    result = every_text_told_apart(tmp_path)
    assert (result.passed, result.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "2 of 100 items" in str(result.description)
    assert "'Title: 0;' and 'Title: 1;'" in str(result.description)
    assert "item_embeddings.model" in str(result.description)


def test_a_result_says_both_sides() -> None:
    result = check_result(False, 0.0123456, "at least 0.02", detail="see the slices")
    assert result.description == "measured 0.01235, wanted at least 0.02; see the slices"
    assert {name: entry.value for name, entry in result.metadata.items()} == {
        "measured": 0.0123456,
        "wanted": "at least 0.02",
        "reason": "see the slices",
    }
    assert "reason" not in check_result(True, 0.5, "at least 0.02", detail="see the slices").metadata


def test_a_check_with_nothing_to_compare_says_that_it_was_skipped() -> None:
    result = skipped("no release is served yet")
    assert result.passed
    assert result.description == "skipped: no release is served yet"


@pytest.mark.parametrize(("loss", "passed"), [(20.4, True), (22.3, False)])
def test_the_loss_of_a_single_epoch_is_held_against_a_guess_at_all_that_the_loss_counts(
    tmp_path: Path, loss: float, passed: bool
) -> None:
    write_json(tmp_path / "training_history.json", {"epochs": [{"epoch": 1, "loss": loss}], "uniform_loss": 22.2})
    result = loss_falls(tmp_path)
    assert isinstance(result, dg.AssetCheckResult)
    assert result.passed == passed
    assert "less than a uniform guess's 22.2" in str(result.description)


def test_a_single_epoch_of_an_earlier_version_is_to_be_trained_again(tmp_path: Path) -> None:
    write_json(tmp_path / "training_history.json", {"epochs": [{"epoch": 1, "loss": 20.4}]})
    assert "train it again" in str(loss_falls(tmp_path).description)


@pytest.mark.parametrize(("tested", "passed"), [([2, 1], True), ([2, 3], False)])
def test_a_temporal_split_needs_a_user_with_an_item_before_each_window(tested: list[int], passed: bool) -> None:
    lists = pl.Series("item_ids", [[1, 2], [1, 2, 3]], pl.List(pl.Int64))
    frame = pl.DataFrame({"user_id": ["a", "b"], "item_ids": lists, "validation_items": [0, 3 - tested[1] - passed]})
    result = histories_long_enough(frame.with_columns(pl.Series("test_items", tested)))
    assert result.passed == passed
    assert "users with an item in each window and before it" in str(result.description)
