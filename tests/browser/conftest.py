"""A running Dagster UI over the tiny shop, and a browser to look at it with."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import Page, expect, sync_playwright

CHROMIUM = Path("/usr/bin/chromium")
CHROMIUM_ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
REPOSITORY = Path(__file__).resolve().parents[2]
START_SECONDS, STOP_SECONDS = 240, 30
PAGE_MILLISECONDS = 120_000
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


@contextmanager
def running_ui(folder: Path, raw: Path) -> Iterator[str]:
    """Start ``dagster dev`` as ``make ui`` does, with all it writes below ``folder``; end it and its children after."""
    environment = environment_in(folder, raw)
    subprocess.run([sys.executable, "-m", "genrec_dagster.instance"], env=environment, cwd=folder, check=True)
    port, log = free_port(), folder / "dagster.log"
    workspace = str(REPOSITORY / "workspace.yaml")
    command = [sys.executable, "-m", "dagster", "dev", "-w", workspace, "-h", "127.0.0.1", "-p", str(port)]
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
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        if code_is_loaded(address):
            return
        time.sleep(0.5)
    pytest.fail(f"dagster dev did not load the definitions:\n{log.read_text(errors='replace')[-3000:]}")


def code_is_loaded(address: str) -> bool:
    """Whether the server answers and every code location is loaded without an error."""
    body = json.dumps({"query": LOCATIONS}).encode()
    request = urllib.request.Request(f"{address}/graphql", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            entries = json.load(answer)["data"]["workspaceOrError"]["locationEntries"]
    except (urllib.error.URLError, OSError):  # it does not listen yet
        return False
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
