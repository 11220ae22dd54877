"""Folders of files that are read whole or not at all: written aside, renamed into place, listed in a manifest.

A lock between processes is freed by the system when its process ends, however it ends.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import stat
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO

from filelock import FileLock, Timeout

from genrec_core.cores import available_cores
from genrec_core.errors import GenrecError

if TYPE_CHECKING:
    import numpy as np

MANIFEST = "manifest.json"
FRAME = "frame.parquet"  # in the folder of an artefact that is one table
LOCK = ".lock"  # the file that locks the folder it lies in; it stays there
_OLD, _GONE = ".old", ".gone"  # endings of a folder that was moved away, and of one that is being removed
_DESCRIPTORS = re.compile(r"/proc/\d+(/task/\d+)?/fd")


def sha256_of(path: Path) -> str:
    """The hex sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON (UTF-8); the file appears whole or not at all. NaN is refused with ``ValueError``."""
    with atomic_file(path) as part:
        part.write_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file; a missing or damaged one is an error."""
    recovered(path.parent)
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise GenrecError(f"{path}: no such file; build the asset that writes it first") from error
    except ValueError as error:
        raise GenrecError(f"{path}: not valid JSON ({error}); rebuild the asset that writes it") from error


def read_fields(path: Path, *names: str) -> list[Any]:
    """The values of ``names`` in a JSON object, in that order."""
    stored = read_json(path)
    missing = [name for name in names if not isinstance(stored, dict) or name not in stored]
    if missing:
        raise GenrecError(f"{path}: has no {missing[0]!r}; rebuild the asset that writes it")
    return [stored[name] for name in names]


def read_array(path: Path, mmap_mode: Literal["r", "c"] | None = None) -> "np.ndarray":
    """Read a ``.npy`` file, whatever its dtype; modes ``r`` and ``c`` map it instead of copying it."""
    import numpy as np

    try:
        return np.asanyarray(np.load(path, mmap_mode, allow_pickle=False))
    except FileNotFoundError as error:
        raise GenrecError(f"{path}: no such file; build the asset that writes it first") from error
    except (OSError, ValueError, EOFError) as error:
        raise GenrecError(f"{path}: cannot be read as an array ({error}); rebuild the asset that writes it") from error


@contextmanager
def told_when_full(target: Path) -> Iterator[None]:
    """Turn an error of the block that writes ``target`` into a GenrecError that says so, if the disk is full."""
    try:
        yield
    except GenrecError:
        raise
    except Exception as error:
        if not _is_full(error, target.parent):
            raise
        raise GenrecError(f"{target}: no space is left on this disk; free some and run again") from error


def _is_full(error: Exception, folder: Path) -> bool:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    # NumPy, polars and safetensors give no error number. NumPy looks before it writes.
    return str(error).startswith("Not enough free space to write") or shutil.disk_usage(folder).free < 1 << 16


def is_stream(path: Path) -> bool:
    """Whether a path can be written into but not replaced: a device, a pipe, a socket, or an open descriptor.

    ``/dev/stdout`` is a descriptor whatever lies behind it. A link counts as what it leads to.
    """
    return path.exists() and not path.is_dir() and (not path.is_file() or _descriptor(path) is not None)


def _descriptor(path: Path) -> Path | None:
    """The entry of ``/proc/N/fd`` that a path is or leads to by links; None if it is none."""
    while path.exists() and path.is_symlink():
        folder = Path(os.path.realpath(path.parent))
        if _DESCRIPTORS.fullmatch(str(folder)):
            return folder / path.name
        path = folder / path.readlink()
    return None


def opened_text(path: Path) -> TextIO:
    """Open the path that :func:`atomic_file` yields for UTF-8 text with line ends as written.

    Behind a descriptor, writing goes on from its place, or at the file's end if it is another process's.
    """
    descriptor = _descriptor(path)
    if descriptor is not None and descriptor.parts[2] == str(os.getpid()):
        return os.fdopen(os.dup(int(descriptor.name)), "w", encoding="utf-8", newline="")
    return path.open("w" if descriptor is None else "a", encoding="utf-8", newline="")


@contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """Yield a path beside ``target`` to write to; it replaces ``target`` on success and is removed on an error.

    If ``target`` is a link, the file behind it is replaced. If it :func:`is_stream`, ``target`` itself is yielded, to
    be opened with :func:`opened_text`; what is written there is never undone.
    """
    if is_stream(target):
        if _descriptor(target) is None and not target.is_fifo() and not stat.S_ISCHR(target.stat().st_mode):
            raise GenrecError(f"{target}: is a disk or a socket; name a file, a pipe or a character device")
        with told_when_full(target):
            yield target
        return
    target = Path(os.path.realpath(target)) if target.is_symlink() else target
    part = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
    try:
        with told_when_full(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            yield part
            with part.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``target`` to fill; on success it replaces ``target``, on an error it is removed.

    The old folder is moved away first. If the process dies then, :func:`recovered` puts it back.
    """
    target = target.resolve() if target.name in ("", "..") else target  # such as ".", which has no name of its own
    part = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
    try:
        with told_when_full(target):
            part.mkdir(parents=True)
            yield part
        _replace(recovered(target), part)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _replace(target: Path, part: Path) -> None:
    moved_away = _beside(target, _OLD)  # by processes that died after the second step
    while True:
        if target.exists():
            moved_away.append(target.with_name(f".{target.name}.{time.time_ns()}-{uuid.uuid4().hex}{_OLD}"))
            target.rename(moved_away[-1])
        try:
            part.rename(target)
            break
        except OSError as error:  # a reader put the old folder back in between: move it away again
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
    for old in moved_away:
        with suppress(FileNotFoundError):  # a reader put it back
            old.rename(old.with_suffix(_GONE))  # a folder that is half removed must never be put back
    for gone in _beside(target, _GONE):
        shutil.rmtree(gone, ignore_errors=True)  # another writer may remove it too


def recovered(folder: Path) -> Path:
    """``folder``, after a version that a dead process had moved away is put back; call it before reading."""
    place = folder if folder.exists() else folder.resolve()  # a link may lead to it
    if place.exists():
        return folder
    for old in reversed(_beside(place, _OLD)):
        try:
            old.rename(place)
            break
        except FileNotFoundError:  # another process put it back
            continue
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):  # the writer lives and has finished
                break
            raise GenrecError(
                f"{place}: {old.name} cannot be moved back ({error.strerror or error}); rename it to {place.name}"
            ) from error
    return folder


def _beside(target: Path, ending: str) -> list[Path]:
    """The folders with this ending that were moved away from ``target``, oldest first."""
    name = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f-]+{re.escape(ending)}")
    if not target.parent.is_dir():
        return []
    return sorted(path for path in target.parent.iterdir() if name.fullmatch(path.name))


@contextmanager
def locked(path: Path, busy: str | None = None) -> Iterator[None]:
    """Hold the lock of a file, which is made with its folder. If it is taken, raise ``busy``, or without it wait."""
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
    """Hold the lock for changing or replacing ``folder``; its file lies in the parent, which is not replaced."""
    parent = folder.resolve().parent
    if not parent.is_dir():
        raise GenrecError(f"{folder}: no such folder; name one that is there")
    with locked(parent / LOCK):
        yield


def write_manifest(folder: Path, unlisted: str = MANIFEST) -> None:
    """List the files of a finished folder with size and sha256, but not ``unlisted``, which may change later."""
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (MANIFEST, unlisted)
    }
    write_json(folder / MANIFEST, {"files": files})


def verify_manifest(folder: Path) -> None:
    """Check every file of ``folder`` against its manifest."""
    if not (recovered(folder) / MANIFEST).is_file():
        raise GenrecError(f"{folder}: no {MANIFEST}, so it was never finished; build it again")
    files = read_json(folder / MANIFEST)["files"]
    for name, expected in files.items():
        if name.startswith("/") or ".." in Path(name).parts:
            raise GenrecError(f"{folder / MANIFEST} names {name}, which lies outside the folder; do not use it")
        if not (folder / name).is_file():
            raise GenrecError(f"{folder / name}: listed in {MANIFEST} but missing; build it again")
        if (folder / name).stat().st_size != expected["bytes"]:
            raise _differs(folder / name)
    with ThreadPoolExecutor(available_cores()) as pool:  # hashing releases the interpreter
        for name, sha256 in zip(files, pool.map(lambda name: sha256_of(folder / name), files), strict=True):
            if sha256 != files[name]["sha256"]:
                raise _differs(folder / name)


def _differs(path: Path) -> GenrecError:
    return GenrecError(f"{path}: differs from the sha256 in {MANIFEST}; build it again")
