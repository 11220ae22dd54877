"""The CPU cores that this process may use, within the CPU quota of its container.

The quota stops all threads for a while when they have used up their time: more threads than it allows only wait.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path


def available_cores(root: Path = Path("/")) -> int:
    """The cores that this process can keep busy, at least one; ``root`` is the folder with ``proc`` and ``sys``."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *(math.ceil(quota) for quota in _quotas(root))]))


def limit_torch_threads() -> None:
    """Limit torch, which counts cores without the quota, to :func:`available_cores`."""
    import torch

    if available_cores() < torch.get_num_threads():
        torch.set_num_threads(available_cores())


def _quotas(root: Path) -> Iterator[float]:
    """The quotas in cores of this process's control group and of the groups above it, version 2 or 1."""
    groups, mounted = root / "proc/self/cgroup", root / "sys/fs/cgroup"
    if not groups.is_file():
        return
    for line in groups.read_text(encoding="utf-8").splitlines():
        number, controllers, path = line.split(":", 2)
        group = Path(path.lstrip("/"))  # inside a container it may be the host's path; then only its root is there
        if number == "0":  # version 2; beside version 1 it lies in a folder of its own
            mounts, files = (mounted, mounted / "unified"), ["cpu.max"]
        elif "cpu" in controllers.split(","):
            mounts, files = (mounted / controllers, mounted / "cpu"), ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
        else:
            continue
        for folder in (mount / above for mount in mounts for above in (group, *group.parents)):
            words = " ".join((folder / name).read_text() for name in files if (folder / name).is_file()).split()
            if len(words) == 2 and words[0] not in ("max", "-1"):  # otherwise there is no quota
                yield int(words[0]) / int(words[1])  # microseconds of the quota and of the period
