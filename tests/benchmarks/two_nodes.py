"""Two machines on this one: network namespaces at the ends of a cable, and a Ray cluster with a node in each."""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from genrec_core.errors import GenrecError

ADDRESSES = ("10.99.0.1", "10.99.0.2")
INTERFACE = "veth0"
_PORT = 6380  # Ray's workers take 10002 to 19999
_STORE_BYTES = 300_000_000
_START_SECONDS, _STOP_SECONDS = 120, 20


@contextmanager
def joined_namespaces() -> Iterator[tuple[str, str]]:
    """Two network namespaces with :data:`ADDRESSES` at the ends of one cable; each sees nothing else.

    Raises:
        GenrecError: this process may not make any.
    """
    if shutil.which("ip") is None or os.getuid() != 0:
        raise GenrecError("network namespaces need root and Debian's iproute2")
    names = (f"genrec-{uuid.uuid4().hex[:6]}", f"genrec-{uuid.uuid4().hex[:6]}")
    try:
        for name in names:
            _ip("netns", "add", name)
        _ip("link", "add", INTERFACE, "netns", names[0], "type", "veth", "peer", "name", INTERFACE, "netns", names[1])
        for name, address in zip(names, ADDRESSES, strict=True):
            _ip("-n", name, "address", "add", f"{address}/24", "dev", INTERFACE)
            _ip("-n", name, "link", "set", INTERFACE, "up")
            _ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise GenrecError(f"network namespaces are not allowed here: {done.stderr.strip()}")


class RayNodes:
    """A running cluster: a node of one task at a time in each namespace, each on a core of its own.

    Args:
        namespaces: from :func:`joined_namespaces`.
        folder: for Ray's files; its path must be short, as sockets lie in it.
    """

    address = f"{ADDRESSES[0]}:{_PORT}"

    def __init__(self, namespaces: tuple[str, str], folder: Path) -> None:
        self.namespaces, self.folder = namespaces, folder
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
        self.environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | token
        self.processes: list[subprocess.Popen[bytes]] = []
        self.start_s: list[float] = []

    def start(self, node: int) -> None:
        """Start a node, the head first, and wait until it is up.

        Raises:
            GenrecError: it ended, or took too long.
        """
        cores, began = sorted(os.sched_getaffinity(0)), time.perf_counter()
        head = ["--head", "--port", str(_PORT), "--temp-dir", str(self.folder), "--include-dashboard=false"]
        options = ["--num-cpus=1", f"--object-store-memory={_STORE_BYTES}", "--disable-usage-stats", "--block"]
        command = [
            *self.prefix(node), "taskset", "--cpu-list", str(cores[node % len(cores)]),
            str(Path(sys.executable).with_name("ray")), "start", *(["--address", self.address] if node else head),
            "--node-ip-address", ADDRESSES[node], *options,
        ]  # fmt: skip
        log = self.folder.with_name(f"{self.folder.name}-{node}.log")
        with log.open("wb") as said:
            process = subprocess.Popen(command, env=self.environment, stdout=said, stderr=said, start_new_session=True)
        self.processes.append(process)
        while b"Ray runtime started" not in log.read_bytes():
            if process.poll() is not None or time.perf_counter() - began > _START_SECONDS:
                raise GenrecError(f"node {node} of the Ray cluster did not start: {log.read_text()[-500:]}")
            time.sleep(0.05)
        self.start_s.append(round(time.perf_counter() - began, 1))

    def prefix(self, node: int) -> list[str]:
        """What a command begins with to run on a node."""
        return ["ip", "netns", "exec", self.namespaces[node]]

    def running(self, node: int) -> list[psutil.Process]:
        """The processes of a node."""
        listed = subprocess.run(
            ["ip", "netns", "pids", self.namespaces[node]], capture_output=True, text=True, check=True
        )
        return [psutil.Process(int(number)) for number in listed.stdout.split() if psutil.pid_exists(int(number))]

    def own_mb(self, node: int) -> float:
        """Memory that the processes of a node have for themselves, in MB of 2^20 bytes."""
        return round(float(sum(process.memory_full_info().uss for process in self.running(node))) / 2**20, 1)

    def kill(self, node: int, name: str = "") -> int:
        """Kill the processes of a node whose command line begins with ``name``; how many they were."""
        found = [process for process in self.running(node) if " ".join(process.cmdline()).startswith(name)]
        for process in found:
            process.kill()
        return len(found)

    def stop(self) -> None:
        """End all nodes, the head last, and whatever is left of them."""
        for process in reversed(self.processes):
            process.send_signal(signal.SIGTERM)
        for process in reversed(self.processes):
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
        for node in range(len(self.namespaces)):
            self.kill(node)


@contextmanager
def two_ray_nodes() -> Iterator[RayNodes]:
    """A cluster of two nodes with one core each.

    Raises:
        GenrecError: namespaces are not allowed here, or a node does not start.
    """
    with joined_namespaces() as names, TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:
        nodes = RayNodes(names, Path(folder) / "r")
        try:
            for node in range(2):
                nodes.start(node)
            yield nodes
        finally:
            nodes.stop()


def run_on(nodes: RayNodes, node: int, command: Sequence[str]) -> "subprocess.Popen[str]":
    """Start a command on a node that talks to the cluster."""
    return subprocess.Popen(
        [*nodes.prefix(node), *command],
        env=nodes.environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
