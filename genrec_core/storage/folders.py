"""Where finished artefacts lie: ``{root}/{asset}/{version}/``, and ``latest.json`` beside them names the newest.

The root is a folder. If ``GENREC_STORAGE`` is an ``s3://`` address, the root is this machine's mirror of that prefix:
versions are fetched when they are read, and put there when they are finished, ``manifest.json`` last, then
``latest.json``. Versions never change, so no version is fetched twice.
"""

import json
import logging
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from genrec_core.errors import GenrecError
from genrec_core.storage.artifacts import (
    MANIFEST,
    atomic_file,
    atomic_folder,
    read_json,
    recovered,
    verify_manifest,
    write_json,
)
from genrec_core.storage.locks import LOCK, locked, locked_place
from genrec_core.storage.object_store import SCHEME, ObjectStore
from genrec_core.storage.redact import without_secrets

ROOT_VARIABLE, MIRROR_VARIABLE = "GENREC_STORAGE", "GENREC_MIRROR"
DEFAULT_ROOT, DEFAULT_MIRROR = Path(".genrec") / "storage", Path(".genrec") / "mirror"
LATEST = "latest.json"
_REMOTE = ".remote.json"  # in the root of a mirror: the address that it mirrors
_MOVES, _MOVE = ".moves", "move"
LOG = logging.getLogger("genrec.storage")


class NotBuiltError(GenrecError):
    """There is no version of an asset yet."""


class MovedError(GenrecError):
    """Another version became the newest of an asset meanwhile."""


@dataclass(frozen=True)
class Version:
    """A version in a storage: its folder's name, whether its manifest is there, and the time of its newest file."""

    version: str
    whole: bool
    written: datetime


def storage_root(place: str | None = None) -> Path:
    """The absolute path of a storage; an ``s3://`` address has a mirror below ``GENREC_MIRROR`` (``.genrec/mirror``).

    Args:
        place: a folder or ``s3://bucket/prefix``; None: ``GENREC_STORAGE``, or ``.genrec/storage`` if that is unset.
    """
    value = place or os.environ.get(ROOT_VARIABLE)
    if value and value.startswith(SCHEME):
        return _mirror(ObjectStore(value))
    if value and "://" in value:
        shown = without_secrets(value)
        raise GenrecError(f"{ROOT_VARIABLE}={shown}: neither a folder nor an s3:// address; set it to one of them")
    return (Path(value).expanduser() if value else DEFAULT_ROOT).absolute()


def place_of(root: Path) -> str:
    """A storage as its user names it: the folder, or the address that it mirrors."""
    store = _store_of(root)
    return store.url if store else str(root)


def is_there(asset: str, root: Path | None = None) -> bool:
    """Whether ``asset`` was ever built. Without ``root``, all functions here use :func:`storage_root`."""
    return read_small(asset, None, LATEST, root or storage_root()) is not None


def latest(asset: str, root: Path | None = None) -> Path:
    """The folder of the newest finished version of ``asset``.

    Raises:
        NotBuiltError: the asset was never built.
        GenrecError: ``latest.json`` names a version that is not there, or the store does not answer.
    """
    root = root or storage_root()
    pointer = root / asset / LATEST
    if (store := _store_of(root)) is not None:
        _refresh(pointer, store)
    if not pointer.is_file():
        raise NotBuiltError(
            f"{asset} was never built: no {pointer}; run `make run`, or set {ROOT_VARIABLE} to the storage that has it"
        )
    version = _version_in(read_json(pointer), str(pointer))
    if not _obtain(asset, version, root):
        folder = pointer.parent / version
        raise GenrecError(f"{pointer} names {version}, but {folder} is missing; build {asset} again")
    return pointer.parent / version


