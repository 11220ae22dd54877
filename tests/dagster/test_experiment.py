"""The exported model in MLflow: logged with the training's run, loaded and served from there."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import psutil
import pytest

from genrec_core.errors import GenrecError
from genrec_core.recommend.recommender import Recommender
from genrec_core.storage.artifacts import read_json, write_json
from genrec_core.storage.folders import latest
from genrec_dagster.experiment import data_name, log_recommender, log_test_metrics, mlflow_may_be_away
from genrec_dagster.resources import EXPERIMENT_FILE, ExperimentTracker, noted_uri

START_SECONDS = 120


@pytest.fixture(scope="module")
def tracking(finished_graph: Any) -> dict[str, str]:
    """Tracking URI and run of the training."""
    noted: dict[str, str] = read_json(latest("tiger_checkpoint", finished_graph.storage) / EXPERIMENT_FILE)
    return noted


@pytest.fixture(scope="module")
def model(finished_graph: Any, tracking: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The pyfunc model of the graph's export, logged once more: other tests log theirs over it."""
    import mlflow

    checkpoint, export = (latest(name, finished_graph.storage) for name in ("tiger_checkpoint", "onnx_encoder"))
    log_recommender(checkpoint, export, [1])
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(tracking["tracking_uri"])
    try:
        folder = str(tmp_path_factory.mktemp("downloaded"))
        return mlflow.pyfunc.load_model(f"runs:/{tracking['run_id']}/model", dst_path=folder)
    finally:
        mlflow.set_tracking_uri(before)


@pytest.fixture(scope="module")
def recommender(finished_graph: Any) -> Recommender:
    return Recommender.open(latest("onnx_encoder", finished_graph.storage))


def request(recommender: Recommender) -> dict[str, Any]:
    items = recommender.item_ids.tolist()
    histories = {"1": items[:4], "2": [items[5], 10**9], "3": []}
    return {"topk": 4, "instances": [{"user_id": user, "item_ids": found} for user, found in histories.items()]}


def expected(recommender: Recommender, body: dict[str, Any]) -> list[dict[str, Any]]:
    users = body["instances"]
    lists = recommender.recommend([user["item_ids"] for user in users], body["topk"])
    return [
        {"user_id": user["user_id"], "predictions": found.tolist()} for user, found in zip(users, lists, strict=True)
    ]


def test_a_request_gets_the_recommenders_own_answer(model: Any, recommender: Recommender) -> None:
    body = request(recommender)
    assert model.predict(body) == expected(recommender, body)


def test_a_frame_of_users_gets_a_frame(model: Any, recommender: Recommender) -> None:
    body = request(recommender)
    users = pd.DataFrame(body["instances"], index=[7, 8, 9])
    found = model.predict(users, params={"topk": 4})
    assert found.index.tolist() == [7, 8, 9]
    assert found.to_dict("records") == expected(recommender, body)


def test_options_count_in_a_request_and_as_params(model: Any, recommender: Recommender) -> None:
    body, allow = request(recommender), recommender.item_ids[:3].tolist()
    options = {"allow": allow, "exclude_seen": False, "ranking": "generative"}
    for found in (
        model.predict({**body, **options}),
        model.predict(pd.DataFrame(body["instances"]), params={"topk": 4, **options}).to_dict("records"),
    ):
        assert [sorted(user["predictions"]) for user in found] == [sorted(allow)] * 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"topk": 0}, "topk"),
        ({"topk": None}, "topk is missing"),
        ({"ranking": "best"}, "ranking"),
        ({"allow": [10**9]}, "leave no item"),
    ],
)
def test_a_bad_request_is_refused(model: Any, recommender: Recommender, change: dict[str, Any], said: str) -> None:
    from mlflow.exceptions import MlflowException

    body = {name: value for name, value in {**request(recommender), **change}.items() if value is not None}
    with pytest.raises(MlflowException, match=said) as refused:
        model.predict(body)
    assert refused.value.get_http_status_code() == 400


