"""A server without ``--model_dir`` serves the release that the pointer names, and follows it when told to reload."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from genrec_core.bundle.model_folder import POPULARITY
from genrec_core.releases.pointer import first_pointer, served_pointer, write_pointer
from genrec_core.storage.artifacts import write_manifest
from genrec_core.storage.folders import set_latest

if TYPE_CHECKING:
    from tests.core.tiny_model import TinyModel


def serve(storage: Path, version: str) -> None:
    """Move the pointer."""
    before = served_pointer(storage)
    folder = storage / "served_release" / f"to-{version}-{time.monotonic_ns()}"
    folder.mkdir(parents=True)
    write_pointer(folder, before.moved(version, "") if before else first_pointer(version, ""))
    set_latest("served_release", folder.name, storage)


@pytest.fixture
def storage(tmp_path: Path, tiny_model: "TinyModel") -> Path:
    """Two releases, of which the first is served."""
    for version in ("one", "two"):
        model = tmp_path / "model_release" / version / "model"
        shutil.copytree(tiny_model.model_dir, model)
        np.save(model / POPULARITY, tiny_model.popularity + len(version) * (version == "two"))
        write_manifest(model)
    serve(tmp_path, "one")
    return tmp_path


@pytest.fixture
def server(storage: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "genrec_core.cli", "serve", "--port", "0", "--threads", "1"],
        stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1", "GENREC_STORAGE": str(storage)},
    )  # fmt: skip
    yield process
    process.kill()
    process.wait()


def log_until(process: subprocess.Popen[str], pattern: str) -> str:
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(pattern, line):
            return found.group()
    raise AssertionError(f"the server ended without saying {pattern}")


def served_version(url: str) -> str:
    with urllib.request.urlopen(f"{url}/model", timeout=30) as answer:
        return str(json.load(answer)["version"])


def test_a_server_follows_the_pointer_to_and_fro(
    server: "subprocess.Popen[str]", storage: Path, wait_for: Callable[[Callable[[], bool]], None]
) -> None:
    url = log_until(server, r"http://127\.0\.0\.1:\d+")
    log_until(server, "ready: model")
    first = served_version(url)
    serve(storage, "two")
    assert served_version(url) == first  # until it is told
    server.send_signal(signal.SIGHUP)
    wait_for(lambda: served_version(url) != first)
    serve(storage, "one")
    server.send_signal(signal.SIGHUP)
    wait_for(lambda: served_version(url) == first)


@pytest.fixture
def wait_for() -> Callable[[Callable[[], bool]], None]:
    def wait(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.05)

    return wait
