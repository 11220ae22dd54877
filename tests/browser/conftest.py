"""A running Dagster UI over the tiny shop or over a finished run, and a browser to look at it with."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil
import pytest
from playwright.sync_api import Page, expect, sync_playwright

from genrec_dagster.pages import serve

CHROMIUM = Path("/usr/bin/chromium")
CHROMIUM_ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
REPOSITORY = Path(__file__).resolve().parents[2]
START_SECONDS, STOP_SECONDS = 240, 30
PAGE_MILLISECONDS = 120_000
SHOWN, PICTURES = "GENREC_SHOWN", "GENREC_PICTURES"
LOCATIONS = "{workspaceOrError {... on Workspace {locationEntries {loadStatus locationOrLoadError {__typename}}}}}"


@pytest.fixture(scope="session")
def chromium() -> Path:
    """The browser, where it is installed."""
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is not there: apt-get install chromium")
    return CHROMIUM


@pytest.fixture
def page(chromium: Path) -> Iterator[Page]:
    """A page of 1600 x 1000 pixels in a new headless Chromium."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(chromium), args=CHROMIUM_ARGUMENTS)
        opened = browser.new_page(viewport={"width": 1600, "height": 1000})
        opened.set_default_timeout(PAGE_MILLISECONDS)
        expect.set_options(timeout=PAGE_MILLISECONDS)
        yield opened
        browser.close()


@pytest.fixture
def dagster_ui(chromium: Path, sample_folder: Path, tmp_path: Path) -> Iterator[str]:
    """The address of a ``dagster dev`` with empty storage, whose raw data are the tiny shop."""
    with running_ui(tmp_path, sample_folder) as address:
        yield address


