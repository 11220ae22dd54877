"""The whole graph, raw files to predictions, on a tiny shop."""

import re
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dagster as dg
import polars as pl
import pytest

from genrec_core.storage.artifacts import FRAME, read_json, verify_manifest
from genrec_core.storage.folders import latest
from genrec_dagster.assets.catalog import catalog_page
from genrec_dagster.definitions import defs
from genrec_dagster.metadata import content_version
from genrec_dagster.pages import read_page

ASSETS = sorted(spec.key.to_user_string() for spec in defs.resolve_all_asset_specs())


@pytest.fixture(scope="module")
def metadata(finished_graph: Any) -> dict[str, dict[str, Any]]:
    """What each asset told Dagster."""
    events = finished_graph.result.get_asset_materialization_events()
    return {event.asset_key.to_user_string(): dict(event.materialization.metadata) for event in events}


def test_every_asset_is_built_and_every_gate_passes(finished_graph: Any) -> None:
    failed = {e.check_name: e.description for e in finished_graph.result.get_asset_check_evaluations() if not e.passed}
    assert not failed
    assert finished_graph.result.success
    built = finished_graph.result.get_asset_materialization_events()
    assert sorted(event.asset_key.to_user_string() for event in built) == ASSETS


def test_every_artefact_is_whole_and_the_newest(finished_graph: Any) -> None:
    for name in ASSETS:
        folder = latest(name, finished_graph.storage)
        assert folder.name == finished_graph.result.run_id
        verify_manifest(folder)


def test_every_asset_has_a_version_of_its_content(finished_graph: Any) -> None:
    events = finished_graph.result.get_asset_materialization_events()
    versions = [event.materialization.tags["dagster/data_version"] for event in events]
    assert len(set(versions)) == len(ASSETS)
    assert all(len(version) == 64 for version in versions)


def test_no_work_folder_is_left(finished_graph: Any) -> None:
    assert not list(finished_graph.storage.glob(".work/*/*"))


def test_frames_are_described_by_rows_and_columns(metadata: dict[str, dict[str, Any]]) -> None:
    assert metadata["item_catalog"]["dagster/row_count"].value == 120
    schema = metadata["user_histories"]["dagster/column_schema"].schema
    assert {column.name: column.type for column in schema.columns} == {"user_id": "String", "item_ids": "List(Int64)"}
    assert metadata["raw_beauty"]["users"].value == 200


def test_the_catalogues_page_shows_its_further_columns() -> None:
    empty = pl.DataFrame(schema=dict.fromkeys(("title", "brand", "categories", "description"), pl.String))
    columns = {
        "item_id": ["a", "b"],
        "price": [1.0, 2.0],
        "year": [1994.0, None],
        "shelf": ["x", "y"],
        "size": ["s", "m"],
    }
    more = {"cut": ["u", "v"], "text": ["one", "two"], "text_template": ["{shelf};"] * 2, "vector": [[1.0], [2.0]]}
    catalog = pl.concat([empty, pl.DataFrame(columns | more)], how="diagonal")
    page = catalog_page(catalog)
    assert list(page["some_items"].records[0].data)[-4:] == ["price", "year", "shelf", "size"]
    covered = {str(row.data["field"]): row.data["items"] for row in page["filled_fields"].records}
    assert (covered["year"], covered["cut"], covered["brand"]) == (1, 2, 0)
    assert "vector" not in covered


TABLES_AND_LINKS = (dg.TableMetadataValue, dg.UrlMetadataValue)
HIDDEN = (dg.JsonMetadataValue, dg.MarkdownMetadataValue, dg.PathMetadataValue)


def test_every_page_begins_with_a_sentence_and_something_to_look_at(metadata: dict[str, dict[str, Any]]) -> None:
    for asset, page in metadata.items():
        (first, verdict), (_, second), *_ = page.items()
        assert first == "verdict", asset
        assert re.fullmatch(r"\S.{20,240}[^.]\.", verdict.value), verdict.value
        in_place = isinstance(second, dg.MarkdownMetadataValue) and len(second.md_str or "") < 1000
        assert in_place or isinstance(second, (*TABLES_AND_LINKS, dg.TextMetadataValue)), asset


