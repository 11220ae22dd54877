"""``genrec predict`` as a user starts it: memory while a large file is streamed, and the time to a first answer."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from threading import Thread
from typing import Any

import psutil

from genrec_core.bundle.model_folder import ModelFolder
from genrec_core.errors import GenrecError
from genrec_core.settings import RankingMode
from genrec_core.storage.folders import latest
from tests.benchmarks.machine import describe, spread
from tests.benchmarks.workload import random_histories

_DISTINCT = 20_000  # histories; a larger file repeats them
_SAMPLE_SECONDS, _PARTS = 0.05, 4


def run(
    model_dir: Path | None = None,
    users: int = 1_000_000,
    topk: int = 100,
    ranking: RankingMode = "hybrid",
    repeats: int = 3,
) -> dict[str, Any]:
    """Let ``genrec predict`` serve a file of random histories as long as Beauty's, in a process of its own.

    Args:
        model_dir: the exported model; the newest ``onnx_encoder`` of the storage where None.
        users: lines of the file.
        topk: items a user.
        ranking: what orders the items; ``dense`` is fastest.
        repeats: how often a file of one line is served, from the start of the process to its end.

    Returns:
        ``peak_mb``, ``users_per_s``, ``first_answer_s`` and the processor time of it, which a busy machine leaves as it
        is, the largest resident memory in each quarter of the time, the sizes of the files, machine, commit.

    Raises:
        GenrecError: there is no model, the command fails, or a row is missing.
    """
    folder = model_dir or latest("onnx_encoder")
    with tempfile.TemporaryDirectory(prefix="genrec-bench-") as name:
        source, output = Path(name) / "requests.txt", Path(name) / "predictions.csv"
        options = ["--model_dir", str(folder), "--topk", str(topk), "--ranking", ranking]
        _write_requests(source, folder, 1)
        first = [_predict(source, output, options) for _ in range(repeats + 1)][1:]
        _write_requests(source, folder, users)
        done = _predict(source, output, options)
        if (rows := _lines(output) - 1) != users:
            raise GenrecError(f"{rows} rows for {users} requests; see the messages above")
        sizes = {"input_mb": _size_mb(source), "output_mb": _size_mb(output)}
    return {
        "peak_mb": done.peak_mb,
        "users_per_s": round(users / done.seconds, 1),
        "first_answer_s": spread([each.seconds for each in first]),
        "first_answer_cpu_s": spread([each.cpu_seconds for each in first]),
        "benchmark": "prediction",
        "users": users,
        "top_k": topk,
        "ranking": ranking,
        "seconds": round(done.seconds, 1),
        "peak_mb_by_quarter": done.by_part(),
        **sizes,
        "model_dir": folder.name,
        **describe(),
    }


class _Process:
    """A finished command: how long it took, also of a processor, and its resident memory on the way."""

    def __init__(self, command: Sequence[str]) -> None:
        began, self._samples, self.peak_mb = time.perf_counter(), list[tuple[float, float]](), 0.0
        process = subprocess.Popen(command)
        watch = Thread(target=self._watch, args=(psutil.Process(process.pid), began), daemon=True)
        watch.start()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        self.seconds = time.perf_counter() - began
        self.cpu_seconds = usage.ru_utime + usage.ru_stime
        watch.join()
        if process.returncode:
            raise GenrecError(f"genrec predict ended with exit code {process.returncode}; its messages are above")

    def _watch(self, process: psutil.Process, began: float) -> None:
        try:
            while True:
                self._samples.append((time.perf_counter() - began, process.memory_info().rss / 2**20))
                self.peak_mb = max(self.peak_mb, _high_water_mb(process.pid))
                time.sleep(_SAMPLE_SECONDS)
        except (psutil.Error, OSError):
            return  # it has ended

    def by_part(self) -> list[float]:
        """The largest sample of each quarter of the time, MB of 2^20 bytes."""
        parts: list[list[float]] = [[] for _ in range(_PARTS)]
        for when, megabytes in self._samples:
            parts[min(int(_PARTS * when / self.seconds), _PARTS - 1)].append(megabytes)
        return [round(max(part, default=0.0), 1) for part in parts]


def _high_water_mb(pid: int) -> float:
    """The largest resident memory of a process so far; what wait4 tells counts its parent's at the fork too."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return round(int(fields.get("VmHWM", "0 kB").split()[0]) / 1024, 1)  # a process that has ended has none


def _predict(source: Path, output: Path, options: Sequence[str]) -> _Process:
    paths = ["--input_path", str(source), "--output_path", str(output)]
    return _Process([sys.executable, "-m", "genrec_core.cli", "predict", *paths, *options, "--quiet"])


def _write_requests(path: Path, model_dir: Path, users: int) -> None:
    """``user item item ...`` a line."""
    ids = ModelFolder(model_dir).item_ids
    drawn = random_histories(min(users, _DISTINCT), len(ids), seed=0)
    histories = [" ".join(map(str, ids[drawn.of(user)].tolist())) for user in range(len(drawn))]
    with path.open("w", encoding="utf-8") as file:
        for user in range(users):
            file.write(f"{user} {histories[user % len(histories)]}\n")


def _lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)


def _size_mb(path: Path) -> float:
    return round(path.stat().st_size / 1e6, 1)
