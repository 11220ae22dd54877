"""Every link on a page of the graph opens: it leads to MLflow's UI or to a page in the storage, which is there."""

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import dagster as dg
import psutil
import pytest

from genrec_dagster import run
from genrec_dagster.pages import read_page
from genrec_dagster.resources import TRAINING_VIEW, mlflow_ui

START_SECONDS = 120


def metadata_of(graph: Any) -> Iterator[tuple[str, dg.MetadataValue]]:
    """All that materialisations and checks of the graph tell, by asset or check and name."""
    for event in graph.result.get_asset_materialization_events():
        for name, value in event.materialization.metadata.items():
            yield f"{event.asset_key.to_user_string()} {name}", value
    for check in graph.result.get_asset_check_evaluations():
        for name, value in check.metadata.items():
            yield f"{check.check_name} {name}", value


def links_of(graph: Any) -> dict[str, str]:
    """The addresses, bare or behind a few words of Markdown, by asset or check and name."""
    found = {}
    for name, value in metadata_of(graph):
        link = re.fullmatch(r"\[[\w. ]+\]\((http\S+)\)", str(value.value))
        if link or isinstance(value, dg.UrlMetadataValue):
            found[name] = link[1] if link else value.url
    return found


def test_every_link_is_an_http_address(finished_graph: Any) -> None:
    links = links_of(finished_graph)
    assert set(links) == {
        *("tiger_checkpoint mlflow_run", "recall_metrics mlflow_run", "recall_metrics report"),
        *("semantic_ids codes", "recall_metrics report_in_mlflow"),
        *("onnx_encoder mlflow_page", "model_release mlflow_page", "served_release mlflow_page"),
    }
    for name, file in (("recall_metrics report", "report.html"), ("semantic_ids codes", "codes.html")):
        asset = name.partition(" ")[0]
        assert links.pop(name) == f"http://127.0.0.1:3001/{asset}/{finished_graph.result.run_id}/{file}"
    assert all(link.startswith("http://127.0.0.1:5000/#/") for link in links.values())
    for name, value in metadata_of(finished_graph):
        if isinstance(value, dg.UrlMetadataValue | dg.MarkdownMetadataValue | dg.TextMetadataValue):
            assert "file://" not in str(value.value), name


@pytest.mark.parametrize(
    ("tracking", "ui", "port", "address"),
    [
        ("sqlite:////data/mlflow.db", "", "", "http://127.0.0.1:5000"),
        ("sqlite:////data/mlflow.db", "", "5055", "http://127.0.0.1:5055"),
        ("postgresql://joe:s3cr3t@db/mlflow", "", "", "http://127.0.0.1:5000"),
        ("https://joe:s3cr3t@mlflow.example/base/?token=1", "", "", "https://mlflow.example/base"),
        ("http://***@mlflow:5000", "", "", "http://mlflow:5000"),
        ("http://mlflow:5000", "tracking.example:8443", "", "http://tracking.example:8443"),
        ("http://mlflow:5000", "https://joe:s3cr3t@tracking.example", "", "https://tracking.example"),
    ],
)
def test_links_go_to_mlflows_ui_and_hold_no_password(
    tracking: str, ui: str, port: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENREC_MLFLOW_UI", ui)
    monkeypatch.setenv("MLFLOW_PORT", port)
    assert mlflow_ui(tracking) == address


def test_a_run_ends_with_the_addresses_of_what_it_made(
    finished_graph: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("UI_PORT", "MLFLOW_PORT", "PAGES_PORT", "DEMO_PORT", "GENREC_PAGES_URL", "GENREC_MLFLOW_UI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GENREC_STORAGE", str(finished_graph.storage))
    assert run._conclude({"status": "SUCCESS", "total_seconds": 1.0, "peak_mb": 1.0, "failures": []}) == 0
    told = capsys.readouterr().out.partition("after `make ui`:\n")[2].splitlines()
    addresses = [line.split()[-1] for line in told]
    links = links_of(finished_graph)
    assert links["recall_metrics report"] in addresses
    experiment = links["tiger_checkpoint mlflow_run"].partition("/runs/")[0]
    assert f"{experiment}/runs{TRAINING_VIEW}" in addresses
    assert addresses[0] == "http://127.0.0.1:3000"
    assert addresses[-1] == "http://127.0.0.1:8080"


@pytest.fixture
def server(finished_graph: Any, tmp_path: Path) -> Iterator[str]:
    """The address of MLflow's server over what the graph has logged."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environment = {
        **os.environ,
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{finished_graph.folder}/mlflow/mlflow.db",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    command = [str(Path(sys.executable).with_name("mlflow")), "server", "--port", port, "--workers", "1"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
    try:
        yield wait_until_ready(f"http://127.0.0.1:{port}", tmp_path / "log")
    finally:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        for member in family:
            member.terminate()
        assert not psutil.wait_procs(family, timeout=30)[1]


def wait_until_ready(address: str, log: Path) -> str:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"{address}/health", timeout=5)
            return address
        except OSError:
            time.sleep(0.3)
    raise AssertionError(log.read_text()[-3000:])


def content_behind(server: str, link: str) -> str:
    """What MLflow holds for the page of a link, as the page itself asks for it."""
    page = urlsplit(link).fragment.removesuffix(TRAINING_VIEW)
    if found := re.fullmatch(r"/models/(\w+)/versions/(\d+)", page):
        asked = "api/2.0/mlflow/model-versions/get?" + urlencode({"name": found[1], "version": found[2]})
    else:
        run, artifact = re.fullmatch(r"/experiments/\d+/runs/(\w+)(?:/artifacts/(.+))?", page).groups()
        asked = f"api/2.0/mlflow/runs/get?run_id={run}"
        if artifact == "model":
            asked = f"api/2.0/mlflow/artifacts/list?run_id={run}&path=model"
        elif artifact:
            asked = f"get-artifact?run_uuid={run}&path={artifact}"
    with urllib.request.urlopen(f"{server}/{asked}", timeout=30) as answer:
        return answer.read().decode()


def test_each_link_opens_what_it_names(finished_graph: Any, server: str) -> None:
    links = links_of(finished_graph)
    page, codes = (
        read_page(urlsplit(links.pop(name)).path, finished_graph.storage)
        for name in ("recall_metrics report", "semantic_ids codes")
    )
    assert codes
    contents = {name: content_behind(server, link) for name, link in links.items()}
    assert page
    assert contents["recall_metrics report_in_mlflow"].encode() == page
    assert json.loads(contents["tiger_checkpoint mlflow_run"])["run"]["info"]["run_name"].startswith(
        finished_graph.raw.name
    )
    assert contents["recall_metrics mlflow_run"] == contents["tiger_checkpoint mlflow_run"]
    assert "model/MLmodel" in contents["onnx_encoder mlflow_page"]
    for asset in ("model_release", "served_release"):
        version = json.loads(contents[f"{asset} mlflow_page"])["model_version"]
        assert {"key": "release", "value": finished_graph.result.run_id} in version["tags"]
