"""Starts torchrun, for a training on one machine or on several: its command line, its environment, its run."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from genrec_core.errors import GenrecError
from genrec_core.settings import RendezvousSettings, TrainingSettings
from genrec_core.tiger.launcher import NO_FILE


def torchrun_command(
    settings: TrainingSettings,
    rendezvous: RendezvousSettings,
    program: Sequence[str],
    failure_file: Path | None = None,
    python: str = sys.executable,
    parent: int | None = None,
) -> tuple[list[str], dict[str, str]]:
    """The command that trains on this machine, and the environment variables that it needs beside the usual ones.

    Args:
        settings: how many processes and threads.
        rendezvous: where several machines meet.
        program: what each process runs: ``-m``, a module and its arguments, or a script and its arguments.
        failure_file: where the launcher describes a rank that failed.
        python: the interpreter.
        parent: process id of the process that starts the command and ends it with its own end; None: this process.

    Raises:
        GenrecError: the machines cannot meet at ``rendezvous``.
    """
    _require_reachable(rendezvous)
    launcher = [python, "-m", "genrec_core.tiger.launcher", str(os.getpid() if parent is None else parent)]
    processes = ["--nproc-per-node", str(settings.processes), "--max-restarts", "0"]
    interface = "lo" if rendezvous.nodes == 1 else rendezvous.interface
    environment = {
        "OMP_NUM_THREADS": str(settings.threads_per_process),
        "GLOO_SOCKET_IFNAME": interface,
        "NCCL_SOCKET_IFNAME": interface,
    }
    return [*launcher, str(failure_file or NO_FILE), *_meeting(rendezvous), *processes, *program], environment


def run_torchrun(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a command of :func:`torchrun_command` with this whole environment; its exit code.

    Whatever ends this function ends the training too: torchrun ends its workers on SIGTERM.
    """
    with subprocess.Popen(command, env=environment) as process:
        try:
            return process.wait()
        finally:
            if process.poll() is None:
                process.terminate()


def _meeting(rendezvous: RendezvousSettings) -> list[str]:
    """torchrun's arguments that say where the processes meet.

    One machine uses its loopback address: ``--standalone`` would look up the machine's name. Several machines use the
    static rendezvous, which keeps their numbers: node 0 reports to Dagster and writes the checkpoint.
    """
    if rendezvous.nodes == 1:
        loopback = "127.0.0.1"
        return ["--nnodes=1", "--rdzv-backend=c10d", f"--rdzv-endpoint={loopback}:0", f"--local-addr={loopback}"]
    return [
        f"--nnodes={rendezvous.nodes}",
        f"--node-rank={rendezvous.node_rank}",
        "--rdzv-backend=static",
        f"--rdzv-endpoint={rendezvous.endpoint}",
        f"--rdzv-conf=timeout={rendezvous.timeout_seconds}",
        *([f"--local-addr={rendezvous.local_address}"] if rendezvous.local_address else []),
    ]


def _require_reachable(rendezvous: RendezvousSettings) -> None:
    """Refuse several machines without a fixed port, or a machine number that is too high."""
    if rendezvous.nodes == 1:
        return
    host, _, port = rendezvous.endpoint.rpartition(":")
    if not host or not port.isdecimal() or int(port) == 0:
        raise GenrecError(
            f"rendezvous {rendezvous.endpoint!r} of {rendezvous.nodes} nodes: write HOST:PORT, an address of node 0 "
            "that the others reach and a free port there"
        )
    if rendezvous.node_rank >= rendezvous.nodes:
        raise GenrecError(
            f"node_rank {rendezvous.node_rank} of {rendezvous.nodes} nodes: they count from 0 to {rendezvous.nodes - 1}"
        )
