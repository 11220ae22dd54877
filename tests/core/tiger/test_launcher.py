"""torchrun under the launcher: it ends with its parent, and says which rank failed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

TORCHRUN = ["--nnodes", "1", "--nproc-per-node", "2", "--max-restarts", "0"]
RENDEZVOUS = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1"]
LAUNCH = [sys.executable, "-m", "genrec_core.tiger.torchrun"]

PARENT = """
import os, signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the tests may run where it is ignored
subprocess.run([*sys.argv[1:4], str(os.getpid()), *sys.argv[4:]])
"""
WORKER = """
import os, pathlib, time
pathlib.Path("started", os.environ["RANK"]).write_text(str(os.getpid()))
time.sleep(600)
"""
SUICIDE = """
import os, signal, time
if os.environ["RANK"] == "1":
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(600)
"""


def write_script(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def started(folder: Path, process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """torchrun and both workers, once all of them run."""
    deadline = time.monotonic() + 90
    while len(list((folder / "started").iterdir())) < 2:
        assert process.poll() is None, "torchrun ended before its workers started"
        assert time.monotonic() < deadline, "no worker started"
        time.sleep(0.1)
    return psutil.Process(process.pid).children(recursive=True)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "terminated"])
def test_torchrun_and_its_workers_end_when_the_parent_dies(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "started").mkdir()
    parent, worker = write_script(tmp_path, "parent.py", PARENT), write_script(tmp_path, "worker.py", WORKER)
    command = [sys.executable, parent, *LAUNCH, str(tmp_path / "failure.json"), *TORCHRUN, *RENDEZVOUS, worker]
    with subprocess.Popen(command, cwd=tmp_path, env=with_this_code(), stderr=subprocess.DEVNULL) as process:
        children = started(tmp_path, process)
        process.send_signal(number)
    assert len(children) >= 3
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive


def test_a_rank_that_dies_without_a_word_is_named(tmp_path: Path) -> None:
    worker = write_script(tmp_path, "worker.py", SUICIDE)
    failure = tmp_path / "failure.json"
    command = [*LAUNCH, str(os.getpid()), str(failure), *TORCHRUN, *RENDEZVOUS, worker]
    done = subprocess.run(command, cwd=tmp_path, env=with_this_code(), stderr=subprocess.PIPE, check=False, timeout=120)
    assert done.returncode != 0
    noted = json.loads(failure.read_text())
    assert noted["rank"] == 1
    assert noted["exit_code"] == -signal.SIGKILL
    assert "SIGKILL" in noted["message"]


def test_a_launcher_whose_parent_is_gone_starts_nothing(tmp_path: Path) -> None:
    gone = str(2**22 + 1)
    done = subprocess.run(
        [*LAUNCH, gone, str(tmp_path / "f"), *TORCHRUN], env=with_this_code(), capture_output=True, check=False
    )
    assert done.returncode != 0
    assert f"the process {gone} that started this training is gone" in done.stderr.decode()


def with_this_code() -> dict[str, str]:
    """An environment in which the package under test can be imported from any folder."""
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1"}