def version_folder(asset: str, version: str, root: Path | None = None) -> Path:
    """The folder of one version of ``asset``, whether it is the newest or not; an error if it is not there."""
    root = root or storage_root()
    _require_plain_name(version, root / asset)
    if not _obtain(asset, version, root):
        raise GenrecError(
            f"{root / asset}: no version {version} of {asset}; it was removed, or lies in another storage"
        )
    return root / asset / version


def read_small(asset: str, version: str | None, name: str, root: Path) -> bytes | None:
    """Read one small file and fetch nothing else; None if there is no such file.

    Args:
        version: the version with the file; None: the file lies beside the versions.
        name: the file's path in the version's folder.
    """
    if version is not None:
        _require_plain_name(version, root / asset)
        name = f"{version}/{name}"
    if (store := _store_of(root)) is not None:
        return store.read(f"{asset}/{name}")
    file = root / asset / name
    return file.read_bytes() if file.is_file() else None


def set_latest(asset: str, version: str, root: Path | None = None) -> None:
    """Make ``version``, which is whole on disk, the newest of ``asset``; if the store refuses, nothing changes."""
    put_version(asset, version, root)
    point_latest(asset, version, root)


def put_version(asset: str, version: str, root: Path | None = None) -> None:
    """Put a version that is whole on disk into the bucket that its storage mirrors, if any; it is not the newest yet.

    Raises:
        GenrecError: ``version`` is not a plain folder name, or the store refuses; then it is removed here too.
    """
    root = root or storage_root()
    folder, store = root / asset / version, _store_of(root)
    _require_plain_name(version, root / asset / LATEST)
    if store is None:
        return
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != LOCK]
    try:
        for path in sorted(files, key=lambda path: path == folder / MANIFEST):  # the manifest last
            store.upload(path, path.relative_to(root).as_posix())
    except GenrecError:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def point_latest(asset: str, version: str, root: Path | None = None) -> None:
    """Make a version that :func:`put_version` has put in place the newest."""
    _point(asset, {"version": version}, root or storage_root())


def move_latest(asset: str, version: str, after: str | None, root: Path) -> None:
    """Make ``version`` the newest of ``asset`` if ``after`` (None: no version) still is; hold :func:`locked_storage`.

    In a bucket the moves are numbered objects below ``{asset}/.moves``. A store that honours ``If-None-Match`` gives
    each number to one machine only. With another store, one machine alone may move; a warning says so. Once there are
    moves, the last one counts, and ``latest.json`` is a copy.

    Raises:
        MovedError: another version is the newest; nothing was moved.
    """
    pointer, store = root / asset / LATEST, _store_of(root)
    if store is None:
        newest = _version_in(read_json(pointer), str(pointer)) if pointer.is_file() else None
        if newest != after:
            raise MovedError(f"{pointer}: names {newest}, not {after}")
        _point(asset, {"version": version}, root)
        return
    number, newest = _last_move(asset, store)
    moved = newest == after and _claim(asset, number + 1, version, store)
    number, newest = (number + 1, version) if moved else _last_move(asset, store)
    if newest is not None:  # also where another machine moved it and died before it wrote the copy
        _point(asset, {"version": newest, _MOVE: number}, root)
    if not moved:
        raise MovedError(f"{store.url}/{asset}: its newest version is {newest}, not {after}")


@contextmanager
def locked_storage(root: Path) -> Iterator[None]:
    """Hold this machine's lock for moving the pointer to the served release and withdrawing items; hold it briefly."""
    root.mkdir(parents=True, exist_ok=True)
    with locked(root / LOCK):
        yield


def all_assets(root: Path | None = None) -> list[str]:
    """The names of all assets that were ever built in a storage, a partition as ``asset/partition``."""
    root = root or storage_root()
    if (store := _store_of(root)) is not None:
        files = [name for name in store.listing() if name.endswith(f"/{LATEST}")]
    else:
        files = [path.relative_to(root).as_posix() for at in ("*", "*/*") for path in root.glob(f"{at}/{LATEST}")]
    names = [name.removesuffix(f"/{LATEST}") for name in files]
    return sorted(name for name in names if _is_asset(name.split("/")))


