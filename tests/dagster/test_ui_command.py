"""``make ui`` starts its servers together, ends them together, says where they are, and names a port that is taken."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from genrec_dagster import ui

REPOSITORY = Path(__file__).parents[2]
START_SECONDS = 240


def environment_in(folder: Path, **ports: str) -> dict[str, str]:
    own = {"GENREC_STORAGE": "storage", "DAGSTER_HOME": "dagster", "GENREC_MIRROR": "mirror"}
    return {
        **os.environ,
        **{name: str(folder / place) for name, place in own.items()},
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow/mlflow.db",
        "PYTHONPATH": str(REPOSITORY),
        **ports,
    }


def free_ports() -> dict[str, str]:
    return {name: free_port() for name in ("UI_PORT", "MLFLOW_PORT", "PAGES_PORT", "DEMO_PORT")}


@pytest.mark.parametrize("variable", ["UI_PORT", "MLFLOW_PORT", "PAGES_PORT"])
def test_a_port_that_is_taken_is_named_and_nothing_starts(variable: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ports = {**free_ports(), variable: port}
        command = [sys.executable, "-m", "genrec_dagster.ui"]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment_in(tmp_path, **ports), capture_output=True, text=True, timeout=60
        )
    assert done.returncode == 1
    assert f"port {port} is taken; stop what listens there, or set another: {variable}=..." in done.stderr
    assert not (tmp_path / "dagster").exists()


@pytest.mark.parametrize(
    ("ports", "said"),
    [
        ({"UI_PORT": "5000"}, "UI_PORT and MLFLOW_PORT are both 5000; set one of them to another port"),
        ({"DEMO_PORT": "3001"}, "PAGES_PORT and DEMO_PORT are both 3001; set one of them to another port"),
        ({"UI_PORT": "abc"}, "UI_PORT is 'abc'; set it to a port from 1 to 65535"),
    ],
)
def test_ports_that_cannot_be_used_are_told(
    ports: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("UI_PORT", "MLFLOW_PORT", "PAGES_PORT", "DEMO_PORT", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ports.items():
        monkeypatch.setenv(name, value)
    assert ui.main() == 1
    assert capsys.readouterr().err == said + "\n"


def test_the_addresses_are_the_uis_the_newest_pages_and_the_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("UI_PORT", "MLFLOW_PORT", "PAGES_PORT", "GENREC_PAGES_URL", "GENREC_MLFLOW_UI", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DEMO_PORT", "8099")
    assert [*ui.addresses(tmp_path)] == [
        *("Dagster", "the graph, all groups open", "MLflow, the trainings", "the demo page, once a release is served")
    ]
    for asset, file in (("recall_metrics", "report.html"), ("served_release", "pointer.json")):
        (tmp_path / asset / "v1").mkdir(parents=True)
        (tmp_path / asset / "v1" / file).write_text("{}")
        (tmp_path / asset / "latest.json").write_text(json.dumps({"version": "v1"}))
    told = ui.addresses(tmp_path)
    assert told["the evaluation on the test items (recall_metrics)"] == (
        "http://127.0.0.1:3001/recall_metrics/v1/report.html"
    )
    assert told["the demo page"] == "http://127.0.0.1:8099"
    assert [line.split()[-1] for line in ui.address_list(tmp_path).splitlines()] == [*told.values()]


class Started:
    """A server's process in the place of a real one."""

    def __init__(self, command: list[str], **options: object) -> None:
        self.command, self.code = command, None

    def poll(self) -> int | None:
        return self.code


def test_the_demo_starts_with_the_first_served_release_and_may_end_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GENREC_STORAGE", str(tmp_path))
    monkeypatch.setattr(ui, "_LOOK_SECONDS", 0)
    monkeypatch.setattr(ui.psutil, "Popen", Started)
    demo = ui.Demo(free_port())
    demo.look({})
    assert demo.process is None
    (tmp_path / "served_release").mkdir()
    (tmp_path / "served_release" / "latest.json").write_text(json.dumps({"version": "v1"}))
    demo.look({})
    assert demo.process.command[1:] == ["-m", "genrec_core.cli", "serve", "--port", demo.port, "--threads", "1"]
    demo.process.code = 1
    demo.look({})
    demo.look({})
    assert capsys.readouterr().out.count("there is no demo page; the rest goes on") == 1


def test_the_demo_leaves_a_taken_port_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        demo = ui.Demo(str(taken.getsockname()[1]))
        demo.look({})
    assert demo.over
    assert f"port {demo.port} is taken, so there is no demo page" in capsys.readouterr().out


SERVER = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"


@pytest.mark.parametrize("ends", ["by itself", "by a hang-up", "by two interrupts"])
def test_nothing_that_a_server_started_is_left(ends: str) -> None:
    """With small programs in place of the servers, one of which ignores an interrupt for a while."""
    stays = f"{SERVER}; time.sleep(60)"
    slow = f"import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); {stays}"
    servers = [[sys.executable, "-c", SERVER if ends == "by itself" else slow], [sys.executable, "-c", stays]]
    program = f"from genrec_dagster import ui; ui._STOP_SECONDS = 2; ui._run_together({servers!r})"
    both = subprocess.Popen([sys.executable, "-c", program], cwd=REPOSITORY, stderr=subprocess.DEVNULL)
    family: set[psutil.Process] = set()
    deadline = time.monotonic() + 30
    while both.poll() is None and time.monotonic() < deadline:
        with suppress(psutil.NoSuchProcess):
            family |= set(psutil.Process(both.pid).children(recursive=True))
        if len(family) >= 4 and ends != "by itself":
            both.send_signal(signal.SIGHUP if ends == "by a hang-up" else signal.SIGINT)
            time.sleep(0.5)
        time.sleep(0.02)
    assert both.wait(30) == 0
    assert len(family) >= 3
    assert not psutil.wait_procs(family, timeout=10)[1]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_servers_answer_and_end_together(number: signal.Signals, tmp_path: Path) -> None:
    ports = free_ports()
    with (tmp_path / "log").open("wb") as log:
        running = subprocess.Popen(
            [sys.executable, "-m", "genrec_dagster.ui"], cwd=REPOSITORY, env=environment_in(tmp_path, **ports),
            stdout=log, stderr=log,
        )  # fmt: skip
    try:
        wait_until_answers(f"http://127.0.0.1:{ports['UI_PORT']}/server_info", running, tmp_path / "log")
        wait_until_answers(f"http://127.0.0.1:{ports['MLFLOW_PORT']}/health", running, tmp_path / "log")
        wait_until_answers(f"http://127.0.0.1:{ports['PAGES_PORT']}", running, tmp_path / "log")
        family = psutil.Process(running.pid).children(recursive=True)
        running.send_signal(number)
        assert running.wait(60) == 130
        assert not psutil.wait_procs(family, timeout=30)[1]
    finally:
        running.terminate()  # it ends its servers
        running.wait(60)


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def wait_until_answers(address: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            urllib.request.urlopen(address, timeout=5)
            return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(log.read_text()[-3000:])
