"""``make ui`` starts the Dagster UI and MLflow's together, ends them together, and names a port that is taken."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

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


@pytest.mark.parametrize("variable", ["UI_PORT", "MLFLOW_PORT"])
def test_a_port_that_is_taken_is_named_and_nothing_starts(variable: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ports = {"UI_PORT": free_port(), "MLFLOW_PORT": free_port(), variable: port}
        command = [sys.executable, "-m", "genrec_dagster.ui"]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment_in(tmp_path, **ports), capture_output=True, text=True, timeout=60
        )
    assert done.returncode == 1
    assert f"port {port} is taken; stop what listens there, or set another: {variable}=..." in done.stderr
    assert not (tmp_path / "dagster").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_both_servers_answer_and_end_together(number: signal.Signals, tmp_path: Path) -> None:
    ports = {"UI_PORT": free_port(), "MLFLOW_PORT": free_port()}
    with (tmp_path / "log").open("wb") as log:
        ui = subprocess.Popen(
            [sys.executable, "-m", "genrec_dagster.ui"], cwd=REPOSITORY, env=environment_in(tmp_path, **ports),
            stdout=log, stderr=log,
        )  # fmt: skip
    wait_until_answers(f"http://127.0.0.1:{ports['UI_PORT']}/server_info", ui, tmp_path / "log")
    wait_until_answers(f"http://127.0.0.1:{ports['MLFLOW_PORT']}/health", ui, tmp_path / "log")
    family = psutil.Process(ui.pid).children(recursive=True)
    ui.send_signal(number)
    assert ui.wait(60) == 130
    assert not psutil.wait_procs(family, timeout=30)[1]


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