def test_it_needs_no_training_library_and_holds_no_pickle(
    model: Any, finished_graph: Any, tracking: dict[str, str], tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    client, run = MlflowClient(tracking["tracking_uri"]), tracking["run_id"]
    folder = Path(client.download_artifacts(run, "model", str(tmp_path)))
    needed = (folder / "requirements.txt").read_text().split()
    assert all("==" in line for line in needed)
    assert not {line.partition("==")[0] for line in needed} & {"torch", "transformers", "dagster"}
    assert not [path for path in folder.rglob("*") if path.suffix in {".pkl", ".pyc"}]
    assert model.metadata.get_input_schema().input_names()[:2] == ["user_id", "item_ids"]
    # logged again, it replaces what was there
    checkpoint, export = (latest(name, finished_graph.storage) for name in ("tiger_checkpoint", "onnx_encoder"))
    log_recommender(checkpoint, export, [1])
    assert [file.path for file in client.list_artifacts(run, "model/data")] == ["model/data/recommender"]


def test_the_experiment_is_one_of_model_training(tmp_path: Path) -> None:
    tracker = ExperimentTracker(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db", artifact_root=tmp_path.as_uri())
    client = tracker.client()
    client.create_experiment("genrec")  # by a version that did not tag it
    tracker.open_run("first", {}, {})
    tags = client.get_experiment_by_name("genrec").tags
    assert tags["mlflow.experimentKind"] == "custom_model_development"


def test_the_run_is_named_by_data_preset_and_result(finished_graph: Any, tracking: dict[str, str]) -> None:
    from mlflow import MlflowClient

    metrics = read_json(latest("recall_metrics", finished_graph.storage) / "beauty_metrics.json")
    served = metrics[metrics["ranking"]]
    run = MlflowClient(tracking["tracking_uri"]).get_run(tracking["run_id"])
    data = finished_graph.raw.name
    assert run.info.run_name == f"{data} · sample · recall@10 {served['recall@10']:.4f}"
    note = run.data.tags["mlflow.note.content"]
    assert f"Recall@10 **{served['recall@10']:.4f}**" in note
    assert f"/recall_metrics/{finished_graph.result.run_id}/report.html)" in note


def test_few_metrics_are_kept_and_the_curves_come_first(finished_graph: Any, tracking: dict[str, str]) -> None:
    from mlflow import MlflowClient

    run = MlflowClient(tracking["tracking_uri"]).get_run(tracking["run_id"])
    names = sorted(run.data.metrics)
    assert [*dict.fromkeys(name.partition("/")[0] for name in names)] == ["curves", "test", "training"]
    assert {"curves/loss", "curves/validation_recall_at_10", "test/recall_at_10", "training/seconds"} <= set(names)
    assert len(names) <= 20
    assert float(run.data.tags["chosen.epochs"]) == 3


def test_a_registered_version_shows_its_scores_and_leads_to_the_report(
    finished_graph: Any, tracking: dict[str, str]
) -> None:
    from mlflow import MlflowClient

    metrics = read_json(latest("recall_metrics", finished_graph.storage) / "beauty_metrics.json")
    recall = f"{metrics[metrics['ranking']]['recall@10']:.4f}"
    version = MlflowClient(tracking["tracking_uri"]).get_model_version("genrec", "1")
    assert version.tags["recall_at_10"] == recall
    assert f"Recall@10 **{recall}**" in version.description
    assert f"/recall_metrics/{finished_graph.result.run_id}/report.html)" in version.description
    assert f"/runs/{finished_graph.result.run_id})" in version.description


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("/data/beauty", "beauty"),
        ("/data/beauty.tar.gz", "beauty"),
        ("https://shop.example/orders%202026.csv.zst?part=1", "orders 2026"),
        ("s3://bucket/shops/toys/", "toys"),
        ("embedded sample", "sample"),
        ("s3://bucket", "data"),
    ],
)
def test_data_have_the_name_of_their_source(source: str, name: str) -> None:
    with dg.instance_for_test() as instance:
        assert data_name(instance) == "data"
        instance.report_runless_asset_event(dg.AssetMaterialization("raw_beauty", metadata={"source": source}))
        assert data_name(instance) == name