def _is_asset(parts: list[str]) -> bool:
    """Whether these are names of folders; an object of a bucket can have any name."""
    return len(parts) <= 2 and all(part and not part.startswith(".") for part in parts)


def all_versions(asset: str, root: Path | None = None) -> list[Version]:
    """The versions of ``asset`` in a storage, in no order; also those that were never finished."""
    root = root or storage_root()
    if (store := _store_of(root)) is not None:
        listed = store.listing(f"{asset}/").items()
        times = {name.removeprefix(f"{asset}/"): facts.modified for name, facts in listed}
    else:
        times = {
            path.relative_to(root / asset).as_posix(): datetime.fromtimestamp(path.stat().st_mtime, UTC)
            for path in (root / asset).glob("[!.]*/**/*")
            if path.is_file() and path.name != LOCK
        }
    written: dict[str, datetime] = {}
    for name, time in times.items():
        version, _, file = name.partition("/")
        if file and not version.startswith("."):
            written[version] = max(time, written.get(version, time))
    return [Version(version, f"{version}/{MANIFEST}" in times, time) for version, time in written.items()]


def remove_version(asset: str, version: str, root: Path | None = None) -> None:
    """Remove a version, its manifest first: if the removal is cut off, the rest does not look whole."""
    root = root or storage_root()
    folder = root / asset / version
    _require_plain_name(version, root / asset)
    if (store := _store_of(root)) is not None:
        store.delete([f"{asset}/{version}/{MANIFEST}"])
        store.delete(list(store.listing(f"{asset}/{version}/")))
    try:
        (folder / MANIFEST).unlink(missing_ok=True)
        if folder.exists():
            shutil.rmtree(folder)
    except OSError as error:
        raise GenrecError(f"{folder}: cannot be removed ({error.strerror or error}); check who owns it") from error


def write_shared(path: Path, content: Any) -> None:
    """Write a JSON file that may change and that no manifest lists, first to the bucket that its storage mirrors.

    If the bucket refuses, it is not written here either. Hold the folder's :func:`locked_place`.
    """
    shared = _shared(path)
    with atomic_file(path) as part:
        write_json(part, content)
        if shared is not None:
            shared[0].upload(part, shared[1])


def refresh_shared(path: Path) -> None:
    """Bring a file that may change up to date with the bucket that its storage mirrors; hold the same lock."""
    shared = _shared(path)
    if shared is not None and shared_is_there(path):
        shared[0].download(shared[1], path)


def shared_is_there(path: Path) -> bool:
    """Whether there is this file that may change, in the bucket if its storage mirrors one."""
    shared = _shared(path)
    return path.is_file() if shared is None else shared[1] in shared[0].listing(shared[1])


def _shared(path: Path) -> tuple[ObjectStore, str] | None:
    """The bucket that mirrors a file's storage, and the file's name there."""
    path = path.resolve()  # a link may lead into the mirror
    root = next((root for root in path.parents if (root / _REMOTE).is_file()), None)
    return None if root is None else (_store_in(root), path.relative_to(root).as_posix())


def _mirror(store: ObjectStore) -> Path:
    base = Path(os.environ.get(MIRROR_VARIABLE) or DEFAULT_MIRROR).expanduser().absolute()
    root = base / store.bucket / store.prefix
    if not (root / _REMOTE).is_file():
        write_json(root / _REMOTE, {"url": store.url})
    return root


def _store_in(mirror: Path) -> ObjectStore:
    return ObjectStore(read_json(mirror / _REMOTE)["url"])


def _store_of(root: Path) -> ObjectStore | None:
    """The prefix that ``root`` mirrors, if any; partitions lie one folder below the storage's root."""
    if (root / _REMOTE).is_file():
        return _store_in(root)
    if (root.parent / _REMOTE).is_file():
        return ObjectStore(f"{_store_in(root.parent).url}/{root.name}")
    return None


