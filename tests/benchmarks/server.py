"""Users a second that the online server answers, beside what the same model decodes in batches on the same cores."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import psutil

from genrec_core.errors import GenrecError
from genrec_core.recommend.recommender import Recommender
from genrec_core.storage.folders import latest
from tests.benchmarks.load import PATH, ask_for
from tests.benchmarks.machine import describe, spread
from tests.benchmarks.workload import Workload

CLIENTS, TOP_K, USERS = 16, 100, 4096
_PART = 1024  # users of a measurement of batches
_WARM_SECONDS, _START_SECONDS = 2.0, 60
_NOT_READY = 503


def run(
    model_dir: Path | None = None,
    histories: Path | None = None,
    seconds: float = 60,
    repeats: int = 3,
    options: Sequence[str] = (),
) -> dict[str, Any]:
    """Let 16 clients ask a real server, one user a request; decode the same users in batches before and after.

    Args:
        model_dir: the exported model; the newest ``onnx_encoder`` of the storage where None.
        histories: whose lists; see :meth:`tests.benchmarks.workload.Workload.of`.
        seconds: how long the clients ask; two seconds before are not counted.
        repeats: measurements of the batches before, and as many after.
        options: further options of ``genrec serve``.

    Returns:
        ``users_per_s``, ``share_of_batch`` (that over the median of the batches), ``p99_ms`` and ``errors`` (answers
        that are not status 200 with items for the user who asked), the details behind them, machine, commit.

    Raises:
        GenrecError: there is no model, or the server does not start or ends with an error.
    """
    folder = model_dir or latest("onnx_encoder")
    recommender = Recommender.open(folder)
    workload = Workload.of(recommender.item_ids, histories)
    users = [recommender.item_ids[rows].tolist() for rows in workload.drawn(USERS, seed=0)]
    before = _batch_rates(recommender, users, repeats)
    with _serving(["--model_dir", str(folder), *options]) as server:
        load = asyncio.run(ask_for(server.host, server.port, _bodies(users), CLIENTS, _WARM_SECONDS, seconds))
        figures = {"batch_size": server.mean_batch(), "peak_mb": server.peak_mb()}
    after = _batch_rates(recommender, users, repeats)
    batch = spread(before + after)
    return {
        "users_per_s": round(load.rate, 1),
        "share_of_batch": round(load.rate / batch["median"], 3),
        "p99_ms": round(load.percentile(99), 1),
        "errors": load.errors,
        "benchmark": "server",
        "model_dir": folder.name,
        "histories": workload.name,
        "p50_ms": round(load.percentile(50), 1),
        "batch_users_per_s": batch,
        "batch_before": spread(before)["median"],
        "batch_after": spread(after)["median"],
        **figures,
        "first_answer_s": round(server.first_answer_s, 2),
        "clients": CLIENTS,
        "top_k": TOP_K,
        "seconds": seconds,
        "options": list(options),
        **describe(),
    }


def _batch_rates(recommender: Recommender, histories: list[list[int]], repeats: int) -> list[float]:
    """Users a second of each measurement but a first, shorter one."""
    rates = []
    for repeat in range(repeats + 1):
        users = histories[repeat * _PART % len(histories) :][: _PART if repeat else _PART // 4]
        began = time.perf_counter()
        recommender.rank(users, TOP_K)
        rates.append(len(users) / (time.perf_counter() - began))
    return rates[1:]


def _bodies(histories: list[list[int]]) -> list[bytes]:
    """The body of each user's request."""
    return [
        json.dumps({"topk": TOP_K, "instances": [{"user_id": str(user), "item_ids": history}]}).encode()
        for user, history in enumerate(histories)
    ]


class _ServerProcess:
    """``genrec serve`` in a process of its own, on a free port.

    Raises:
        GenrecError: it does not listen.
    """

    def __init__(self, options: Sequence[str]) -> None:
        command = [sys.executable, "-m", "genrec_core.cli", "serve", "--port", "0", *options]
        environment = {name: value for name, value in os.environ.items() if name != "GENREC_TOKEN"}
        began, self.log = time.perf_counter(), list[str]()
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        self.host, self.port = self._address()
        Thread(target=self._drain, daemon=True).start()
        self._first_answer(began + _START_SECONDS)
        self.first_answer_s = time.perf_counter() - began

    def _address(self) -> tuple[str, int]:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
            if found := re.search(r"http://([\d.]+):(\d+)", line):
                return found.group(1), int(found.group(2))
        raise GenrecError(f"the server did not start: {''.join(self.log[-3:])}")

    def _drain(self) -> None:
        assert self.process.stderr is not None
        self.log.extend(self.process.stderr)

    def _first_answer(self, deadline: float) -> None:
        body = json.dumps({"topk": 1, "instances": [{"user_id": "1", "item_ids": []}]}).encode()
        while True:
            try:
                self.read(PATH, body)
            except urllib.error.HTTPError as error:
                if error.code != _NOT_READY or time.perf_counter() > deadline:
                    raise GenrecError(f"the server does not answer: {error}; see {''.join(self.log[-3:])}") from error
                time.sleep(0.01)
            else:
                return

    def read(self, path: str, body: bytes | None = None) -> str:
        """The answer of a GET, or of a POST of JSON."""
        request = urllib.request.Request(
            f"http://{self.host}:{self.port}{path}", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return str(answer.read().decode())

    def mean_batch(self) -> float:
        """Users of a batch, on average."""
        figures = dict(line.rsplit(" ", 1) for line in self.read("/metrics").splitlines() if line[:1] != "#")
        users, batches = (float(figures[f"genrec_batch_users_{name}"]) for name in ("sum", "count"))
        return round(users / batches, 2)

    def peak_mb(self) -> float:
        """The largest resident memory so far of the server and its decoding processes, in MB of 2^20 bytes.

        Pages that they share count for each of them.
        """
        server = psutil.Process(self.process.pid)
        return round(sum(_peak_mb(process.pid) for process in (server, *server.children())), 1)

    def stop(self) -> None:
        """End it on SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        if code := self.process.wait(_START_SECONDS):
            raise GenrecError(f"the server ended with exit code {code}: {''.join(self.log[-3:])}")


def _peak_mb(process_id: int) -> float:
    status = Path(f"/proc/{process_id}/status").read_text(encoding="ascii")
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024


@contextmanager
def _serving(options: Sequence[str]) -> Iterator[_ServerProcess]:
    server = _ServerProcess(options)
    try:
        yield server
        server.stop()
    finally:
        if server.process.poll() is None:
            server.process.kill()
