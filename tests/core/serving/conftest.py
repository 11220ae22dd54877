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

import psutil
import pytest
from fastapi.testclient import TestClient

from genrec_core.serving.app import Server, build_app
from genrec_core.serving.metrics import Metrics
from genrec_core.serving.models import ModelHolder, ServedModel
from genrec_core.settings import ServingSettings

if TYPE_CHECKING:
    from tests.core.tiny_model import TinyModel


class KeptModel(ServedModel):
    """A model that serves one server after the other."""

    def retire(self) -> None:
        """The session ends its process."""


@pytest.fixture(scope="session")
def kept_model(tiny_model: "TinyModel") -> Iterator[KeptModel]:
    model = KeptModel(tiny_model.model_dir, threads=1)
    yield model
    ServedModel.retire(model)


@pytest.fixture(scope="session")
def kept_shop(shop_dir: Path) -> Iterator[KeptModel]:
    model = KeptModel(shop_dir, threads=1)
    yield model
    ServedModel.retire(model)


@pytest.fixture
def client_of(kept_model: KeptModel) -> Iterator[Callable[..., TestClient]]:
    """Called with settings and a token: a client of a server on the tiny model, its decoding process shared by all."""
    clients = []

    def make(
        token: str | None = None,
        loaded: bool = True,
        model: ServedModel = kept_model,
        client: tuple[str, int] = ("testclient", 50000),
        **settings: object,
    ) -> TestClient:
        form, metrics = ServingSettings.model_validate({"threads": 1, **settings}), Metrics()
        holder = ModelHolder(model.folder, 1, metrics, open_model=lambda *_: model)
        if loaded:
            holder.load()
        app = build_app(Server(holder, form, metrics, token))
        opened = TestClient(app, raise_server_exceptions=False, client=client)
        opened.__enter__()
        clients.append(opened)
        return opened

    yield make
    for client in clients:
        client.__exit__(None, None, None)


def _decoders_of(server: int) -> list[psutil.Process]:
    """The decoding processes of the server with this process id."""
    children = psutil.Process(server).children()
    return [child for child in children if "--multiprocessing-fork" in child.cmdline()]


class RunningServer:
    """``genrec serve`` in a process of its own."""

    def __init__(self, model_dir: Path | None, *options: str, **environment: str) -> None:
        model = ["--model_dir", str(model_dir)] if model_dir else []
        command = [sys.executable, "-m", "genrec_core.cli", "serve", *model, "--port", "0"]
        environment = {**os.environ, **environment}
        self.process = subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True, env=environment)
        self.log: list[str] = []
        self.url = self._wait()
        threading.Thread(target=self._drain, daemon=True).start()

    def _wait(self) -> str:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
            if "ready: model" in line:
                (url,) = re.findall(r"http://127\.0\.0\.1:\d+", "".join(self.log))
                return str(url)
        raise AssertionError(f"the server never listened: {''.join(self.log)}")

    def _drain(self) -> None:
        assert self.process.stderr is not None
        self.log.extend(self.process.stderr)

    def decoders(self) -> list[psutil.Process]:
        """Its decoding processes; another child cleans up what multiprocessing shares."""
        return _decoders_of(self.process.pid)

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout=30)


@pytest.fixture
def start_server(tiny_model: "TinyModel") -> Iterator[Callable[..., RunningServer]]:
    """Starts servers on the tiny model, or another folder; what still runs at the end is killed."""
    running: list[RunningServer] = []

    def start(*options: str, model_dir: Path | None = tiny_model.model_dir, **environment: str) -> RunningServer:
        running.append(RunningServer(model_dir, *options, **environment))
        return running[-1]

    yield start
    for server in running:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()


@pytest.fixture
def decoders_of() -> Callable[[int], list[psutil.Process]]:
    """Called with a server's process id: its decoding processes."""
    return _decoders_of