def test_every_page_ends_with_what_few_people_read(metadata: dict[str, dict[str, Any]]) -> None:
    numbers = (dg.IntMetadataValue, dg.FloatMetadataValue)
    for asset, page in metadata.items():
        kinds = [entry for name, entry in page.items() if not name.startswith("dagster/")]
        raw = [place for place, kind in enumerate(kinds) if isinstance(kind, dg.JsonMetadataValue)]
        counted = [place for place, kind in enumerate(kinds) if isinstance(kind, numbers)][:-1]  # the size comes last
        assert not raw or min(raw) > max(counted, default=0), asset
        assert [name for name in page if not name.startswith("dagster/")][-2:] == ["path", "size_bytes"], asset


def test_no_number_of_a_page_has_more_digits_than_a_reader_needs(metadata: dict[str, dict[str, Any]]) -> None:
    floats = [
        (asset, name, entry.value)
        for asset, page in metadata.items()
        for name, entry in page.items()
        if isinstance(entry, dg.FloatMetadataValue)
    ]
    assert floats
    assert [entry for entry in floats if entry[2] != float(f"{entry[2]:.4g}")] == []


def test_semantic_ids_link_a_page_of_all_codes(metadata: dict[str, dict[str, Any]], finished_graph: Any) -> None:
    folder = latest("semantic_ids", finished_graph.storage)
    assert metadata["semantic_ids"]["codes"].url.endswith(f"/semantic_ids/{folder.name}/codes.html")
    assert metadata["semantic_ids"]["verdict"].value in (folder / "codes.html").read_text().replace("&#39;", "'")


def test_the_page_of_codes_changes_no_data_version(finished_graph: Any, tmp_path: Path) -> None:
    folder = shutil.copytree(latest("semantic_ids", finished_graph.storage), tmp_path / "ids")
    before = content_version(folder)
    for page in ("codes.html", "plots.png"):
        (folder / page).unlink()
    assert content_version(folder) == before


def test_every_page_has_a_table_and_pictures_small_enough_for_an_event(metadata: dict[str, dict[str, Any]]) -> None:
    pictured = {}
    for asset, page in metadata.items():
        texts = {name: entry.md_str for name, entry in page.items() if isinstance(entry, dg.MarkdownMetadataValue)}
        tables = [entry for entry in page.values() if isinstance(entry, dg.TableMetadataValue)]
        assert tables or any("| --- |" in text for text in texts.values()), asset
        pictured[asset] = sorted(name for name, text in texts.items() if "](data:image/png;base64,iVBOR" in text)
        assert all(len(text) < 130_000 for text in texts.values()), asset
    assert {asset: names for asset, names in pictured.items() if names} == {
        **{key: ["plots"] for key in ("item_catalog", "user_histories", "batch_predictions")},
        **{key: ["plots_copy"] for key in ("item_embeddings", "semantic_ids")},
        "tiger_checkpoint": ["curves_copy"],
        "recall_metrics": ["recall_plot_copy", "slices_plot_copy"],
    }


def test_pictures_in_place_are_files_of_the_version(metadata: dict[str, dict[str, Any]], finished_graph: Any) -> None:
    for asset, name in (
        *(("item_embeddings", "plots"), ("semantic_ids", "plots")),
        *(("tiger_checkpoint", "curves"), ("recall_metrics", "recall_plot"), ("recall_metrics", "slices_plot")),
    ):
        shown = metadata[asset][name].md_str
        path = urlsplit(shown.rpartition("](")[2].removesuffix(")")).path
        assert f"{path}?small" in shown
        assert (read_page(path, finished_graph.storage) or b"").startswith(b"\x89PNG"), shown
        assert len(shown) < 1000  # Dagster hides longer Markdown


