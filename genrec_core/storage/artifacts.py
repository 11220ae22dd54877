"""Folders of files that are read whole or not at all: written aside, renamed into place, listed in a manifest."""

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from genrec_core.errors import GenrecError

MANIFEST = "manifest.json"
_OLD, _GONE = ".old", ".gone"  # a folder that was moved away, and one that is being removed
_BLOCK_BYTES = 1 << 20
_FULL_BYTES = 1 << 16  # a disk with less room is full
_DESCRIPTORS = re.compile(r"/proc/\d+(/task/\d+)?/fd")
_NUMPY_FOUND_IT_FULL = "Not enough free space to write"  # before it wrote anything


def sha256_of(path: Path) -> str:
    """The hex sha256 of a file, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON (UTF-8); the file appears whole or not at all. NaN is refused with ``ValueError``."""
    with atomic_file(path) as part:
        part.write_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        GenrecError: the file is missing or is not JSON.
    """
    recovered(path.parent)
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise GenrecError(f"{path}: no such file; build the asset that writes it first") from error
    except ValueError as error:
        raise GenrecError(f"{path}: not valid JSON ({error}); rebuild the asset that writes it") from error


@contextmanager
def told_when_full(target: Path) -> Iterator[None]:
    """Say in one line that the disk is full, where that is why something fails.

    Args:
        target: what is being written, in a folder that is there.

    Raises:
        GenrecError: in place of an error of the block, if no room is left.
    """
    try:
        yield
    except GenrecError:
        raise
    except Exception as error:
        if not _is_full(error, target.parent):
            raise
        raise GenrecError(
            f"{target}: no space is left on this disk; free some and run again; what was there before is whole"
        ) from error


def _is_full(error: Exception, folder: Path) -> bool:
    """NumPy, polars and safetensors say that a disk is full in words alone, without the system's number."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return str(error).startswith(_NUMPY_FOUND_IT_FULL) or shutil.disk_usage(folder).free < _FULL_BYTES


def is_stream(path: Path) -> bool:
    """Whether a path can be written into, but not replaced.

    Args:
        path: a device, a pipe, a socket, an open descriptor such as ``/dev/stdout`` whatever lies behind it, or a link
            to one of these.
    """
    return path.exists() and not path.is_dir() and (not path.is_file() or _descriptor(path) is not None)


def _descriptor(path: Path) -> Path | None:
    """The entry of ``/proc/N/fd`` that a path names by itself or through links; None where it names none."""
    while path.exists() and path.is_symlink():
        folder = Path(os.path.realpath(path.parent))
        if _DESCRIPTORS.fullmatch(str(folder)):
            return folder / path.name
        path = folder / path.readlink()
    return None


def opened_text(path: Path) -> TextIO:
    """Open what :func:`atomic_file` yields for UTF-8 text with line ends as written.

    What a descriptor leads to is kept: a file is written from where the descriptor stands, one of another process at
    its end.
    """
    descriptor = _descriptor(path)
    if descriptor is not None and descriptor.parts[2] == str(os.getpid()):  # by its name it would begin at the start
        return os.fdopen(os.dup(int(descriptor.name)), "w", encoding="utf-8", newline="")
    return path.open("w" if descriptor is None else "a", encoding="utf-8", newline="")


@contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """Yield a path beside ``target`` to write to; it replaces ``target`` on success and is removed on an error.

    Where ``target`` is a link, the file that it points to is replaced. Where it :func:`is_stream`, such as a pipe or
    ``/dev/stdout``, ``target`` itself is yielded: what is written there is never undone. Open it with
    :func:`opened_text`, which truncates nothing behind a descriptor.

    Raises:
        GenrecError: the disk is full, or ``target`` is a disk or a socket.
    """
    if is_stream(target):
        may = _descriptor(target) is not None or target.is_fifo() or stat.S_ISCHR(target.stat().st_mode)
        if not may:
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

    A folder cannot be replaced in one step on every file system. If the process dies between the two steps,
    :func:`recovered` puts the old folder back.
    """
    target = target.resolve() if target.name in ("", "..") else target  # such as ".", which has no name of its own
    part = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
    with told_when_full(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        part.mkdir()
    try:
        with told_when_full(target):
            yield part
        _replace(recovered(target), part)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _replace(target: Path, part: Path) -> None:
    """Move ``target`` away and ``part`` to its place; again if a reader put the old folder back in between."""
    aside = _set_aside(target, _OLD)  # by processes that died after the second step
    while True:
        if target.exists():
            aside.append(target.with_name(f".{target.name}.{time.time_ns()}-{uuid.uuid4().hex}{_OLD}"))
            target.rename(aside[-1])
        try:
            part.rename(target)
            break
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
    for old in aside:
        with suppress(FileNotFoundError):  # a reader put it back
            old.rename(old.with_suffix(_GONE))  # what is half removed is never put back
    for gone in _set_aside(target, _GONE):
        shutil.rmtree(gone, ignore_errors=True)  # another writer may remove it too


def recovered(folder: Path) -> Path:
    """Put a folder back that :func:`atomic_folder` had moved away when its process died; call it before opening one.

    It may run beside a living writer and beside other readers.

    Returns:
        ``folder``, which is missing only if it was never there.

    Raises:
        GenrecError: the old folder is there, but this process may not move it.
    """
    place = folder if folder.exists() else folder.resolve()  # a link may lead to it
    if not place.exists():
        for old in reversed(_set_aside(place, _OLD)):
            try:
                old.rename(place)
                break
            except FileNotFoundError:  # another process put it back
                continue
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST):  # the writer lives and has finished
                    break
                raise GenrecError(
                    f"{place}: the process that replaced it died, and {old.name} cannot be moved back "
                    f"({error.strerror or error}); rename it to {place.name}"
                ) from error
    return folder


def _set_aside(target: Path, ending: str) -> list[Path]:
    """What processes moved away from ``target``, oldest first."""
    named = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f-]+{re.escape(ending)}")
    if not target.parent.is_dir():
        return []
    return sorted(path for path in target.parent.iterdir() if named.fullmatch(path.name))


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which ends with the process whatever becomes of it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextmanager
def locked_place(folder: Path) -> Iterator[None]:
    """Hold the lock for changing files in ``folder`` or replacing it; it lies in the parent, which is not replaced.

    Raises:
        GenrecError: there is no such parent.
    """
    parent = folder.resolve().parent
    if not parent.is_dir():
        raise GenrecError(f"{folder}: no such folder; name one that is there")
    with locked_folder(parent):
        yield


def write_manifest(folder: Path, unlisted: str = MANIFEST) -> dict[str, Any]:
    """List every file of ``folder`` with size and sha256 in ``manifest.json``, written last.

    Args:
        folder: what is listed.
        unlisted: name of a file that may change later, and so is not listed.
    """
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (MANIFEST, unlisted)
    }
    manifest = {"files": files}
    write_json(folder / MANIFEST, manifest)
    return manifest


def verify_manifest(folder: Path) -> None:
    """Check every file of ``folder`` against its manifest.

    Raises:
        GenrecError: no manifest (the writer died), or a file is missing, differs, or lies outside the folder.
    """
    if not (recovered(folder) / MANIFEST).is_file():
        raise GenrecError(f"{folder}: no {MANIFEST}, so it was never finished; build it again")
    for name, expected in read_json(folder / MANIFEST)["files"].items():
        if name.startswith("/") or ".." in Path(name).parts:
            raise GenrecError(f"{folder / MANIFEST} names {name}, which lies outside the folder; do not use it")
        path = folder / name
        if not path.is_file():
            raise GenrecError(f"{path}: listed in {MANIFEST} but missing; build it again")
        if path.stat().st_size != expected["bytes"] or sha256_of(path) != expected["sha256"]:
            raise GenrecError(f"{path}: differs from the sha256 in {MANIFEST}; build it again")
