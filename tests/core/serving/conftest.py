"""A server in this process for most tests, and a real one on loopback for those about processes."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fastapi.testclient import TestClient

from genrec_core.serving.app import Server, build_app
from genrec_core.serving.metrics import Metrics
from genrec_core.serving.models import ModelHolder
from genrec_core.settings import ServingSettings

if TYPE_CHECKING:
    from conftest import TinyModel


@pytest.fixture
def client_of(tiny_model: "TinyModel") -> Iterator[Callable[..., TestClient]]:
    """Called with settings and a token: a client of a server on the tiny model."""
    clients = []

    def make(token: str | None = None, model_dir: Path | None = None, **settings: object) -> TestClient:
        form, metrics = ServingSettings.model_validate({"threads": 1, **settings}), Metrics()
        holder = ModelHolder(model_dir or tiny_model.model_dir, form, metrics)
        holder.load()
        client = TestClient(build_app(Server(holder, form, metrics, token)), raise_server_exceptions=False)
        client.__enter__()
        clients.append(client)
        return client

    yield make
    for client in clients:
        client.__exit__(None, None, None)


class RunningServer:
    """``genrec serve`` in a process of its own."""

    def __init__(self, model_dir: Path, *options: str, token: str | None = None) -> None:
        command = [sys.executable, "-m", "genrec_core.cli", "serve", "--model_dir", str(model_dir), "--port", "0"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"} | ({"GENREC_TOKEN": token} if token else {})
        self.process = subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True, env=environment)
        self.log: list[str] = []
        self.url = self._wait()
        threading.Thread(target=self._drain, daemon=True).start()

    def _wait(self) -> str:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                return found.group()
        raise AssertionError(f"the server never listened: {''.join(self.log)}")

    def _drain(self) -> None:
        assert self.process.stderr is not None
        self.log.extend(self.process.stderr)

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout=30)


@pytest.fixture
def start_server(tiny_model: "TinyModel") -> Iterator[Callable[..., RunningServer]]:
    """Starts servers on the tiny model, or another folder; what still runs at the end is killed."""
    running: list[RunningServer] = []

    def start(*options: str, model_dir: Path | None = None, token: str | None = None) -> RunningServer:
        running.append(RunningServer(model_dir or tiny_model.model_dir, *options, token=token))
        return running[-1]

    yield start
    for server in running:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()