def test_predictions_are_shown_by_title(metadata: dict[str, dict[str, Any]], finished_graph: Any) -> None:
    rows = [record.data for record in metadata["batch_predictions"]["some_users"].records]
    assert list(rows[0]) == ["user", "newest items", "recommended", "why the first"]
    assert len(rows) == 20
    assert any(re.search(r": with it .* times as likely$", row["why the first"]) for row in rows)
    titles = dict(
        pl.read_parquet(latest("item_catalog", finished_graph.storage) / FRAME)["item_id", "title"].iter_rows()
    )
    user, best = pl.read_csv(latest("batch_predictions", finished_graph.storage) / "predictions.csv").row(0)[:2]
    assert rows[0]["user"] == str(user)
    assert rows[0]["recommended"].startswith(titles[best])


def test_all_parameters_of_the_model_are_counted(metadata: dict[str, dict[str, Any]], finished_graph: Any) -> None:
    from genrec_core.tiger.model import TigerModel

    model = TigerModel.from_pretrained(latest("tiger_checkpoint", finished_graph.storage))
    parameters = metadata["tiger_checkpoint"]["parameters"].value
    assert parameters == sum(each.numel() for each in model.state_dict().values())


def test_a_release_and_its_history_are_shown(metadata: dict[str, dict[str, Any]], finished_graph: Any) -> None:
    compared = {
        record.data["test metric"]: record.data for record in metadata["model_release"]["beside_the_served_one"].records
    }
    ranking = metadata["recall_metrics"]["ranking"].value
    measured = metadata["recall_metrics"][f"{ranking}_recall@10"].value
    assert compared["recall@10"]["this release"] == measured == metadata["model_release"][f"{ranking}_recall@10"].value
    assert compared["recall@10"]["served"] == ""  # nothing was before it
    (only,) = metadata["served_release"]["releases"].records
    assert (only.data["release"], only.data["state"]) == (finished_graph.result.run_id, "served")


def test_checks_of_the_export_show_latency_and_agreement(finished_graph: Any) -> None:
    shown = {e.check_name: e.metadata for e in finished_graph.result.get_asset_check_evaluations()}
    assert [record.data["users"] for record in shown["onnx_latency"]["latency"].value.records][-1] == "100 %"
    (agreement,) = shown["onnx_ranks_like_torch"]["agreement"].value.records
    assert agreement.data["alike"] == agreement.data["users"]


def test_metrics_are_shown_beside_popularity(metadata: dict[str, dict[str, Any]]) -> None:
    rows = {record.data["ranking"]: record.data for record in metadata["recall_metrics"]["metrics"].records}
    verdict, ranking = metadata["recall_metrics"]["verdict"].value, metadata["recall_metrics"]["ranking"].value
    assert verdict.startswith(f"The {ranking} ranking finds the next item among its first 10 for ")
    rivals = {record.data["Recall@10 less that of"] for record in metadata["recall_metrics"]["against"].records}
    assert {"generative", "hybrid", "dense", "popularity", "neighbors"} == rivals | {ranking}
    examples = [record.data for record in metadata["recall_metrics"]["examples"].records]
    assert all(example["next item"] and example["place"] for example in examples)
    assert {"generative", "popularity"} <= set(rows)
    assert list(rows["dense"]) == ["ranking", "recall@10", "ndcg@10", "recall@100", "recall@1000"]
    intervals = {record.data[ranking]: record.data for record in metadata["recall_metrics"]["intervals"].records}
    recall = intervals["recall@10"]
    assert recall["low"] <= recall["value"] == rows[ranking]["recall@10"] <= recall["high"]
    assert "history kept" in recall