@pytest.fixture(scope="module")
def empty_ui(chromium: Path, sample_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a webserver without a daemon, and so without sensors, over empty storage."""
    with running_ui(tmp_path_factory.mktemp("ui"), sample_folder, daemon=False) as address:
        yield address


@pytest.fixture
def ui_with_inbox(
    chromium: Path, sample_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, Path]]:
    """The address of a ``dagster dev`` that serves request files, and the inbox for these."""
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    monkeypatch.setenv("GENREC_INBOX", str(inbox))
    with running_ui(tmp_path, sample_folder) as address:
        yield address, inbox


@pytest.fixture
def ui_after_a_run(chromium: Path, tmp_path: Path) -> Iterator[str]:
    """The address of a webserver beside which ``make run`` was run. It failed at once, as its raw data are missing."""
    raw = tmp_path / "missing"
    command = [sys.executable, "-m", "genrec_dagster.run"]
    assert subprocess.run(command, env=environment_in(tmp_path, raw), cwd=tmp_path, check=False).returncode == 1
    with running_ui(tmp_path, raw, daemon=False) as address:
        yield address


@dataclass(frozen=True)
class Gallery:
    """A finished run, looked at through a copy of Dagster's events and of MLflow's database.

    Args:
        shown: the folder of the run: ``storage``, ``dagster`` and ``mlflow/mlflow.db``, as ``make run`` leaves them in
            ``.genrec``. It is only read.
        copy: where the copies lie.
        pictures: where pictures go.
    """

    shown: Path
    copy: Path
    pictures: Path

    @property
    def environment(self) -> dict[str, str]:
        own = environment_in(self.copy, self.shown / "raw")
        return {**own, "GENREC_STORAGE": str(self.shown / "storage"), "DAGSTER_DISABLE_TELEMETRY": "yes"}

    def python(self, code: str) -> str:
        """What ``code`` prints, over the copy."""
        command = [sys.executable, "-c", code]
        return subprocess.run(
            command, env=self.environment, cwd=self.copy, check=True, stdout=subprocess.PIPE, text=True
        ).stdout

    @contextmanager
    def dagster(self) -> Iterator[str]:
        """The address of a webserver alone: without a daemon no sensor starts a run."""
        workspace = str(REPOSITORY / "workspace.yaml")
        with self._serving("dagster-webserver", "-w", workspace, "-h", "127.0.0.1", "-p") as (address, server, log):
            wait_until_loaded(address, server, log)
            yield address

    @contextmanager
    def mlflow(self) -> Iterator[str]:
        """The address of MLflow's server."""
        store = ("--backend-store-uri", f"sqlite:///{self.copy / 'mlflow.db'}")
        with self._serving("mlflow", "server", *store, "--workers", "1", "--port") as (address, server, log):
            wait_until(lambda: bool(urllib.request.urlopen(f"{address}/health", timeout=5)), server, log)
            yield address

    @contextmanager
    def pages(self) -> Iterator[str]:
        """The address of the server of HTML pages and pictures."""
        own = patch.dict(os.environ, {"GENREC_STORAGE": str(self.shown / "storage")})
        with own, serve(0) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield f"http://127.0.0.1:{server.server_port}"
            server.shutdown()

    @contextmanager
    def server(self) -> Iterator[str]:
        """The address of the online server of the served release."""
        with self._serving("genrec", "serve", "--threads", "1", "--port") as (address, server, log):
            wait_until(lambda: bool(urllib.request.urlopen(f"{address}/health/ready", timeout=5)), server, log)
            yield address

    @contextmanager
    def _serving(self, program: str, *arguments: str) -> Iterator[tuple[str, "subprocess.Popen[bytes]", Path]]:
        """A program of the environment whose last option takes a port."""
        port, log = free_port(), self.copy / f"{program}.log"
        command = [str(Path(sys.executable).with_name(program)), *arguments, str(port)]
        environment = {**self.environment, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with log.open("wb") as output:
            server = subprocess.Popen(
                command, env=environment, cwd=self.copy, stdout=output, stderr=output, preexec_fn=heed_interrupts
            )
        try:
            yield f"http://127.0.0.1:{port}", server, log
        finally:
            stop_family(server)


@pytest.fixture
def gallery(chromium: Path, screenshots: Path, tmp_path: Path) -> Gallery:
    """The finished run in the folder that ``GENREC_SHOWN`` names."""
    if not os.environ.get(SHOWN):
        pytest.skip(f"{SHOWN} names no folder with a finished run, such as .genrec; make screenshots sets it")
    shown = Path(os.environ[SHOWN]).resolve()
    shutil.copytree(shown / "dagster", tmp_path / "dagster")
    if (shown / "mlflow" / "mlflow.db").is_file():
        shutil.copy2(shown / "mlflow" / "mlflow.db", tmp_path)
    pictures = Path(os.environ.get(PICTURES) or screenshots)
    return Gallery(shown, tmp_path, pictures)


@contextmanager
def running_ui(folder: Path, raw: Path, daemon: bool = True) -> Iterator[str]:
    """Start ``dagster dev`` as ``make ui`` does, with all it writes below ``folder``; end it and its children after.

    Without ``daemon``, the webserver alone: it starts sooner, and launches no run that has to wait in a queue.
    """
    environment = environment_in(folder, raw)
    subprocess.run([sys.executable, "-m", "genrec_dagster.instance"], env=environment, cwd=folder, check=True)
    port, log = free_port(), folder / "dagster.log"
    workspace = str(REPOSITORY / "workspace.yaml")
    program = [sys.executable, "-m", "dagster", "dev"] if daemon else [sys.executable, "-m", "dagster_webserver"]
    command = [*program, "-w", workspace, "-h", "127.0.0.1", "-p", str(port)]
    with log.open("wb") as output:
        server = subprocess.Popen(
            command, env=environment, cwd=folder, stdout=output, stderr=subprocess.STDOUT, preexec_fn=heed_interrupts
        )
    try:
        address = f"http://127.0.0.1:{port}"
        wait_until_loaded(address, server, log)
        yield address
    finally:
        stop_family(server)


def heed_interrupts() -> None:
    """Undo what a shell's ``&`` hands down: SIGINT ignored, by which ``dagster dev`` ends its own children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def environment_in(folder: Path, raw: Path) -> dict[str, str]:
    """This process's environment with every path of the project moved below ``folder``."""
    return {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "PRESET": "sample",
        "GENREC_RAW": str(raw),
        "GENREC_STORAGE": str(folder / "storage"),
        "DAGSTER_HOME": str(folder / "dagster"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
    }


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_loaded(address: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    """Return once the definitions are loaded; fail with the end of ``log`` if they are not in time."""
    wait_until(lambda: code_is_loaded(address), server, log)


def wait_until(answers: Callable[[], bool], server: "subprocess.Popen[bytes]", log: Path) -> None:
    """Return once a server answers; fail with the end of ``log`` if it does not in time."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            if answers():
                return
        except OSError:  # it does not listen yet; urllib's errors are such
            pass
        time.sleep(0.5)
    pytest.fail(f"the server did not start:\n{log.read_text(errors='replace')[-3000:]}")


def code_is_loaded(address: str) -> bool:
    """Whether the server answers and every code location is loaded without an error."""
    body = json.dumps({"query": LOCATIONS}).encode()
    request = urllib.request.Request(f"{address}/graphql", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        entries = json.load(answer)["data"]["workspaceOrError"]["locationEntries"]
    loaded = [
        entry["loadStatus"] == "LOADED" and (entry["locationOrLoadError"] or {}).get("__typename") for entry in entries
    ]
    return bool(loaded) and all(kind == "RepositoryLocation" for kind in loaded)


def stop_family(server: "subprocess.Popen[bytes]") -> None:
    """End the server, then whatever is left of its children."""
    family = psutil.Process(server.pid).children(recursive=True) if server.poll() is None else []
    server.send_signal(signal.SIGINT)
    try:
        server.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
    for process in psutil.wait_procs(family, timeout=STOP_SECONDS)[1]:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue


@pytest.fixture(scope="session")
def screenshots() -> Path:
    """The folder that pictures of the UI go to; git ignores it."""
    folder = REPOSITORY / ".genrec" / "screenshots"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


# Values for the launchpad with which the tiny shop passes every gate within a minute.
SMALL_RUN = {
    "ops": {
        "semantic_ids": {"config": {"levels": 2, "codebook_size": 8}},
        "tiger_checkpoint": {"config": {"epochs": 4, "batch_targets": 128, "processes": 1}},
        "onnx_encoder_onnx_latency": {"config": {"p95_milliseconds": 60_000.0, "timed_users": 10}},
        "batch_predictions": {"config": {"top_k": 20}},
    },
    "resources": {"gates": {"config": {"max_miss_share": 1.0}}},
}


@pytest.fixture(scope="session")
def small_run() -> dict[str, Any]:
    """A launchpad's configuration for a quick run that passes."""
    return SMALL_RUN


@dataclass(frozen=True)
class Addresses:
    """Where the UIs are, and the pages in the storage."""

    dagster: str
    mlflow: str
    pages: str


@pytest.fixture(scope="module")
def built(chromium: Path, sample_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Addresses]:
    """``make ui`` over a finished run of the tiny shop."""
    folder, shown = tmp_path_factory.mktemp("links"), ("UI_PORT", "MLFLOW_PORT", "PAGES_PORT")
    ports = {name: str(free_port()) for name in (*shown, "DEMO_PORT")}
    environment = {**environment_in(folder, sample_folder), **ports}
    (folder / "config.json").write_text(json.dumps(SMALL_RUN))
    job = ["-m", "genrec_dagster.definitions", "-j", "full_graph", "-c", str(folder / "config.json")]
    for command in (["genrec_dagster.instance"], ["dagster", "job", "execute", *job]):
        subprocess.run([sys.executable, "-m", *command], env=environment, cwd=REPOSITORY, check=True)
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "genrec_dagster.ui"], env=environment, cwd=REPOSITORY, stdout=log, stderr=log,
            preexec_fn=heed_interrupts,
        )  # fmt: skip
    try:
        addresses = Addresses(*(f"http://127.0.0.1:{ports[name]}" for name in shown))
        wait_until_loaded(addresses.dagster, server, folder / "log")
        yield addresses
    finally:
        stop_family(server)
