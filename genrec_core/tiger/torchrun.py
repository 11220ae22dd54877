"""Starts torchrun, for a training on one machine or on several, so that it ends with the process that started it.

``python -m genrec_core.tiger.torchrun PARENT_PID FAILURE_FILE TORCHRUN_ARGUMENTS...`` launches it, and notes in
FAILURE_FILE which rank failed; for ``-``, nowhere. A process that is killed hard cannot stop its children. Without this
launcher, torchrun would go on alone, and a retry would start a second training in the same folder.
"""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from genrec_core.errors import GenrecError
from genrec_core.settings import RendezvousSettings, TrainingSettings
from genrec_core.storage.artifacts import write_json

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

TORCHRUN_PID = "GENREC_TORCHRUN_PID"
_NO_FILE = "-"
_PR_SET_PDEATHSIG = 1


def torchrun_command(
    settings: TrainingSettings,
    rendezvous: RendezvousSettings,
    program: Sequence[str],
    failure_file: Path | None = None,
    python: str = sys.executable,
    parent: int | None = None,
) -> tuple[list[str], dict[str, str]]:
    """The command that trains on this machine, and the environment variables that it needs beside the usual ones.

    ``program`` is what each process runs: ``-m`` and a module, or a script, and its arguments. ``parent`` is the id of
    the process whose end ends the command; None: this process.
    """
    launcher = [python, "-m", "genrec_core.tiger.torchrun", str(os.getpid() if parent is None else parent)]
    processes = ["--nproc-per-node", str(settings.processes), "--max-restarts", "0"]
    interface = "lo" if rendezvous.nodes == 1 else rendezvous.interface
    environment = {
        "OMP_NUM_THREADS": str(settings.threads_per_process),
        "GLOO_SOCKET_IFNAME": interface,
        "NCCL_SOCKET_IFNAME": interface,
    }
    return [*launcher, str(failure_file or _NO_FILE), *_meeting(rendezvous), *processes, *program], environment


def run_torchrun(
    command: Sequence[str], environment: Mapping[str, str], on_line: Callable[[str], None] | None = None
) -> int:
    """Run a command of :func:`torchrun_command` with this whole environment; its exit code.

    ``on_line`` gets each line that the ranks print; None: they print to this process's stdout.
    """
    output = None if on_line is None else subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdout=output, text=True, encoding="utf-8") as process:
        try:
            for line in process.stdout or ():
                assert on_line is not None
                on_line(line.rstrip("\n"))
            return process.wait()
        finally:  # whatever ends this function ends the training too: torchrun ends its workers on SIGTERM
            process.terminate()


def _meeting(rendezvous: RendezvousSettings) -> list[str]:
    """torchrun's arguments that say where the processes meet."""
    nodes, rank, endpoint = rendezvous.nodes, rendezvous.node_rank, rendezvous.endpoint
    if nodes == 1:  # --standalone would look up the machine's name
        return ["--nnodes=1", "--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1"]
    host, _, port = endpoint.rpartition(":")
    if not host or not port.isdecimal() or int(port) == 0:
        raise GenrecError(f"rendezvous {endpoint!r}: write HOST:PORT, a free port of node 0 that the others reach")
    if rank >= nodes:
        raise GenrecError(f"node_rank {rank} of {nodes} nodes: they count from 0 to {nodes - 1}")
    return [
        f"--nnodes={nodes}",
        f"--node-rank={rank}",
        "--rdzv-backend=static",  # it keeps the numbers of the machines
        f"--rdzv-endpoint={endpoint}",
        f"--rdzv-conf=timeout={rendezvous.timeout_seconds}",
        *([f"--local-addr={rendezvous.local_address}"] if rendezvous.local_address else []),
    ]


def end_with_parent(parent: int) -> None:
    """Ask Linux to send this process SIGTERM when its parent dies; leave at once if it is dead already."""
    # A shell's background job ignores SIGINT, Dagster then SIGTERM too, and a child ignores what its parent ignores.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        sys.exit(f"the process {parent} that started this training is gone")


def _launch(parent: int, failure_file: str, arguments: list[str]) -> None:
    """Run torchrun in this process; if a rank fails, describe the first one in ``failure_file``."""
    end_with_parent(parent)
    os.environ[TORCHRUN_PID] = str(os.getpid())
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    try:
        torchrun(arguments)
    except ChildFailedError as error:
        if failure_file != _NO_FILE:
            write_json(Path(failure_file), _describe(*_cause(error)))
        raise


def _cause(error: "ChildFailedError") -> "tuple[int, ProcessFailure]":
    """The rank that failed first.

    torch goes by the time that a rank records. A killed rank records none, so peers that lost the connection can look
    earlier. Hence a rank that a signal ended is the cause, unless it is SIGTERM, by which torchrun ends the peers.
    """
    for rank, failure in sorted(error.failures.items()):
        if failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM:
            return rank, failure
    return error.get_first_failure()


def _describe(rank: int, failure: "ProcessFailure") -> dict[str, object]:
    message = failure.message
    if isinstance(message, dict):  # what the rank recorded of its exception
        message = message["message"]
    elif failure.exitcode > 0:
        message = f"ended with exit code {failure.exitcode} without a message; see the step's stderr"
    return {"rank": rank, "exit_code": failure.exitcode, "message": message}


if __name__ == "__main__":
    _launch(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