def test_nothing_on_a_page_is_wider_than_a_window_of_1500_pixels_shows(metadata: dict[str, dict[str, Any]]) -> None:
    # Dagster makes all values as wide as the widest, so one hash or long address would cut off the verdict.
    letter, gap, shown = 8, 24, 510  # pixels of Dagster's font, beside a cell, and for the values
    wider, breaks = {}, r"[\s/?-]"
    for asset, entries in metadata.items():
        for name, value in entries.items():
            if isinstance(value, dg.TableMetadataValue):
                columns = {column.name: [column.name] for column in value.schema.columns}
                for record in value.records:
                    for column, cell in record.data.items():
                        columns[column] += re.split(breaks, str(cell))
                wide = sum(letter * max(map(len, words)) + gap for words in columns.values())
            elif isinstance(value, dg.TextMetadataValue | dg.UrlMetadataValue):
                wide = letter * max(map(len, re.split(breaks, str(value.value))))
            else:
                continue
            if wide > shown:
                wider[asset, name] = wide
    assert not wider
    assert max(len(name) for entries in metadata.values() for name in entries) <= 27  # they take room, too


def test_the_report_is_linked_and_kept_with_the_mlflow_run(
    metadata: dict[str, dict[str, Any]], finished_graph: Any
) -> None:
    from mlflow import MlflowClient

    report = latest("recall_metrics", finished_graph.storage) / "report.html"
    assert "<h2>All rankings</h2>" in report.read_text()
    noted = read_json(latest("tiger_checkpoint", finished_graph.storage) / "experiment.json")
    assert metadata["recall_metrics"]["report"].url.endswith(f"/recall_metrics/{report.parent.name}/report.html")
    assert f"/runs/{noted['run_id']}/artifacts/report.html" in metadata["recall_metrics"]["report_in_mlflow"].value
    files = MlflowClient(tracking_uri=noted["tracking_uri"]).list_artifacts(noted["run_id"])
    assert "report.html" in {file.path for file in files}


def test_an_earlier_evaluation_that_differs_in_the_seed_alone_joins_the_report(finished_graph: Any) -> None:
    from genrec_core.evaluation.evaluate import with_other_seeds

    earlier = [latest("recall_metrics", finished_graph.storage) / "beauty_metrics.json"]
    metrics = read_json(earlier[0])
    assert metrics["seeds"] is None
    other = {"recipe": metrics["training"]["recipe"], "seed": 7}
    joined = with_other_seeds(metrics, other, earlier)["seeds"]
    assert joined["seeds"] == [7, 42]
    assert joined["metrics"]["hybrid"]["recall@10"]["spread"] == 0.0
    assert with_other_seeds(metrics, {"recipe": "another", "seed": 7}, earlier)["seeds"] is None


def test_everyone_gets_a_list(finished_graph: Any) -> None:
    predictions = pl.read_csv(latest("batch_predictions", finished_graph.storage) / "predictions.csv")
    assert predictions.columns == ["user_id", *(f"pred_{place}" for place in range(1, 21))]
    assert predictions.height == 200
    assert predictions.null_count().sum_horizontal().item() == 0


def test_the_test_metrics_join_the_mlflow_run_of_the_training(finished_graph: Any) -> None:
    from mlflow import MlflowClient

    noted = read_json(latest("tiger_checkpoint", finished_graph.storage) / "experiment.json")
    metrics = read_json(latest("recall_metrics", finished_graph.storage) / "beauty_metrics.json")
    run = MlflowClient(tracking_uri=noted["tracking_uri"]).get_run(noted["run_id"])
    assert run.data.metrics["test/generative_recall_at_10"] == metrics["generative"]["recall@10"]
    assert run.info.status == "FINISHED"


def test_predictions_alone_come_from_the_model_in_storage(finished_graph: Any, tmp_path: Path) -> None:
    before = latest("batch_predictions", finished_graph.storage) / "predictions.csv"
    finished_graph.copy_storage(tmp_path)
    result = finished_graph.run_job("predict", tmp_path)
    assert result.success
    assert [event.asset_key.path for event in result.get_asset_materialization_events()] == [["batch_predictions"]]
    after = latest("batch_predictions", tmp_path / "storage") / "predictions.csv"
    assert after.parent.name == result.run_id
    assert after.read_text() == before.read_text()
