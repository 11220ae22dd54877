"""New raw data rebuild what hangs on them, and nothing else: every test counts what ran."""

import gzip
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from genrec_core.data.archive import fingerprint
from genrec_core.errors import GenrecError
from genrec_core.quantization.semantic_ids import SemanticIds
from genrec_core.storage.folders import latest
from genrec_dagster.automation import raw_data, receive_raw_data

MODEL = ["tiger_checkpoint", "recall_metrics", "onnx_encoder", "model_release", "served_release"]


class Daemon:
    """Does what Dagster's daemon does for the sensor ``rebuild``: evaluates conditions, runs what they request."""

    def __init__(self, place: Any, raw: Path) -> None:
        self.place, self.raw, self.cursor = place, raw, None
        self.definitions = place.definitions()

    def receive(self) -> None:
        assert self.run(["raw_beauty"]).success

    def settle(self) -> list[str]:
        """Tick until nothing is requested; the assets that were built, in order."""
        built: list[str] = []
        while requested := self.tick():
            result = self.run(requested)
            assert result.success, [
                check.description for check in result.get_asset_check_evaluations() if not check.passed
            ]
            built += requested
        return built

    def tick(self) -> list[str]:
        result = dg.evaluate_automation_conditions(self.definitions, self.place.instance, cursor=self.cursor)
        self.cursor = result.cursor
        requested = {subset.key.to_user_string() for subset in result._requested_subsets}
        order = ["item_catalog", "user_histories", "item_embeddings", "semantic_ids", *MODEL, "batch_predictions"]
        return sorted(requested, key=order.index)

    def run(self, assets: list[str]) -> dg.ExecuteInProcessResult:
        job = dg.define_asset_job("requested", selection=dg.AssetSelection.assets(*assets))
        resolved = dg.Definitions.merge(self.definitions, dg.Definitions(jobs=[job])).resolve_job_def("requested")
        config = self.place.graph._config_for(resolved)
        if resolved.has_node_named("raw_beauty"):
            config["ops"]["raw_beauty"]["config"]["source"] = str(self.raw)
        if "model_release" in assets:
            config["resources"]["release"] = {"config": {"rule": "always"}}
        return resolved.execute_in_process(run_config=config, instance=self.place.instance, raise_on_error=False)


@pytest.fixture
def raw(sample_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sample_folder, tmp_path / "raw"))


@pytest.fixture
def daemon(place: Any, raw: Path) -> Daemon:
    return Daemon(place, raw)


def newest(place: Any, asset: str) -> dict[str, Any]:
    event = place.instance.get_latest_materialization_event(dg.AssetKey(asset))
    return {name: value.value for name, value in event.asset_materialization.metadata.items()}


def describe_item(raw: Path, row: int, title: str) -> None:
    """Give the item in a row of the descriptions another title."""
    lines = gzip.decompress((raw / "meta.json.gz").read_bytes()).decode().splitlines()
    lines[row] = json.dumps({**json.loads(lines[row]), "title": title})
    (raw / "meta.json.gz").write_bytes(gzip.compress("\n".join(lines).encode()))


def codes_by_item(place: Any) -> dict[int, tuple[int, ...]]:
    ids = SemanticIds.load(latest("semantic_ids", place.storage))
    return dict(zip(ids.item_ids.tolist(), map(tuple, ids.codes.tolist()), strict=True))


def test_a_finished_graph_and_unchanged_content_rebuild_nothing(daemon: Daemon, raw: Path) -> None:
    assert daemon.settle() == []
    os.utime(raw / "sequential_data.txt")
    daemon.receive()
    assert daemon.settle() == []


def test_content_that_reads_the_same_goes_no_further_than_its_reader(daemon: Daemon, raw: Path) -> None:
    file = raw / "sequential_data.txt"
    file.write_text(file.read_text().replace(" ", "  "))  # other bytes, the same histories
    daemon.receive()
    assert daemon.settle() == ["item_catalog", "user_histories"]