def test_a_deleted_experiment_is_named_with_the_command_that_brings_it_back(tmp_path: Path) -> None:
    tracker = ExperimentTracker(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db", artifact_root=tmp_path.as_uri())
    tracker.open_run("first", {}, {})
    client = tracker.client()
    experiment = client.get_experiment_by_name("genrec").experiment_id
    client.delete_experiment(experiment)
    command = f"MLFLOW_TRACKING_URI={tracker.tracking_uri} mlflow experiments restore --experiment-id {experiment}"
    with pytest.raises(GenrecError, match="the experiment genrec was deleted in MLflow") as told:
        tracker.open_run("second", {}, {})
    assert command in str(told.value)
    tracker.end_runs_of("a run", "FAILED")
    client.restore_experiment(experiment)
    assert tracker.open_run("second", {}, {})


class Refusing(BaseHTTPRequestHandler):
    """A tracking server that answers everything with one status."""

    status = 503

    def log_message(self, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.mark.parametrize(
    ("status", "remedy"),
    [(401, "set MLFLOW_TRACKING_USERNAME"), (403, "set MLFLOW_TRACKING_USERNAME"), (503, "start it, or set MLFLOW_")],
)
def test_a_server_that_refuses_is_named_with_its_remedy(
    status: int, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(Refusing, "status", status)
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://joe:s3cr3t-pass@127.0.0.1:{server.server_port}")
        with pytest.raises(GenrecError) as told:
            ExperimentTracker(tracking_uri=noted_uri()).open_run("first", {}, {})
        server.shutdown()
    assert str(told.value).startswith(f"MLflow at http://***@127.0.0.1:{server.server_port} refuses: ")
    assert str(status) in str(told.value)
    assert remedy in str(told.value)
    assert "s3cr3t" not in str(told.value)


@pytest.fixture
def server(tracking: dict[str, str], tmp_path: Path) -> Iterator[int]:
    """The port of ``mlflow models serve``, started as the README says; the package is found in the model alone."""
    from contextlib import closing
    from socket import create_server

    with closing(create_server(("127.0.0.1", 0))) as opened:
        port = opened.getsockname()[1]
    mlflow = str(Path(sys.executable).with_name("mlflow"))
    command = [mlflow, "models", "serve", "-m", f"runs:/{tracking['run_id']}/model", "--env-manager", "local"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {
        "MLFLOW_TRACKING_URI": tracking["tracking_uri"],
        "PATH": f"{Path(mlflow).parent}:{os.environ['PATH']}",
        "TMPDIR": str(tmp_path),
    }
    with (tmp_path / "output").open("wb") as output:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"],
            cwd=tmp_path, env=environment, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    family = [psutil.Process(process.pid)]
    try:
        wait_until_ready(process, port, tmp_path / "output")
        family += family[0].children(recursive=True)
        yield port
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)
    assert not psutil.wait_procs(family, timeout=30)[1]


def wait_until_ready(process: subprocess.Popen[bytes], port: int, output: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.2)
        try:
            connection = HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request("GET", "/ping")
            if connection.getresponse().status == 200:
                return
        except ConnectionError:
            continue
    raise AssertionError(f"mlflow models serve is not ready:\n{output.read_text()[-4000:]}")


def ask(port: int, body: dict[str, Any]) -> tuple[int, Any]:
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", "/invocations", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    return response.status, json.loads(response.read())


@pytest.mark.slow
def test_mlflow_models_serve_answers(server: int, recommender: Recommender) -> None:
    body = request(recommender)
    answer = {"predictions": expected(recommender, body)}
    assert ask(server, {"inputs": body}) == (200, answer)
    assert ask(server, {"dataframe_records": body["instances"], "params": {"topk": 4}}) == (200, answer)
    for bad, said in (({"inputs": {**body, "topk": 0}}, "topk"), ({"inputs": body["instances"]}, "topk is missing")):
        status, refusal = ask(server, bad)
        assert status == 400
        assert said in refusal["message"]


def test_test_metrics_stay_where_mlflow_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    away = "http://127.0.0.1:9"  # nothing listens on the port of "discard"
    write_json(tmp_path / "experiment.json", {"tracking_uri": away, "run_id": "1"})

    @dg.asset
    def measured(context: dg.AssetExecutionContext) -> int:
        with mlflow_may_be_away(context):
            log_test_metrics(tmp_path, {"ranking": "hybrid", "hybrid": {"recall@10": 0.5}}, tmp_path / "report.html")
        return 1

    assert dg.materialize([measured]).output_for_node("measured") == 1
