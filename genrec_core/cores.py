"""The CPU cores of this process: those that it may run on, and no more than its container's quota pays for."""

import math
import os
from collections.abc import Iterator
from pathlib import Path


def available_cores(root: Path = Path("/")) -> int:
    """The cores that this process can keep busy, at least one.

    A container's quota takes no core away: it stops all threads for a while when they have used up their time. So more
    threads than the quota allows wait for each other.

    Args:
        root: where ``proc`` and ``sys`` lie.
    """
    allowed = len(os.sched_getaffinity(0))
    return max(1, min([allowed, *(math.ceil(quota) for quota in _quotas(root))]))


def limit_torch_threads() -> None:
    """Keep torch, which counts cores without the quota, to :func:`available_cores`."""
    import torch

    if available_cores() < torch.get_num_threads():
        torch.set_num_threads(available_cores())


def _quotas(root: Path) -> Iterator[float]:
    """The quotas in cores of this process's control group and of those above it, version 2 or 1."""
    groups, mounted = root / "proc/self/cgroup", root / "sys/fs/cgroup"
    if not groups.is_file():
        return
    for line in groups.read_text(encoding="utf-8").splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0":  # version 2; beside version 1 it lies in a folder of its own
            for folder in _upward(path, mounted, mounted / "unified"):
                yield from _quota(_words(folder / "cpu.max"))
        elif "cpu" in controllers.split(","):
            for folder in _upward(path, mounted / controllers, mounted / "cpu"):
                yield from _quota(_words(folder / "cpu.cfs_quota_us") + _words(folder / "cpu.cfs_period_us"))


def _upward(path: str, *mounts: Path) -> Iterator[Path]:
    """A group's folder and all above it. Inside a container the path may be the host's: then only the last one is."""
    group = Path(path.lstrip("/"))
    for mount in mounts:
        yield from (mount / above for above in (group, *group.parents))


def _words(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").split() if file.is_file() else []


def _quota(words: list[str]) -> Iterator[float]:
    """Cores of a quota and a period in microseconds; none where the quota is ``max`` (version 2) or -1 (version 1)."""
    if len(words) == 2 and words[0] not in ("max", "-1"):
        yield int(words[0]) / int(words[1])