def test_a_changed_text_is_embedded_alone_and_the_model_follows(daemon: Daemon, raw: Path) -> None:
    before = newest(daemon.place, "batch_predictions")["path"]
    codes = codes_by_item(daemon.place)
    describe_item(raw, 3, "Entirely Different Thing")
    daemon.receive()
    built = daemon.settle()
    catalog = ["item_catalog", "user_histories", "item_embeddings", "semantic_ids"]
    assert built == [*catalog, *MODEL, "batch_predictions"]
    assert newest(daemon.place, "item_embeddings")["texts_embedded"] == 1
    told = newest(daemon.place, "semantic_ids")
    assert [told[name] for name in ("kept", "assigned", "removed", "refitted")] == [119, 1, 0, "no"]
    assert len(codes.items() - codes_by_item(daemon.place).items()) <= 1
    assert newest(daemon.place, "batch_predictions")["path"] != before


@pytest.mark.slow
def test_changed_histories_retrain_and_embed_nothing(daemon: Daemon, raw: Path) -> None:
    file = raw / "sequential_data.txt"
    user, *items = file.read_text().splitlines()[0].split()
    file.write_text("\n".join([" ".join([user, *reversed(items)]), *file.read_text().splitlines()[1:]]) + "\n")
    daemon.receive()
    assert daemon.tick() == ["item_catalog", "user_histories"]
    assert daemon.run(["item_catalog", "user_histories"]).success
    # Predictions for the new histories do not wait for the training; the training waits for the semantic IDs.
    assert daemon.tick() == ["semantic_ids", "batch_predictions"]
    assert daemon.run(["semantic_ids", "batch_predictions"]).success
    assert newest(daemon.place, "semantic_ids")["refitted"] == "the histories changed"
    built = daemon.settle()
    assert built == [*MODEL, "batch_predictions"]


def test_what_failed_is_not_tried_again_before_its_inputs_are_new(daemon: Daemon, raw: Path) -> None:
    file = raw / "sequential_data.txt"
    file.write_text(file.read_text() + "newcomer 1 2 3\n")
    daemon.receive()
    assert daemon.tick() == ["item_catalog", "user_histories"]  # requested, and both runs are lost
    assert daemon.tick() == []
    daemon.receive()
    assert daemon.tick() == ["item_catalog", "user_histories"]


def look(instance: dg.DagsterInstance, cursor: str | None = None) -> Any:
    return raw_data(dg.build_sensor_context(instance=instance, cursor=cursor))


def rested(raw: Path) -> None:
    for file in raw.iterdir():
        os.utime(file, (time.time() - 60, time.time() - 60))


def test_the_sensor_asks_for_one_run_for_each_state_of_a_folder(
    place: Any, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENREC_RAW", str(raw))
    rested(raw)
    first = look(place.instance)
    assert len(first.run_requests) == 1
    assert isinstance(look(place.instance, first.cursor), dg.SkipReason)
    describe_item(raw, 0, "Another")
    assert "changed within the last seconds" in str(look(place.instance, first.cursor).skip_message)
    rested(raw)
    second = look(place.instance, first.cursor)
    assert second.run_requests[0].run_key != first.run_requests[0].run_key
    assert receive_raw_data.name == "receive_raw_data"


def test_the_sensor_waits_for_the_first_build(tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENREC_RAW", str(raw))
    with dg.DagsterInstance.ephemeral() as instance:
        assert "never built" in str(look(instance).skip_message)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    (tmp_path / "web").mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "web"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield tmp_path / "web", f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_a_url_is_told_apart_by_what_the_server_says(server: tuple[Path, str]) -> None:
    folder, address = server
    archive = folder / "shop.zip"
    archive.write_bytes(b"one")
    first = fingerprint(f"{address}/shop.zip")
    assert fingerprint(f"{address}/shop.zip") == first
    archive.write_bytes(b"another")
    assert fingerprint(f"{address}/shop.zip") != first
    with pytest.raises(GenrecError, match=r"GENREC_RAW=.*missing.zip: the server does not answer .*404"):
        fingerprint(f"{address}/missing.zip")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(GenrecError, match=r"GENREC_RAW=.*nowhere: no such folder"):
        fingerprint(str(tmp_path / "nowhere"))
