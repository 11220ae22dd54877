"""Runs torchrun so that it ends with the process that started it, and notes which rank failed.

``python -m genrec_core.tiger.launcher PARENT_PID FAILURE_FILE TORCHRUN_ARGUMENTS...``; for FAILURE_FILE ``-``, no file.

A process that is killed hard cannot stop its children. Without the launcher, torchrun would go on alone, and a retry
would start a second training in the same folder.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from genrec_core.storage.artifacts import write_json

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

TORCHRUN_PID = "GENREC_TORCHRUN_PID"
NO_FILE = "-"
_PR_SET_PDEATHSIG = 1


def end_with_parent(parent: int) -> None:
    """Ask Linux to send this process SIGTERM when its parent dies; leave at once if it is dead already.

    Args:
        parent: process id of the parent.

    Raises:
        OSError: the system refuses.
    """
    # A shell's background job ignores SIGINT, Dagster then SIGTERM too, and a child ignores what its parent ignores.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        sys.exit(f"the process {parent} that started this training is gone")


def launch(failure_file: Path | None, arguments: list[str]) -> None:
    """Run torchrun in this process; if a rank fails, describe the first one in ``failure_file``."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    try:
        torchrun(arguments)
    except ChildFailedError as error:
        if failure_file is not None:
            write_json(failure_file, _describe(error))
        raise


def _cause(error: "ChildFailedError") -> "tuple[int, ProcessFailure]":
    """The rank that failed first.

    torch goes by the time that a rank records. A killed rank records none, so its peers, which only lose the
    connection, can look earlier. Hence a rank that a signal ended is the cause, unless the signal is SIGTERM, by which
    torchrun ends the peers.
    """
    for rank, failure in sorted(error.failures.items()):
        if failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM:
            return rank, failure
    return error.get_first_failure()


def _describe(error: "ChildFailedError") -> dict[str, object]:
    rank, failure = _cause(error)
    message = failure.message
    if isinstance(message, dict):  # what the rank recorded of its exception
        message = message["message"]
    elif failure.exitcode > 0:
        message = f"ended with exit code {failure.exitcode} without a message; see the step's stderr"
    return {"rank": rank, "exit_code": failure.exitcode, "message": message}


if __name__ == "__main__":
    end_with_parent(int(sys.argv[1]))
    os.environ[TORCHRUN_PID] = str(os.getpid())
    launch(None if sys.argv[2] == NO_FILE else Path(sys.argv[2]), sys.argv[3:])
