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
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from genrec_core.errors import GenrecError
from genrec_core.storage.artifacts import (
    LOCK,
    MANIFEST,
    atomic_file,
    atomic_folder,
    locked,
    locked_place,
    read_json,
    recovered,
    verify_manifest,
    write_json,
)
from genrec_core.storage.object_store import SCHEME, ObjectStore
from genrec_core.storage.redact import without_secrets

LATEST = "latest.json"
_REMOTE = ".remote.json"  # in the root of a mirror: the address that it mirrors
_MOVES, _MOVE = ".moves/", "move"
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

    ``place`` is a folder or ``s3://bucket/prefix``; None: ``GENREC_STORAGE``, or ``.genrec/storage`` if that is unset.
    """
    value = place or os.environ.get("GENREC_STORAGE") or ".genrec/storage"
    if value.startswith(SCHEME):
        store = ObjectStore(value)
        base = Path(os.environ.get("GENREC_MIRROR") or ".genrec/mirror").expanduser().absolute()
        root = base / store.bucket / store.prefix
        if not (root / _REMOTE).is_file():
            write_json(root / _REMOTE, {"url": store.url})
        return root
    if "://" in value:
        shown = without_secrets(value)
        raise GenrecError(f"GENREC_STORAGE={shown}: neither a folder nor an s3:// address; set it to one of them")
    return Path(value).expanduser().absolute()


def place_of(root: Path) -> str:
    """A storage as its user names it: the folder, or the address that it mirrors."""
    store = _store_of(root)
    return store.url if store else str(root)


def is_there(asset: str, root: Path | None = None) -> bool:
    """Whether ``asset`` was ever built. Without ``root``, all functions here use :func:`storage_root`."""
    return read_small(asset, LATEST, root or storage_root()) is not None


def latest(asset: str, root: Path | None = None) -> Path:
    """The folder of the newest finished version of ``asset``; ``NotBuiltError`` if it was never built."""
    pointer = (root or storage_root()) / asset / LATEST
    _refresh(pointer)
    if not pointer.is_file():
        raise NotBuiltError(
            f"{asset} was never built: no {pointer}; run `make run`, or set GENREC_STORAGE to the storage that has it"
        )
    folder = pointer.parent / _version_in(read_json(pointer), str(pointer))
    if not _obtain(folder):
        raise GenrecError(f"{pointer} names {folder.name}, but {folder} is missing; build {asset} again")
    return folder


def earlier_version(
    asset: str, root: Path, note: Callable[[str], object], refused: Callable[[GenrecError], GenrecError] | None = None
) -> Path | None:
    """The newest version of ``asset``, of which the next one reuses what did not change; None if there is none.

    A damaged one counts as none, unless ``refused`` makes the error that is then raised. ``note`` gets the reason for
    None.
    """
    if not is_there(asset, root) and not any(version.whole for version in all_versions(asset, root)):
        note(f"{asset} has no earlier version to reuse, so everything is computed")
        return None
    try:
        folder = latest(asset, root)
        verify_manifest(folder)
    except GenrecError as error:
        if refused is not None:
            raise refused(error) from error
        note(f"the earlier version of {asset} is not reused, so everything is computed: {error}")
        return None
    return folder


def version_folder(asset: str, version: str, root: Path | None = None) -> Path:
    """The folder of one version of ``asset``, whether it is the newest or not; an error if it is not there."""
    folder = (root or storage_root()) / asset / version
    _require_plain_name(version, folder.parent)
    if not _obtain(folder):
        raise GenrecError(f"{folder.parent}: no version {version} of {asset}; it was removed or is in another storage")
    return folder


def read_small(asset: str, name: str, root: Path) -> bytes | None:
    """Read one small file in the folder of ``asset`` and fetch nothing else; None if there is no such file."""
    if (store := _store_of(root / asset)) is not None:
        return store.read(name)
    file = root / asset / name
    return file.read_bytes() if file.is_file() else None


def set_latest(asset: str, version: str, root: Path | None = None) -> None:
    """Make ``version``, which is whole on disk, the newest of ``asset``; if the store refuses, nothing changes."""
    root = root or storage_root()
    put_version(asset, version, root)
    point_latest(asset, version, root)


def put_version(asset: str, version: str, root: Path) -> None:
    """Put a version that is whole on disk into the bucket that its storage mirrors, if any; it is not the newest yet.

    If the store refuses, the version is removed here too.
    """
    folder = root / asset / version
    _require_plain_name(version, folder.parent)
    if (store := _store_of(folder)) is None:
        return
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != LOCK]
    try:
        for path in sorted(files, key=lambda path: path == folder / MANIFEST):  # the manifest last
            store.upload(path, path.relative_to(folder).as_posix())
    except GenrecError:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def point_latest(asset: str, version: str, root: Path, move: int | None = None) -> None:
    """Make a version that :func:`put_version` has put in place the newest; ``move``: see :func:`move_latest`."""
    pointer = root / asset / LATEST
    write_json(pointer, {"version": version} if move is None else {"version": version, _MOVE: move})
    if (store := _store_of(pointer.parent)) is not None:
        store.upload(pointer, LATEST)


def move_latest(asset: str, version: str, after: str | None, root: Path) -> None:
    """Make ``version`` the newest of ``asset`` if ``after`` (None: no version) still is, else raise ``MovedError``.

    Hold the lock in ``root``.

    In a bucket the moves are numbered objects below ``{asset}/.moves``. A store that honours ``If-None-Match`` gives
    each number to one machine only. With another store, one machine alone may move; a warning says so. Once there are
    moves, the last one counts, and ``latest.json`` is a copy.
    """
    pointer = root / asset / LATEST
    if (store := _store_of(pointer.parent)) is None:
        newest = _version_in(read_json(pointer), str(pointer)) if pointer.is_file() else None
        if newest != after:
            raise MovedError(f"{pointer}: names {newest}, not {after}")
        point_latest(asset, version, root)
        return
    number, newest = _last_move(store)
    moved = newest == after and _claim(number + 1, version, store)
    number, newest = (number + 1, version) if moved else _last_move(store)
    if newest is not None:  # also where another machine moved it and died before it wrote the copy
        point_latest(asset, newest, root, number)
    if not moved:
        raise MovedError(f"{store.url}: its newest version is {newest}, not {after}")


def all_assets(root: Path) -> list[str]:
    """The names of all assets that were ever built in a storage, a partition as ``asset/partition``."""
    if (store := _store_of(root)) is not None:
        files = [name for name in store.listing() if name.endswith(f"/{LATEST}")]
    else:
        files = [path.relative_to(root).as_posix() for at in ("*", "*/*") for path in root.glob(f"{at}/{LATEST}")]
    names = [name.removesuffix(f"/{LATEST}") for name in files]
    # An object of a bucket can have any name, also one that no folder has.
    return sorted(name for name in names if re.fullmatch(r"[^./][^/]*(/[^./][^/]*)?", name))


def all_versions(asset: str, root: Path) -> list[Version]:
    """The versions of ``asset`` in a storage, in no order; also those that were never finished."""
    if (store := _store_of(root / asset)) is not None:
        times = {name: facts.modified for name, facts in store.listing().items()}
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


def remove_version(asset: str, version: str, root: Path) -> None:
    """Remove a version, its manifest first: if the removal is cut off, the rest does not look whole."""
    folder = root / asset / version
    _require_plain_name(version, folder.parent)
    if (store := _store_of(folder)) is not None:
        store.delete([MANIFEST])
        store.delete(list(store.listing()))
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
    place = path.resolve()  # a link may lead into the mirror
    store = _store_of(place.parent)
    with atomic_file(path) as part:
        write_json(part, content)
        if store is not None:
            store.upload(part, place.name)


def refresh_shared(path: Path) -> None:
    """Bring a file that may change up to date with the bucket that its storage mirrors; hold the same lock."""
    place = path.resolve()
    store = _store_of(place.parent)
    if store is not None and place.name in store.listing(place.name):
        store.download(place.name, path)


def shared_is_there(path: Path) -> bool:
    """Whether there is this file that may change, in the bucket if its storage mirrors one."""
    place = path.resolve()
    store = _store_of(place.parent)
    return path.is_file() if store is None else place.name in store.listing(place.name)


def _store_of(folder: Path) -> ObjectStore | None:
    """The prefix of a bucket that ``folder``, a mirror or a folder in one, mirrors; None outside of mirrors."""
    root = next((root for root in (folder, *folder.parents) if (root / _REMOTE).is_file()), None)
    if root is None:
        return None
    return ObjectStore("/".join([read_json(root / _REMOTE)["url"], *folder.relative_to(root).parts]))


def _claim(number: int, version: str, store: ObjectStore) -> bool:
    """Whether this process is the one that makes a numbered move."""
    name, content = f"{_MOVES}{number:08}.json", json.dumps({"version": version, "moved_by": uuid.uuid4().hex}).encode()
    if store.creates_once(f"{_MOVES}probe"):
        return store.create(name, content)
    LOG.warning("%s ignores If-None-Match: let one machine alone move releases there, or some are lost", store.url)
    store.write(name, content)
    return True


def _last_move(store: ObjectStore) -> tuple[int, str | None]:
    """Number and version of the last move; without moves, 0 and the version in ``latest.json``."""
    moves = [name for name in store.listing(_MOVES) if re.fullmatch(r"[0-9]{8}\.json", name.removeprefix(_MOVES))]
    name = max(moves, default=LATEST)
    number = int(name.removeprefix(_MOVES).removesuffix(".json")) if moves else 0
    content = _read_object(store, name)
    return number, None if content is None else _version_in(content, f"{store.url}/{name}")


def _read_object(store: ObjectStore, name: str) -> Any:
    """The content of a small JSON object; None if there is no such object."""
    content = store.read(name)
    try:
        return None if content is None else json.loads(content)
    except ValueError as error:
        raise GenrecError(f"{store.url}/{name}: not valid JSON; build the asset again") from error


def _refresh(pointer: Path) -> None:
    """Bring ``latest.json`` up to date if it lies in a mirror."""
    if (store := _store_of(pointer.parent)) is None:
        return
    content = _read_object(store, LATEST)
    if content is None:
        pointer.unlink(missing_ok=True)
        return
    if isinstance(content, dict) and _MOVE in content:
        _, content["version"] = _last_move(store)
    write_json(pointer, content)


def _obtain(folder: Path) -> bool:
    """Fetch a version if it lies elsewhere; whether it is here now."""
    if (store := _store_of(folder)) is None:
        return recovered(folder).is_dir()
    names = list(store.listing())
    if MANIFEST not in names:
        return False
    for name in names:
        if name.startswith("/") or ".." in Path(name).parts:
            raise GenrecError(f"{store.url}/{name}: this name would leave the folder; remove the object")
    with locked(folder.parent / LOCK):  # of two processes that want a version, one fetches it
        if not (recovered(folder) / MANIFEST).is_file():
            with atomic_folder(folder) as part:
                for name in names:
                    store.download(name, part / name)
                verify_manifest(part)
            return True
    listed = read_json(folder / MANIFEST)["files"]
    for name in names:
        if name not in listed and Path(name).name != MANIFEST:  # a file that may change
            with locked_place((folder / name).parent):  # it may be about to change here
                store.download(name, folder / name)
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
