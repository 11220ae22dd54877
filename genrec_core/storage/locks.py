"""Locks between processes. The system frees a lock when its process ends, however it ends."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from genrec_core.errors import GenrecError

LOCK = ".lock"  # the file that locks the folder it lies in; it stays there


@contextmanager
def locked(path: Path, busy: str | None = None) -> Iterator[None]:
    """Hold the lock of the lock file ``path``, which is made with its folder if it is not there.

    Args:
        busy: the text of the error if another process or thread holds the lock; None: wait for it.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=-1 if busy is None else 0)
    except Timeout as error:
        raise GenrecError(busy) from error
    except OSError as error:
        raise GenrecError(f"{path}: cannot be locked ({error.strerror or error}); check who may write there") from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def locked_place(folder: Path) -> Iterator[None]:
    """Hold the lock for changing files in ``folder`` or replacing it; it lies in the parent, which is not replaced."""
    parent = folder.resolve().parent
    if not parent.is_dir():
        raise GenrecError(f"{folder}: no such folder; name one that is there")
    with locked(parent / LOCK):
        yield
