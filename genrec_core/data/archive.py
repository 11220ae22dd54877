"""Gets the raw files from a folder, an archive, a URL of an archive, or a prefix of a bucket."""

import base64
import hashlib
import http.client
import json
import lzma
import shutil
import stat
import struct
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import unquote, urlsplit, urlunsplit

from genrec_core.errors import GenrecError
from genrec_core.storage.artifacts import sha256_of
from genrec_core.storage.object_store import SCHEME, ObjectStore
from genrec_core.storage.redact import without_secrets

_LARGEST_UNPACKED = 8 << 30  # bytes; a bomb is refused before it fills the disk
_LARGEST_DOWNLOAD = 8 << 30  # bytes
_TIMEOUT_SECONDS = 60
_VALIDATORS = ("ETag", "Last-Modified", "Content-Length")
_MOST_ENTRIES = 100_000
_DEEPEST = 3  # parts of a path: a file two folders below the top
_REST_SECONDS = 10  # a file that changed within this time is still being written

Entry = tuple[str, int, bool, Callable[[], IO[bytes] | None]]  # name, bytes, whether it is a regular file, how to open


@contextmanager
def opened_source(
    source: str, wanted: Callable[[str], bool], lacking: Callable[[Path], str], sha256: str | None = None
) -> Iterator[Path]:
    """Yield the folder that holds the data.

    Args:
        source: a folder, a zip or tar archive, a file of data, an http(s) URL of an archive or a file, or
            ``s3://bucket/prefix``. The data lie at its top, in ``beauty/`` or in any one other sub-folder.
        wanted: whether a file of this name may be part of the data; nothing else is fetched or unpacked.
        lacking: what a folder lacks, as an error says it; '' if it holds the data.
        sha256: sha256 that the file must have; None: any.
    """
    if not source.strip():
        raise GenrecError("no place of data is given; name a folder, a file, an archive, a URL or an s3:// prefix")
    shown = without_secrets(source)
    with tempfile.TemporaryDirectory(prefix="genrec-raw-") as scratch:
        fetched, unpacked = Path(scratch) / "fetched", Path(scratch) / "unpacked"
        with errors_naming(shown, fetched / _file_name(source), fetched, unpacked):
            path = _fetch(source, fetched, wanted)
            if not path.exists():
                raise GenrecError(f"GENREC_RAW={source}: no such folder or archive; check the path")
            _require_sum(path, sha256)
            folder = path if path.is_dir() else _unpack(path, unpacked, wanted)
            yield _folder_of(folder, shown, lacking)


@contextmanager
def errors_naming(shown: str, *places: Path) -> Iterator[None]:
    """Name ``shown``, which the user knows, in place of the temporary ``places`` in the errors of the block."""
    try:
        yield
    except GenrecError as error:
        text = str(error)
        for place in places:
            text = text.replace(str(place), shown)
        raise GenrecError(text) from error


def fingerprint(source: str) -> str | None:
    """Hash what shows, without reading the data, that the data may have changed; None while files are being written.

    That is name, size and time of files, name, size and ETag of objects, or what the server of a URL says of it.
    """
    if _is_url(source):
        state: list[object] = _server_state(source)
    elif source.startswith(SCHEME):
        state = [(name, facts.size, facts.stamp) for name, facts in sorted(ObjectStore(source).listing().items())]
        if not state:
            raise GenrecError(f"GENREC_RAW={source}: no object lies there; check the address")
    else:
        path = Path(source).expanduser()
        paths = [path] if path.is_file() else sorted(file for at in ("*", "*/*", "*/*/*") for file in path.glob(at))
        files = [(file, file.stat()) for file in paths if file.is_file()]
        if not files:
            raise GenrecError(f"GENREC_RAW={source}: no such folder or archive, or nothing in it; check the path")
        if max(facts.st_mtime for _, facts in files) > time.time() - _REST_SECONDS:
            return None
        state = [(str(file), facts.st_size, facts.st_mtime_ns) for file, facts in files]
    return hashlib.sha256(json.dumps([source, state]).encode()).hexdigest()


