"""Cores are counted with a container's CPU quota."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from genrec_core.cores import available_cores

V1 = Path("/sys/fs/cgroup/cpu")
ASK = """
import os, sys
open(sys.argv[1], "w").write(str(os.getpid()))
from genrec_core.cores import available_cores
print(available_cores())
"""


@pytest.fixture(autouse=True)
def _eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


def counted(root: Path, groups: str, **files: str) -> int:
    """The cores of a process in ``groups``, where the control groups hold ``files``."""
    for name, content in {"proc/self/cgroup": groups, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content + "\n")
    return available_cores(root)


@pytest.mark.parametrize(
    ("limit", "cores"),
    [("max 100000", 8), ("200000 100000", 2), ("150000 100000", 2), ("10000 100000", 1), ("9900000 100000", 8)],
)
def test_the_quota_of_a_container_counts_in_full_cores(tmp_path: Path, limit: str, cores: int) -> None:
    assert counted(tmp_path, "0::/", **{"sys/fs/cgroup/cpu.max": limit}) == cores


def test_the_least_quota_on_the_way_up_counts(tmp_path: Path) -> None:
    limits = {"": "max 100000", "pods/": "300000 100000", "pods/one/": "max 100000"}
    files = {f"sys/fs/cgroup/{folder}cpu.max": limit for folder, limit in limits.items()}
    assert counted(tmp_path, "0::/pods/one", **files) == 3


def test_a_path_of_the_host_is_read_where_the_container_has_its_group(tmp_path: Path) -> None:
    assert counted(tmp_path, "0::/docker/4f2a", **{"sys/fs/cgroup/cpu.max": "200000 100000"}) == 2


@pytest.mark.parametrize(("quota", "cores"), [("-1", 8), ("250000", 3)])
def test_quotas_of_the_first_version_count_too(tmp_path: Path, quota: str, cores: int) -> None:
    folder = "sys/fs/cgroup/cpu,cpuacct"
    files = {f"{folder}/cpu.cfs_quota_us": quota, f"{folder}/cpu.cfs_period_us": "100000"}
    assert counted(tmp_path, "4:memory:/docker/4f2a\n3:cpu,cpuacct:/docker/4f2a\n0::/", **files) == cores


def test_without_control_groups_the_cores_are_the_kernels(tmp_path: Path) -> None:
    assert available_cores(tmp_path) == 8


def test_predicting_and_serving_need_nothing_that_only_unix_has() -> None:
    program = (
        "import os, sys\n"
        "sys.modules['fcntl'] = None\n"
        "del os.sched_getaffinity\n"
        "import genrec_core.recommend.predict, genrec_core.releases.pointer, genrec_core.storage.folders\n"
        "from genrec_core.cores import available_cores\n"
        "assert available_cores() >= 1\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.fixture
def group() -> Iterator[Path]:
    """A real control group of one core."""
    folder = V1 / f"genrec-test-{os.getpid()}"
    try:
        folder.mkdir()
        (folder / "cpu.cfs_quota_us").write_text("100000")
    except OSError as error:
        pytest.skip(f"this user may not make a control group of the first version here: {error}")
    yield folder
    folder.rmdir()


def test_a_process_in_a_real_control_group_counts_its_quota(group: Path) -> None:
    command = [sys.executable, "-c", ASK, str(group / "cgroup.procs")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "1"
