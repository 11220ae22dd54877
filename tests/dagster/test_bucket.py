"""The asset graph over a bucket: another machine goes on with what one built; the cleaning job keeps what is used."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import polars as pl
import pytest

from genrec_core.errors import GenrecError
from genrec_core.releases.pointer import RELEASES, require_pointer, serve, served_release
from genrec_core.storage import object_store
from genrec_core.storage.artifacts import MANIFEST
from genrec_core.storage.folders import LATEST, latest, set_latest, storage_root, version_folder
from genrec_dagster.checks.release import not_worse_than_current
from genrec_dagster.config import ReleaseRule
from genrec_dagster.io_manager import ArtifactStorage, storage_resources
from genrec_dagster.resources import WorkFolders

if TYPE_CHECKING:
    from conftest import FinishedGraph, ObjectServer

URL = "s3://shop/genrec"


@pytest.fixture
def filled(finished_graph: "FinishedGraph", object_server: "ObjectServer") -> Path:
    """The mirror of a bucket that holds what the finished graph built."""
    root = storage_root(URL)
    for pointer in sorted(finished_graph.storage.glob(f"*/{LATEST}")):
        version = latest(pointer.parent.name, finished_graph.storage)
        shutil.copytree(version, root / pointer.parent.name / version.name)
        set_latest(pointer.parent.name, version.name, root)
    return root


def predict(root: Path, raises: bool = True) -> dg.ExecuteInProcessResult:
    """A run of ``batch_predictions`` over the storage ``root``."""
    from genrec_dagster.assets.serving import batch_predictions
    from genrec_dagster.definitions import defs

    needed = [dg.AssetSpec(name) for name in ("served_release", "user_histories")]
    here = {"io_manager": ArtifactStorage(root=str(root)), "work": WorkFolders(root=str(root))}
    return dg.materialize(
        [batch_predictions, *needed],
        selection=[batch_predictions],
        resources={**(defs.resources or {}), **here},
        run_config={"ops": {"batch_predictions": {"config": {"top_k": 20}}}},
        raise_on_error=raises,
    )


def predictions_in(root: Path, run: str) -> bytes:
    return (version_folder("batch_predictions", run, root) / "predictions.csv").read_bytes()


def test_predictions_of_another_machine(
    finished_graph: "FinishedGraph", filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENREC_MIRROR", str(tmp_path / "another"))
    root = storage_root(URL)
    result = predict(root)
    fetched = {path.parent.parent.name for path in root.glob(f"*/*/{MANIFEST}")}
    assert fetched == {"batch_predictions", "served_release", "user_histories", "model_release"}
    assert predictions_in(filled, result.run_id) == predictions_in(finished_graph.storage, finished_graph.result.run_id)


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_a_run_outlasts_a_store_that_fails_now_and_then(
    finished_graph: "FinishedGraph",
    object_server: "ObjectServer",
    filled: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
) -> None:
    monkeypatch.setenv("GENREC_MIRROR", str(tmp_path / "another"))
    monkeypatch.setattr(object_store, "_READ_SECONDS", 1)
    with object_server.faulty() as proxy:
        proxy.method, proxy.faults = method, ["500", "half", "hang", "500"]
        result = predict(storage_root(URL))
        assert proxy.broken == 4
    object_server.use()
    assert predictions_in(filled, result.run_id) == predictions_in(finished_graph.storage, finished_graph.result.run_id)


def test_a_run_fails_with_the_reason_where_the_store_stays_away(
    finished_graph: "FinishedGraph", object_server: "ObjectServer", filled: Path
) -> None:
    with object_server.faulty() as proxy:
        proxy.method, proxy.faults = "PUT", ["500"] * 1000
        result = predict(filled, raises=False)
        failure = next(event for event in result.all_events if event.event_type == dg.DagsterEventType.STEP_FAILURE)
    assert not result.success
    assert "the store does not answer as it should" in str(failure.event_specific_data)
    object_server.use()
    assert latest("batch_predictions", filled).name == finished_graph.result.run_id
    assert not (filled / "batch_predictions" / result.run_id).exists()
    assert not list(filled.glob(".work/*/*"))


def test_a_damaged_earlier_release_is_left_out_of_the_comparison(
    filled: Path, object_server: "ObjectServer", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, version = require_pointer(filled), "other"
    shutil.copytree(served_release(filled), filled / RELEASES / version)
    set_latest(RELEASES, version, filled)
    serve(first.moved(version, "newer"), filled)
    (object_server.folder / "shop" / "genrec" / RELEASES / first.version / "release.json").write_text("damaged")
    object_server.notice()
    monkeypatch.setenv("GENREC_MIRROR", str(tmp_path / "another"))
    root = storage_root(URL)
    histories = pl.read_parquet(latest("user_histories", root) / "frame.parquet")
    release, rule = served_release(root), ReleaseRule(users=100, samples=100)
    result = not_worse_than_current(release, histories, rule, WorkFolders(root=str(root)))
    assert result.metadata["champion"].value == version
    assert "release.json: differs from the sha256" in result.metadata["not_opened"].value[first.version]


def test_the_cleaning_job_leaves_what_is_used(filled: Path) -> None:
    from genrec_dagster.definitions import defs

    for number in range(3):
        shutil.copytree(latest("semantic_ids", filled), filled / "semantic_ids" / f"run-{number}")
        set_latest("semantic_ids", f"run-{number}", filled)
    resources = {**(defs.resources or {}), "work": WorkFolders(root=str(filled))}
    definitions = dg.Definitions(assets=defs.assets, jobs=defs.jobs, resources=resources)
    job = definitions.resolve_job_def("clean_storage")
    keep = {"ops": {"remove_old_versions": {"config": {"keep": 1, "least_age_hours": 0}}}}
    assert job.execute_in_process(run_config=keep).success
    assert sorted(path.name for path in (filled / "semantic_ids").glob("[!.]*")) == [LATEST, "run-2"]
    assert (served_release(filled) / MANIFEST).is_file()


@dg.asset
def frame() -> pl.DataFrame:
    return pl.DataFrame({"item_id": [1, 2]})


def test_the_launchpad_may_name_another_endpoint(object_server: "ObjectServer") -> None:
    right = f"http://127.0.0.1:{object_server.port}"
    object_server.use(port=9)  # nothing listens on the port of "discard"
    resources = storage_resources(storage_root(URL))
    shown = resources["s3"].get_resource_definition().config_schema.default_value
    assert shown["endpoint_url"] == "http://127.0.0.1:9"
    assert {value for name, value in shown.items() if "key" in name or "token" in name} == {None}
    config = {"resources": {"s3": {"config": {"endpoint_url": right}}}}
    result = dg.materialize([frame], resources=resources, run_config=config)
    object_server.use()
    assert latest("frame", storage_root(URL)).name == result.run_id


def test_the_resource_of_a_bucket_takes_what_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://s3.example")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_PROFILE", "shop")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret")
    shown = storage_resources(storage_root(URL))["s3"].get_resource_definition().config_schema.default_value
    assert (shown["endpoint_url"], shown["region_name"], shown["profile_name"], shown["max_attempts"]) == (
        "https://s3.example",
        "eu-central-1",
        "shop",
        6,
    )
    assert "very-secret" not in str(shown)


def test_a_wrong_profile_is_named(object_server: "ObjectServer", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "missing")
    with pytest.raises(GenrecError, match="AWS_PROFILE names no profile"):
        dg.materialize([frame], resources=storage_resources(storage_root(URL)))


def test_a_storage_in_a_folder_has_no_client(tmp_path: Path) -> None:
    assert list(storage_resources(tmp_path)) == ["io_manager"]
