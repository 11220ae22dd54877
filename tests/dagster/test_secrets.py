"""What is secret stands in no event, no log, no artefact and not in MLflow, after runs that used it."""

import base64
import json
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from genrec_core.errors import GenrecError
from genrec_core.storage.artifacts import read_json
from genrec_core.storage.folders import storage_root
from genrec_dagster.assets.catalog import raw_beauty
from genrec_dagster.assets.requests import RequestInbox
from genrec_dagster.config import RawBeautyForm
from genrec_dagster.experiment import note_run, training_run
from genrec_dagster.io_manager import ArtifactStorage
from genrec_dagster.resources import ExperimentTracker, WorkFolders, noted_uri, usable_uri


def files_with(folder: Path, *secrets: str) -> list[str]:
    """The files below ``folder`` that hold one of ``secrets``, also databases and compute logs."""
    wanted = [secret.encode() for secret in secrets]
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return [str(path) for path in files if any(secret in path.read_bytes() for secret in wanted)]


def test_the_whole_graph_keeps_no_secret_of_its_environment(finished_graph: Any) -> None:
    secrets = list(finished_graph.secrets.values())
    assert (finished_graph.folder / "mlflow" / "mlflow.db").is_file()
    assert list((finished_graph.folder / "events").rglob("*.db"))
    assert not files_with(finished_graph.folder, *secrets)


class Quiet(SimpleHTTPRequestHandler):
    """Says nothing on stderr, which Dagster keeps as the step's."""

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def address(sample_folder: Path, tmp_path: Path) -> Iterator[str]:
    """Of the tiny shop, with a user, a password and a signature in it."""
    (tmp_path / "web").mkdir()
    shutil.make_archive(str(tmp_path / "web" / "shop"), "zip", sample_folder)
    handler = partial(Quiet, directory=str(tmp_path / "web"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://joe:s3cr3t-pass@127.0.0.1:{running.server_port}/shop.zip?signature=0a1b2c3d"
        running.shutdown()


@pytest.mark.parametrize("found", [True, False])
def test_the_address_of_raw_data_is_kept_without_its_secrets(
    address: str, found: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENREC_RAW", address if found else address.replace("shop.zip", "missing.zip"))
    (tmp_path / "kept" / "events").mkdir(parents=True)
    storage = str(tmp_path / "kept" / "storage")
    resources = {"io_manager": ArtifactStorage(root=storage), "work": WorkFolders(root=storage)}
    quiet = {"telemetry": {"enabled": False}}
    with dg.DagsterInstance.local_temp(str(tmp_path / "kept" / "events"), overrides=quiet) as instance:
        result = dg.materialize([raw_beauty], instance=instance, resources=resources, raise_on_error=False)
    assert result.success == found
    assert files_with(tmp_path / "kept", "shop.zip?***" if found else "missing.zip?***")
    assert not files_with(tmp_path / "kept", "s3cr3t-pass", "0a1b2c3d")


def test_the_launchpad_does_not_show_what_the_environment_says(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENREC_RAW", address)
    monkeypatch.setenv("GENREC_RAW_SHA256", "0" * 64)
    assert RawBeautyForm().model_dump(include={"source", "sha256"}) == {"source": None, "sha256": None}
    assert RawBeautyForm().place() == (address, "0" * 64)
    assert RawBeautyForm(source="/shop").place() == ("/shop", None)


class Tracking(BaseHTTPRequestHandler):
    """As much of MLflow as tells who asks."""

    asked: list[str | None]

    def log_message(self, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        self.asked.append(self.headers.get("Authorization"))
        experiment = {"experiment_id": "1", "name": "genrec", "lifecycle_stage": "active", "artifact_location": "x"}
        run = {"info": {"run_id": "a-run", "experiment_id": "1", "status": "RUNNING", "artifact_uri": "x"}, "data": {}}
        content = json.dumps({"experiment": experiment, "run": run}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def test_mlflows_password_is_used_and_kept_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Tracking.asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Tracking) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://joe:s3cr3t-pass@127.0.0.1:{server.server_port}")
        tracker = ExperimentTracker(tracking_uri=noted_uri())
        assert tracker.tracking_uri == f"http://***@127.0.0.1:{server.server_port}"
        note_run(tmp_path, tracker, "a-run")
        assert read_json(tmp_path / "experiment.json")["tracking_uri"] == tracker.tracking_uri
        for client in (tracker.client(), training_run(tmp_path)[0]):
            assert client.get_experiment_by_name("genrec") is not None
        server.shutdown()
    assert set(Tracking.asked) == {"Basic " + base64.b64encode(b"joe:s3cr3t-pass").decode()}
    assert len(Tracking.asked) == 3


def test_a_run_noted_elsewhere_is_looked_for_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://joe:pass-word@one:5000")
    assert usable_uri("http://***@one:5000") == "http://joe:pass-word@one:5000"
    assert usable_uri("http://two:5000") == "http://two:5000"


@pytest.mark.parametrize("refused", [storage_root, lambda location: RequestInbox(location=location).open()])
def test_an_address_of_the_wrong_kind_is_named_without_its_password(refused: Any) -> None:
    with pytest.raises(GenrecError, match=r"=https://\*\*\*@files\.example/inbox\?\*\*\*: neither") as caught:
        refused("https://joe:s3cr3t-pass@files.example/inbox?token=0a1b2c3d")
    assert "s3cr3t" not in str(caught.value)


def test_no_command_line_shows_the_password_of_mlflows_database() -> None:
    """Whoever is on the machine may list its processes."""
    makefile = (Path(__file__).parents[2] / "Makefile").read_text()
    assert "--backend-store-uri" not in makefile
    assert 'MLFLOW_BACKEND_STORE_URI="$${MLFLOW_TRACKING_URI:-' in makefile
