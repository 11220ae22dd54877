"""Gets the raw files from where they are: a folder, an archive, an archive behind a URL, or a prefix of a bucket."""

import hashlib
import json
import lzma
import shutil
import stat
import struct
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Generic, TypeVar

from genrec_core.data.download import download, is_url, server_state
from genrec_core.errors import GenrecError
from genrec_core.storage.artifacts import sha256_of
from genrec_core.storage.object_store import SCHEME, ObjectStore
from genrec_core.storage.redact import without_secrets

_LARGEST_UNPACKED = 8 << 30  # bytes; a bomb is refused before it fills the disk
_MOST_ENTRIES = 100_000
_DEEPEST = 3  # a file two folders below the top
_REST_SECONDS = 10  # files changed within are still being written

Header = TypeVar("Header")


@contextmanager
def opened_source(source: str, wanted: tuple[str, ...], sha256: str | None = None) -> Iterator[Path]:
    """Yield the folder that holds all ``wanted`` files.

    Args:
        source: a folder, an archive (.zip, .tar, .tar.gz, .tgz, .tar.bz2, .tar.xz), an http(s) URL of one, or
            ``s3://bucket/prefix``. The files lie at its top, in ``beauty/`` or in any one other sub-folder.
        wanted: their names; of an archive nothing else is unpacked.
        sha256: what the archive must have; None: whatever comes.

    Raises:
        GenrecError: there is no such source, it is no archive, not the expected one, or the files are not in it.
    """
    shown = without_secrets(source)
    with tempfile.TemporaryDirectory(prefix="genrec-raw-") as scratch, named_as_given(shown, *_inner(Path(scratch))):
        fetched, unpacked = _inner(Path(scratch))
        path = Path(source).expanduser()
        if is_url(source):
            path = download(source, Path(scratch)).rename(fetched)
        elif source.startswith(SCHEME):
            path = _fetch_objects(ObjectStore(source), fetched, wanted)
        elif "://" in source:
            raise GenrecError(
                f"GENREC_RAW={shown}: only a folder, an archive, an http(s) URL of one or an s3:// prefix can be read"
            )
        if not path.exists():
            raise GenrecError(f"GENREC_RAW={source}: no such folder or archive; check the path")
        _require_sum(path, sha256)
        folder = path if path.is_dir() else _unpack(path, unpacked, wanted)
        yield _holding(folder, shown, wanted)


def _inner(scratch: Path) -> tuple[Path, Path]:
    """Where what is fetched goes, and what is unpacked."""
    return scratch / "fetched", scratch / "unpacked"


@contextmanager
def named_as_given(shown: str, *places: Path) -> Iterator[None]:
    """Let the errors of the block name ``shown``, which the user knows, for ``places``, which are gone afterwards."""
    try:
        yield
    except GenrecError as error:
        text = str(error)
        for place in places:
            text = text.replace(str(place), shown)
        raise GenrecError(text) from error


def _require_sum(path: Path, sha256: str | None) -> None:
    if sha256 is None:
        return
    if path.is_dir():
        raise GenrecError("GENREC_RAW_SHA256: only an archive has a sha256; unset it, or name an archive")
    if (found := sha256_of(path)) != sha256.lower():
        raise GenrecError(f"{path}: its sha256 is {found}, not the expected {sha256.lower()}; do not use this archive")


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
    if is_url(source):
        state: list[object] = server_state(source)
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


def _unpack(archive: Path, target: Path, wanted: tuple[str, ...]) -> Path:
    """Unpack the ``wanted`` files and nothing else; a path outside ``target``, a link or a bomb is refused."""
    target.mkdir(parents=True)
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as content:
                _write_entries(archive, target, wanted, map(_zip_entry, content.infolist()), content.open)
        elif tarfile.is_tarfile(archive):
            with tarfile.open(archive) as packed:
                _write_entries(archive, target, wanted, map(_tar_entry, packed), packed.extractfile)
        else:
            raise GenrecError(
                f"{archive}: neither a folder nor a whole zip or tar archive; get it again, or unpack it by hand and "
                "name the folder"
            )
    except (RuntimeError, UnicodeDecodeError) as error:  # another compression, a password, names that are no text
        raise GenrecError(f"{archive}: cannot be unpacked ({error}); unpack it by hand and name the folder") from error
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, OSError) as error:
        raise GenrecError(f"{archive}: cannot be unpacked ({error}); get it again") from error
    return target


@dataclass(frozen=True)
class _Entry(Generic[Header]):
    """What an archive says of one of its entries, in either form."""

    name: str
    size: int
    is_file: bool
    header: Header


def _zip_entry(header: zipfile.ZipInfo) -> _Entry[zipfile.ZipInfo]:
    kind = stat.S_IFMT(header.external_attr >> 16)  # 0 where it was written on a system without such kinds
    return _Entry(header.filename, header.file_size, not header.is_dir() and kind in (0, stat.S_IFREG), header)


def _tar_entry(header: tarfile.TarInfo) -> _Entry[tarfile.TarInfo]:
    return _Entry(header.name, header.size, header.isreg(), header)


def _write_entries(
    archive: Path,
    target: Path,
    wanted: tuple[str, ...],
    entries: Iterable[_Entry[Header]],
    read: Callable[[Header], IO[bytes] | None],
) -> None:
    """Write the wanted entries below ``target``; entries are looked at one by one, as a tar archive has no table."""
    total = 0
    for number, entry in enumerate(entries, 1):
        if number > _MOST_ENTRIES:
            raise GenrecError(f"{archive}: more than {_MOST_ENTRIES} entries; unpack it by hand")
        path = _inside(archive, target, entry.name)
        if path.name not in wanted or len(PurePosixPath(entry.name).parts) > _DEEPEST:
            continue
        if not entry.is_file:
            raise GenrecError(f"{archive}: {entry.name} is no regular file; do not use this archive")
        total += entry.size
        if total > _LARGEST_UNPACKED:
            raise GenrecError(
                f"{archive}: unpacks to {total} bytes, over the limit of {_LARGEST_UNPACKED}; unpack it by hand"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        content = read(entry.header)
        assert content is not None
        with content, path.open("wb") as file:
            shutil.copyfileobj(content, file)


def _inside(archive: Path, target: Path, name: str) -> Path:
    if not (target / name).resolve().is_relative_to(target.resolve()):
        raise GenrecError(f"{archive}: the entry {name} would be written outside the folder; do not use this archive")
    return target / name


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
