"""The library on a CUDA device: the same results as on the CPU, rates, peak memory, and a million items.

Each part runs in a process of its own, so that one that fails or hangs does not take the others' figures along. Figures
are printed as they come.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from genrec_core.errors import GenrecError
from tests.benchmarks.machine import describe

# The most seconds of each part, in order.
PARTS = {"same": 90, "tests": 120, "train": 200, "rates": 120, "million": 150, "quantizer": 60}
DRY_PARTS = ("same", "train", "rates", "million", "quantizer")
_DRY_ITEMS = 2000
ALL: tuple[str, ...] = ("all",)


def run(
    artifacts: Path | None = None,
    device: str = "cuda",
    epochs: int = 4,
    items: int = 1_000_000,
    parts: Any = ALL,
    limit_s: int = 460,
) -> dict[str, Any]:
    """Check and measure on one GPU, within eight minutes.

    Args:
        artifacts: a folder with ``user_histories.parquet``, ``semantic_ids`` and ``item_embeddings``; without it random
            data in Beauty's shapes.
        device: ``cuda``, or ``cpu`` for a dry run of few steps on little data.
        epochs: of the training by the preset ``beauty-gpu``.
        items: catalogue of the part ``million``.
        parts: some of ``same`` (network, losses, gradients and search against the CPU), ``train``, ``rates`` (float32,
            bf16, batch sizes, and the CPU), ``million``, ``quantizer`` (k-means against the CPU) and ``tests`` (the
            default tests of network, losses and k-means, on this device).
        limit_s: seconds after which no part goes on.

    Returns:
        The figures of each part by its name, with ``seconds`` and, if something failed, ``failed``; the names of the
        parts in which something failed, under ``failed``; device, machine and commit.

    Raises:
        GenrecError: there is no CUDA device, or no such part.
    """
    import torch

    if device != "cpu" and not torch.cuda.is_available():
        raise GenrecError("no CUDA device: nothing was checked; --device cpu makes a dry run")
    names = _names(list(parts), device)
    items = min(items, _DRY_ITEMS) if device == "cpu" else items
    job = {"artifacts": str(artifacts) if artifacts else None, "device": device, "epochs": epochs, "items": items}
    deadline, figures = time.monotonic() + limit_s, dict[str, Any]()
    for name in names:
        figures[name] = _part(name, job, min(PARTS[name], deadline - time.monotonic()))
    failed = [name for name in names if figures[name]["failed"]]
    shown = torch.cuda.get_device_name() if device != "cpu" else device
    return {"benchmark": "gpu", "failed": failed, "device": shown, **job, **figures, **describe()}


def _names(parts: list[str], device: str) -> list[str]:
    if parts == list(ALL):
        return list(DRY_PARTS if device == "cpu" else PARTS)
    if unknown := [name for name in parts if name not in PARTS]:
        raise GenrecError(f"parts {', '.join(unknown)}: no such part; choose some of {', '.join(PARTS)}")
    return parts


def _part(name: str, job: dict[str, Any], limit_s: float) -> dict[str, Any]:
    """The figures of one part, which a process of its own prints as lines of JSON."""
    if limit_s < 1:
        return {"failed": ["no time was left"]}
    began, found, failed = time.monotonic(), dict[str, Any](), list[str]()
    command = [sys.executable, "-u", "-m", "tests.benchmarks.gpu_parts", name, json.dumps(job)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        stopped = threading.Timer(limit_s, os.killpg, (process.pid, signal.SIGKILL))  # its own processes too
        stopped.start()
        for line in process.stdout:
            print(f"{name}: {line}", end="", flush=True)
            if line.startswith("{"):
                found |= json.loads(line)
        code = process.wait()
        stopped.cancel()
    failed += [key for key, value in found.items() if isinstance(value, dict) and "error" in value]
    seconds = round(time.monotonic() - began, 1)
    if code:
        failed.append(f"ended with code {code} after {seconds} s of at most {limit_s:.0f}")
    print(f"{name}: {seconds} s, failed: {failed}", flush=True)
    return {**found, "seconds": seconds, "failed": failed}