def _fetch(source: str, target: Path, wanted: Callable[[str], bool]) -> Path:
    """The folder or file on this machine; what lies elsewhere is fetched to ``target``, a file into it."""
    if _is_url(source):
        target.mkdir()
        file = target / _file_name(source)
        _download(source, file)
        return file
    if source.startswith(SCHEME):
        _fetch_objects(ObjectStore(source), target, wanted)
        return target
    if "://" in source:
        shown = without_secrets(source)
        raise GenrecError(f"GENREC_RAW={shown}: name a folder, an archive, an http(s) URL of one or an s3:// prefix")
    return Path(source).expanduser()


def _file_name(url: str) -> str:
    """The last part of an address, which says what kind of file it is; never a path."""
    name = unquote(urlsplit(url).path).rpartition("/")[2]
    return name if name.strip(".") and "\0" not in name else "archive"


def _fetch_objects(store: ObjectStore, target: Path, wanted: Callable[[str], bool]) -> None:
    target.mkdir()
    listed = store.listing()
    for name in listed:
        parts = name.split("/")
        if wanted(parts[-1]) and len(parts) <= _DEEPEST and not {"", ".", ".."} & set(parts):
            store.download(name, target / name)
    if not any(target.iterdir()):
        raise GenrecError(
            f"GENREC_RAW={store.url}: no file of data among {len(listed)} objects there; check the address"
        )


def _require_sum(path: Path, sha256: str | None) -> None:
    if sha256 is None:
        return
    if path.is_dir():
        raise GenrecError("GENREC_RAW_SHA256: only an archive has a sha256; unset it, or name an archive")
    if (actual := sha256_of(path)) != sha256.lower():
        raise GenrecError(f"{path}: its sha256 is {actual}, not the expected {sha256.lower()}; do not use this archive")


def _unpack(archive: Path, target: Path, wanted: Callable[[str], bool]) -> Path:
    """Unpack what is wanted and nothing else; a path outside ``target``, a link or a bomb is refused.

    A file that is no archive but data itself is linked into ``target``.
    """
    target.mkdir()
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as packed_zip:
                _write_entries(archive, target, wanted, _zip_entries(packed_zip))
        elif tarfile.is_tarfile(archive):
            with tarfile.open(archive) as packed_tar:
                files = ((f.name, f.size, f.isreg(), partial(packed_tar.extractfile, f)) for f in packed_tar)
                _write_entries(archive, target, wanted, files)  # one by one, as a tar archive has no table of them
        elif wanted(archive.name):
            (target / archive.name).symlink_to(archive.resolve())
        else:
            raise GenrecError(f"{archive}: neither a folder nor a whole zip or tar archive; get it again, or unpack it")
    except (RuntimeError, UnicodeDecodeError) as error:  # another compression, a password, names that are no text
        raise GenrecError(f"{archive}: cannot be unpacked ({error}); unpack it by hand and name the folder") from error
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, OSError) as error:
        raise GenrecError(f"{archive}: cannot be unpacked ({error}); get it again") from error
    return target


def _zip_entries(archive: zipfile.ZipFile) -> Iterator[Entry]:
    for info in archive.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)  # 0 where the archive's writer knew no kinds of files
        is_file = not info.is_dir() and kind in (0, stat.S_IFREG)
        yield info.filename, info.file_size, is_file, partial(archive.open, info)


