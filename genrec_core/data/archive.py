"""Gets the raw files from where they are: a folder, an archive, an archive behind a URL, or a prefix of a bucket."""

import hashlib
import json
import shutil
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from genrec_core.errors import GenrecError
from genrec_core.object_store import SCHEME, ObjectStore

_LARGEST_UNPACKED = 8 << 30  # bytes; a bomb is refused before it fills the disk
_TIMEOUT_SECONDS = 60
_DEEPEST = 3  # a file two folders below the top
_REST_SECONDS = 10  # files changed within are still being written
_VALIDATORS = ("ETag", "Last-Modified", "Content-Length")


@contextmanager
def opened_source(source: str, wanted: tuple[str, ...]) -> Iterator[Path]:
    """Yield the folder that holds all ``wanted`` files.

    Args:
        source: a folder, an archive (.zip, .tar, .tar.gz, .tgz, .tar.bz2, .tar.xz), an http(s) URL of one, or
            ``s3://bucket/prefix``. The files lie at its top, in ``beauty/`` or in any one other sub-folder.

    Raises:
        GenrecError: there is no such source, it is no archive, or the files are not in it.
    """
    with tempfile.TemporaryDirectory(prefix="genrec-raw-") as scratch:
        path = Path(source).expanduser()
        if source.startswith(("http://", "https://")):
            path = _download(source, Path(scratch))
        elif source.startswith(SCHEME):
            path = _fetch_objects(ObjectStore(source), Path(scratch) / "objects", wanted)
        elif "://" in source:
            raise GenrecError(
                f"GENREC_RAW={source}: only a folder, an archive, an http(s) URL of one or an s3:// prefix can be read"
            )
        if not path.exists():
            raise GenrecError(f"GENREC_RAW={source}: no such folder or archive; check the path")
        folder = path if path.is_dir() else _unpack(path, Path(scratch) / "unpacked")
        yield _holding(folder, source, wanted)


def fingerprint(source: str) -> str | None:
    """What tells, without reading the data, whether they may have changed: one text for each state of ``source``.

    Args:
        source: as for :func:`opened_source`. Of a folder it goes by name, size and time of the files in it and up to
            two levels below; of a URL by ``ETag``, ``Last-Modified`` and ``Content-Length``; of an s3:// prefix by
            name, size and ETag of the objects.

    Returns:
        A hash; None while files are being written, as they changed within the last ten seconds.

    Raises:
        GenrecError: there is no such source, or the server says nothing that would tell.
    """
    if source.startswith(("http://", "https://")):
        state: list[object] = _server_state(source)
    elif source.startswith(SCHEME):
        listed = ObjectStore(source).listing()
        if not listed:
            raise GenrecError(f"GENREC_RAW={source}: no object lies there; check the address")
        state = [(name, facts.size, facts.stamp) for name, facts in sorted(listed.items())]
    else:
        path = Path(source).expanduser()
        files = [path] if path.is_file() else sorted(file for at in ("*", "*/*", "*/*/*") for file in path.glob(at))
        stats = [(file, file.stat()) for file in files if file.is_file()]
        if not stats:
            raise GenrecError(f"GENREC_RAW={source}: no such folder or archive, or nothing in it; check the path")
        if max(stat.st_mtime for _, stat in stats) > time.time() - _REST_SECONDS:
            return None
        state = [(str(file), stat.st_size, stat.st_mtime_ns) for file, stat in stats]
    return hashlib.sha256(json.dumps([source, state]).encode()).hexdigest()


def _server_state(url: str) -> list[object]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_TIMEOUT_SECONDS) as response:
            found: list[object] = [response.headers.get(name) for name in _VALIDATORS]
    except (urllib.error.URLError, OSError) as error:
        raise GenrecError(f"GENREC_RAW={url}: the server does not answer ({error}); check the address") from error
    if not any(found):
        raise GenrecError(
            f"GENREC_RAW={url}: the server sends none of {', '.join(_VALIDATORS)}, so nobody can tell "
            "whether the archive changed; run `make run` when it did"
        )
    return found


def _fetch_objects(store: ObjectStore, target: Path, wanted: tuple[str, ...]) -> Path:
    """The objects that may be the raw files, at most two levels below the prefix."""
    target.mkdir()
    listed = store.listing()
    for name in listed:
        parts = name.split("/")
        if parts[-1] in wanted and len(parts) <= _DEEPEST and not {"", ".", ".."} & set(parts):
            store.download(name, target / name)
    if not any(target.iterdir()):
        raise GenrecError(
            f"GENREC_RAW={store.url}: none of {', '.join(wanted)} among {len(listed)} objects there; check the address"
        )
    return target


def _download(url: str, scratch: Path) -> Path:
    target = scratch / (url.split("?")[0].rstrip("/").rsplit("/", 1)[-1] or "archive")
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as response, target.open("wb") as file:
            shutil.copyfileobj(response, file)
            expected = response.headers.get("Content-Length")
    except (urllib.error.URLError, OSError) as error:
        raise GenrecError(
            f"GENREC_RAW={url}: cannot be downloaded ({error}); check the address or use a folder"
        ) from error
    if expected is not None and target.stat().st_size != int(expected):
        raise GenrecError(f"GENREC_RAW={url}: {target.stat().st_size} of {expected} bytes arrived; try again")
    return target


def _unpack(archive: Path, target: Path) -> Path:
    """Unpack regular files only; a path outside ``target``, a link or a bomb is refused."""
    target.mkdir(parents=True)
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as content:
                _check_size(archive, sum(entry.file_size for entry in content.infolist()))
                for entry in content.infolist():
                    _check_inside(archive, target, entry.filename)
                content.extractall(target)
        elif tarfile.is_tarfile(archive):
            with tarfile.open(archive) as packed:
                _check_size(archive, sum(member.size for member in packed.getmembers()))
                packed.extractall(target, filter="data")
        else:
            raise GenrecError(f"{archive}: neither a folder nor a zip or tar archive")
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as error:
        raise GenrecError(f"{archive}: cannot be unpacked ({error}); get it again") from error
    return target


def _check_size(archive: Path, size: int) -> None:
    if size > _LARGEST_UNPACKED:
        raise GenrecError(
            f"{archive}: unpacks to {size} bytes, over the limit of {_LARGEST_UNPACKED}; unpack it by hand"
        )


def _check_inside(archive: Path, target: Path, name: str) -> None:
    if not (target / name).resolve().is_relative_to(target.resolve()):
        raise GenrecError(f"{archive}: the entry {name} would be written outside the folder; do not use this archive")


def _holding(folder: Path, source: str, wanted: tuple[str, ...]) -> Path:
    """The folder of ``wanted`` files at most two levels below ``folder``, ``beauty`` before others."""
    below = sorted((path for path in folder.glob("*/") if path.is_dir()), key=lambda path: path.name != "beauty")
    deeper = sorted((path for path in folder.glob("*/*/") if path.is_dir()), key=lambda path: path.name != "beauty")
    candidates = [folder, *below, *deeper]
    complete = [path for path in candidates if all((path / name).is_file() for name in wanted)]
    if not complete:
        missing = [name for name in wanted if not (folder / name).is_file()]
        raise GenrecError(
            f"{source}: missing {', '.join(missing)}, at its top and in its sub-folders; see README, own data"
        )
    named = [path for path in complete if path.name == "beauty"]
    if len(complete) > 1 and complete[0] != folder and not named:
        raise GenrecError(f"{source}: several folders hold the raw files ({', '.join(map(str, complete))}); name one")
    return complete[0]