def _point(asset: str, content: dict[str, Any], root: Path) -> None:
    pointer = root / asset / LATEST
    write_json(pointer, content)
    if (store := _store_of(root)) is not None:
        store.upload(pointer, f"{asset}/{LATEST}")


def _claim(asset: str, number: int, version: str, store: ObjectStore) -> bool:
    """Whether this process is the one that makes a numbered move."""
    moves = f"{asset}/{_MOVES}/"
    content = json.dumps({"version": version, "moved_by": uuid.uuid4().hex}).encode()
    if store.creates_once(f"{moves}probe"):
        return store.create(f"{moves}{number:08}.json", content)
    LOG.warning("%s ignores If-None-Match: let one machine alone move %s, or releases may be lost", store.url, asset)
    store.write(f"{moves}{number:08}.json", content)
    return True


def _last_move(asset: str, store: ObjectStore) -> tuple[int, str | None]:
    """Number and version of the last move; without moves, 0 and the version in ``latest.json``."""
    prefix = f"{asset}/{_MOVES}/"
    moves = [name for name in store.listing(prefix) if re.fullmatch(r"[0-9]{8}\.json", name.removeprefix(prefix))]
    name = max(moves, default=f"{asset}/{LATEST}")
    number = int(name.removeprefix(prefix).removesuffix(".json")) if moves else 0
    content = _read_object(store, name)
    return number, None if content is None else _version_in(content, f"{store.url}/{name}")


def _read_object(store: ObjectStore, name: str) -> Any:
    """The content of a small JSON object; None if there is no such object."""
    content = store.read(name)
    try:
        return None if content is None else json.loads(content)
    except ValueError as error:
        raise GenrecError(f"{store.url}/{name}: not valid JSON; build the asset again") from error


def _refresh(pointer: Path, store: ObjectStore) -> None:
    """Bring the mirror's ``latest.json`` up to date."""
    asset = pointer.parent.name
    content = _read_object(store, f"{asset}/{LATEST}")
    if content is None:
        pointer.unlink(missing_ok=True)
        return
    if isinstance(content, dict) and _MOVE in content:
        _, content["version"] = _last_move(asset, store)
    write_json(pointer, content)


def _obtain(asset: str, version: str, root: Path) -> bool:
    """Fetch a version if it lies elsewhere; whether it is here now."""
    folder, store = root / asset / version, _store_of(root)
    if store is None:
        return recovered(folder).is_dir()
    prefix = f"{asset}/{version}/"
    names = [name.removeprefix(prefix) for name in store.listing(prefix)]
    if MANIFEST not in names:
        return False
    for name in names:
        if name.startswith("/") or ".." in Path(name).parts:
            raise GenrecError(f"{store.url}/{prefix}{name}: this name would leave the folder; remove the object")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.parent / LOCK):  # of two processes that want a version, one fetches it
        if not (recovered(folder) / MANIFEST).is_file():
            with atomic_folder(folder) as part:
                for name in names:
                    store.download(prefix + name, part / name)
                verify_manifest(part)
            return True
    listed = read_json(folder / MANIFEST)["files"]
    for name in names:
        if name not in listed and Path(name).name != MANIFEST:  # a file that may change
            with locked_place((folder / name).parent):  # it may be about to change here
                store.download(prefix + name, folder / name)
    return True


def _version_in(pointer: Any, place: str) -> str:
    version = pointer.get("version") if isinstance(pointer, dict) else None
    if not isinstance(version, str):
        raise GenrecError(f'{place}: holds {pointer!r:.80}, not {{"version": "..."}}; build the asset again')
    _require_plain_name(version, place)
    return version


def _require_plain_name(version: str, place: Path | str) -> None:
    if not version or version in {".", ".."} or Path(version).name != version:
        raise GenrecError(f"{place}: version {version!r} is not the name of a folder beside it; build the asset again")