def _write_entries(archive: Path, target: Path, wanted: Callable[[str], bool], entries: Iterator[Entry]) -> None:
    total = 0
    for number, (name, size, is_file, opened) in enumerate(entries, 1):
        path = target / name
        if number > _MOST_ENTRIES:
            raise GenrecError(f"{archive}: more than {_MOST_ENTRIES} entries; unpack it by hand")
        if not path.resolve().is_relative_to(target.resolve()):
            raise GenrecError(f"{archive}: {name} would be written outside the folder; do not use this archive")
        if not wanted(path.name) or len(PurePosixPath(name).parts) > _DEEPEST:
            continue
        if not is_file:
            raise GenrecError(f"{archive}: {name} is no regular file; do not use this archive")
        total += size
        if total > _LARGEST_UNPACKED:
            limit = f"over the limit of {_LARGEST_UNPACKED}"
            raise GenrecError(f"{archive}: unpacks to {total} bytes, {limit}; unpack it by hand")
        path.parent.mkdir(parents=True, exist_ok=True)
        content = opened()
        assert content is not None
        with content, path.open("wb") as file:
            shutil.copyfileobj(content, file)


def _folder_of(folder: Path, shown: str, lacking: Callable[[Path], str]) -> Path:
    if not (fault := lacking(folder)):
        return folder
    found = [path for path in [*sorted(folder.glob("*/")), *sorted(folder.glob("*/*/"))] if not lacking(path)]
    if not found:
        raise GenrecError(f"{shown}: at its top and in its sub-folders: {fault}; README describes the forms of data")
    preferred = found if len(found) == 1 else [path for path in found if path.name == "beauty"]
    if not preferred:
        raise GenrecError(f"{shown}: several folders hold data ({', '.join(map(str, found))}); name one")
    return preferred[0]


class _SameProtocol(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http(s) only, and from https to https only."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        scheme = urlsplit(newurl).scheme
        if scheme not in ("http", "https") or (req.type == "https" and scheme != "https"):
            raise urllib.error.URLError(f"it points on to {scheme}://, which is not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _is_url(source: str) -> bool:
    return source.startswith(("http://", "https://"))


def _download(url: str, target: Path) -> None:
    """Fetch ``url``, http(s), to the file ``target``; ``user:password@`` in it is sent to that server alone."""
    with _response(url, "GET", "cannot be downloaded") as response, target.open("wb") as file:
        length = response.headers.get("Content-Length")
        arrived = 0
        while block := response.read(1 << 20):
            arrived += len(block)
            if arrived > _LARGEST_DOWNLOAD:
                raise GenrecError(f"{_shown(url)}: more than {_LARGEST_DOWNLOAD} bytes; get it by hand")
            file.write(block)
    if length is not None and arrived != int(length):
        raise GenrecError(f"{_shown(url)}: {arrived} of {length} bytes arrived; try again")


def _server_state(url: str) -> list[object]:
    """The headers that change with the content; an error if the server sends none of them."""
    with _response(url, "HEAD", "the server does not answer") as response:
        state: list[object] = [response.headers.get(name) for name in _VALIDATORS]
    if not any(state):
        names = ", ".join(_VALIDATORS)
        raise GenrecError(f"{_shown(url)}: the server sends none of {names}; run `make run` when it has changed")
    return state


@contextmanager
def _response(url: str, method: str, fault: str) -> Iterator[http.client.HTTPResponse]:
    """Ask for ``url``; user and password go in a header that is not sent on to where the server points."""
    try:
        parts = urlsplit(url)
        user, at, place = parts.netloc.rpartition("@")
        request = urllib.request.Request(urlunsplit(parts._replace(netloc=place)), method=method)
        if at:
            token = base64.b64encode(unquote(user).encode()).decode()
            request.add_unredirected_header("Authorization", f"Basic {token}")
        with urllib.request.build_opener(_SameProtocol).open(request, timeout=_TIMEOUT_SECONDS) as response:
            yield response
    except GenrecError:
        raise
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = without_secrets(str(error))
        # Not chained: the library's own text may hold the address with its password.
        raise GenrecError(f"{_shown(url)}: {fault} ({reason}); check the address or use a folder") from None


def _shown(url: str) -> str:
    return f"GENREC_RAW={without_secrets(url)}"
