"""What a figure was measured on, and how much memory it took."""

import os
import platform
import resource
import statistics
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

_PACKAGES = ("torch", "onnxruntime", "numpy")


def describe() -> dict[str, Any]:
    """The machine, how busy it is, the versions that do the work, and the commit of this package."""
    return {
        "machine": {
            "cpu": _cpu_model(),
            "cores": len(os.sched_getaffinity(0)),
            "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
            "system": platform.platform(),
            "load_average": round(os.getloadavg()[0], 2),
        },
        "versions": {"python": platform.python_version(), **_versions()},
        "commit": commit(),
    }


def peak_mb() -> float:
    """The largest resident memory of this process so far, in MB of 2^20 bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # Linux counts in KiB


def spread(rates: Sequence[float]) -> dict[str, float | int]:
    """Median, least and most of repeated measurements."""
    return {
        "median": round(statistics.median(rates), 2),
        "least": round(min(rates), 2),
        "most": round(max(rates), 2),
        "repeats": len(rates),
    }


def commit() -> str | None:
    """The commit of the checkout that this package lies in, with ``+changes`` where files differ from it; else None."""
    folder = Path(__file__).parent
    try:
        name = _git(folder, "rev-parse", "--short", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return None  # installed without git, or outside a checkout: there is no commit to name
    return f"{name}+changes" if changed else name


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue  # an optional package: what is absent did no work
    return found
