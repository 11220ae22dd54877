"""Where finished artefacts lie: ``{root}/{asset}/{version}/``, and ``latest.json`` beside them names the newest.

The root is a folder. Where ``GENREC_STORAGE`` is an ``s3://`` address it is this machine's mirror of that prefix: what
is asked for is fetched, what is finished is put there, its ``manifest.json`` last, then ``latest.json``. Versions never
change, so one that was fetched before is not fetched again.
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
    locked_folder,
    locked_place,
    read_json,
    recovered,
    verify_manifest,
    write_json,
)
from genrec_core.storage.object_store import SCHEME, ObjectStore
from genrec_core.storage.redact import without_secrets

ROOT_VARIABLE, MIRROR_VARIABLE = "GENREC_STORAGE", "GENREC_MIRROR"
DEFAULT_ROOT, DEFAULT_MIRROR = Path(".genrec") / "storage", Path(".genrec") / "mirror"
LATEST = "latest.json"
_REMOTE = ".remote.json"
_MOVES, _MOVE = ".moves", "move"
LOG = logging.getLogger("genrec.storage")


class NotBuiltError(GenrecError):
    """There is no version of an asset yet."""


class MovedError(GenrecError):
    """Another version became the newest of an asset meanwhile."""


def storage_root(place: str | None = None) -> Path:
    """A storage as an absolute path.

    Args:
        place: a folder or ``s3://bucket/prefix``; None for ``GENREC_STORAGE``, where unset ``.genrec/storage``.

    Returns:
        The folder; of an ``s3://`` address its mirror below ``GENREC_MIRROR`` (``.genrec/mirror`` where it is unset).

    Raises:
        GenrecError: it is another URL, or no address of objects.
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
    return _store_of(root).url if (root / _REMOTE).is_file() else str(root)


def is_there(asset: str, root: Path | None = None) -> bool:
    """Whether ``asset`` was ever built.

    Args:
        asset: the asset's name.
        root: the storage to look in; :func:`storage_root` where None.
    """
    root = root or storage_root()
    remote = _remote_of(root)
    if remote is None:
        return (root / asset / LATEST).is_file()
    store, below = remote
    return store.read(f"{below}{asset}/{LATEST}") is not None


def latest(asset: str, root: Path | None = None) -> Path:
    """The folder of the newest finished version of ``asset``.

    Args:
        asset: the asset's name, for example ``onnx_encoder``.
        root: the storage to look in; :func:`storage_root` where None.

    Raises:
        NotBuiltError: the asset was never built.
        GenrecError: ``latest.json`` names a version that is not there, or the store where that lies stays away.
    """
    root = root or storage_root()
    pointer = root / asset / LATEST
    _refresh(pointer, root)
    if not pointer.is_file():
        raise NotBuiltError(
            f"{asset} was never built: no {pointer}; run `make run`, or set {ROOT_VARIABLE} to the storage that has it"
        )
    version = _version_in(pointer)
    if not _obtain(asset, version, root):
        folder = pointer.parent / version
        raise GenrecError(f"{pointer} names {version}, but {folder} is missing; build {asset} again")
    return pointer.parent / version


def version_folder(asset: str, version: str, root: Path | None = None) -> Path:
    """The folder of one version of ``asset``, whether it is the newest or not.

    Raises:
        GenrecError: ``version`` is not a plain folder name, or that version is not in the storage.
    """
    root = root or storage_root()
    store = root / asset
    _require_plain_name(version, store)
    if not _obtain(asset, version, root):
        raise GenrecError(f"{store}: no version {version} of {asset}; it was removed, or lies in another storage")
    return store / version


def read_small(asset: str, version: str, name: str, root: Path) -> bytes | None:
    """The content of one small file of a version, of which nothing else is fetched; None where there is none.

    Args:
        asset, version: whose file.
        name: the file's path in the version's folder.
        root: the storage.

    Raises:
        GenrecError: ``version`` is not a plain folder name, or the store stays away.
    """
    _require_plain_name(version, root / asset)
    remote = _remote_of(root)
    if remote is None:
        file = root / asset / version / name
        return file.read_bytes() if file.is_file() else None
    store, below = remote
    return store.read(f"{below}{asset}/{version}/{name}")


def set_latest(asset: str, version: str, root: Path | None = None) -> None:
    """Make ``version`` the newest of ``asset``, whatever was before; call it once the version is whole on disk.

    Raises:
        GenrecError: as :func:`put_version`; then what was the newest stays.
    """
    put_version(asset, version, root)
    point_latest(asset, version, root)


def put_version(asset: str, version: str, root: Path | None = None) -> None:
    """Put a version that is whole on disk into the bucket that its storage mirrors, if any; it is not the newest yet.

    Raises:
        GenrecError: ``version`` is not a plain folder name, or cannot be put there; then it is removed here too.
    """
    root = root or storage_root()
    _require_plain_name(version, root / asset / LATEST)
    remote = _remote_of(root)
    if remote is None:
        return
    try:
        _put(asset, version, root, *remote)
    except GenrecError:
        shutil.rmtree(root / asset / version, ignore_errors=True)
        raise


def point_latest(asset: str, version: str, root: Path | None = None) -> None:
    """Make a version the newest that :func:`put_version` has put in place."""
    root = root or storage_root()
    _point(asset, {"version": version}, root, _remote_of(root))


def move_latest(asset: str, version: str, after: str | None, root: Path) -> None:
    """Make ``version`` the newest of ``asset`` if ``after`` still is; hold :func:`locked_storage`.

    In a bucket the moves are numbered objects below ``{asset}/.moves``. A store that honours ``If-None-Match`` gives
    each number to one machine only. With another store, one machine alone may move; a warning says so. Once there are
    moves, the last one counts, and ``latest.json`` is a copy.

    Args:
        asset: the asset's name.
        version: put in place by :func:`put_version`.
        after: the version that it follows; None if there was none.
        root: the storage.

    Raises:
        MovedError: another version is the newest; nothing was moved.
    """
    pointer, remote = root / asset / LATEST, _remote_of(root)
    if remote is None:
        newest = _version_in(pointer) if pointer.is_file() else None
        if newest != after:
            raise MovedError(f"{pointer}: names {newest}, not {after}")
        _point(asset, {"version": version}, root, None)
        return
    number, newest = _last_move(asset, *remote)
    moved = newest == after and _claim(asset, number + 1, version, *remote)
    number, newest = (number + 1, version) if moved else _last_move(asset, *remote)
    if newest is not None:  # also where another machine moved it and died before it came to this
        _point(asset, {"version": newest, _MOVE: number}, root, remote)
    if not moved:
        raise MovedError(f"{remote[0].url}/{remote[1]}{asset}: its newest version is {newest}, not {after}")


@contextmanager
def locked_storage(root: Path) -> Iterator[None]:
    """Hold the lock for changing what is served and what is withdrawn from it, on this machine; hold it for moments."""
    root.mkdir(parents=True, exist_ok=True)
    with locked_folder(root):
        yield


def _point(asset: str, content: dict[str, Any], root: Path, remote: tuple[ObjectStore, str] | None) -> None:
    pointer = root / asset / LATEST
    write_json(pointer, content)
    if remote is not None:
        remote[0].upload(pointer, f"{remote[1]}{asset}/{LATEST}")


def _claim(asset: str, number: int, version: str, store: ObjectStore, below: str) -> bool:
    """Whether this process is the one that makes a numbered move."""
    moves = f"{below}{asset}/{_MOVES}/"
    content = json.dumps({"version": version, "moved_by": uuid.uuid4().hex}).encode()
    if store.creates_once(f"{moves}probe"):
        return store.create(f"{moves}{number:08}.json", content)
    LOG.warning("%s ignores If-None-Match: let one machine alone move %s, or releases may be lost", store.url, asset)
    store.write(f"{moves}{number:08}.json", content)
    return True


def _last_move(asset: str, store: ObjectStore, below: str) -> tuple[int, str | None]:
    """Number and version of the last move; number 0 and what ``latest.json`` names where there was none."""
    prefix = f"{below}{asset}/{_MOVES}/"
    names = [name for name in store.listing(prefix) if re.fullmatch(r"[0-9]{8}\.json", name.removeprefix(prefix))]
    name = max(names, default=f"{below}{asset}/{LATEST}")
    number = int(name.removeprefix(prefix).removesuffix(".json")) if names else 0
    content = _json_in(store, name)
    return number, None if content is None else _named_version(content, f"{store.url}/{name}")


def _json_in(store: ObjectStore, name: str) -> Any:
    """The content of a small JSON object; None where there is none."""
    content = store.read(name)
    try:
        return None if content is None else json.loads(content)
    except ValueError as error:
        raise GenrecError(f"{store.url}/{name}: not valid JSON") from error


@dataclass(frozen=True)
class Version:
    """A version of an asset, as a storage has it.

    Args:
        version: its folder's name.
        whole: whether its manifest is there.
        written: when its newest file was.
    """

    version: str
    whole: bool
    written: datetime


def all_assets(root: Path | None = None) -> list[str]:
    """The names of what was ever built in a storage, a partition as ``asset/partition``."""
    root = root or storage_root()
    remote = _remote_of(root)
    if remote is None:
        found = [path.relative_to(root).as_posix() for at in ("*", "*/*") for path in root.glob(f"{at}/{LATEST}")]
    else:
        found = [name.removeprefix(remote[1]) for name in remote[0].listing(remote[1])]
    names = [name.removesuffix(f"/{LATEST}") for name in found if name.endswith(f"/{LATEST}")]
    return sorted(name for name in names if _is_asset(name.split("/")))


def _is_asset(parts: list[str]) -> bool:
    """Whether these are names of folders; in a bucket any name can stand."""
    return len(parts) <= 2 and all(part and not part.startswith(".") for part in parts)


def all_versions(asset: str, root: Path | None = None) -> list[Version]:
    """The versions of ``asset`` in a storage, in no order; also those that were never finished."""
    root = root or storage_root()
    written: dict[str, list[tuple[str, datetime]]] = {}
    remote = _remote_of(root)
    if remote is None:
        for path in (root / asset).glob("[!.]*/**/*"):
            name, _, file = path.relative_to(root / asset).as_posix().partition("/")
            if path.is_file():
                written.setdefault(name, []).append((file, datetime.fromtimestamp(path.stat().st_mtime, UTC)))
    else:
        store, below = remote
        for found, facts in store.listing(f"{below}{asset}/").items():
            name, _, file = found.removeprefix(f"{below}{asset}/").partition("/")
            if file and not name.startswith("."):
                written.setdefault(name, []).append((file, facts.modified))
    return [
        Version(name, MANIFEST in (file for file, _ in files), max(when for _, when in files))
        for name, files in written.items()
    ]


def remove_version(asset: str, version: str, root: Path | None = None) -> None:
    """Remove a version, its manifest first, so that a removal that is cut off leaves nothing that looks whole.

    Raises:
        GenrecError: ``version`` is not a plain folder name, or cannot be removed.
    """
    root = root or storage_root()
    folder, remote = root / asset / version, _remote_of(root)
    _require_plain_name(version, root / asset)
    if remote is not None:
        store, below = remote
        prefix = f"{below}{asset}/{version}/"
        store.delete([f"{prefix}{MANIFEST}"])
        store.delete(list(store.listing(prefix)))
    try:
        (folder / MANIFEST).unlink(missing_ok=True)
        if folder.exists():
            shutil.rmtree(folder)
    except OSError as error:
        raise GenrecError(f"{folder}: cannot be removed ({error.strerror or error}); check who owns it") from error


def write_shared(path: Path, content: Any) -> None:
    """Write a JSON file that may change, and which no manifest names: first to the bucket that its storage mirrors.

    Hold its folder's :func:`~genrec_core.storage.artifacts.locked_place`.

    Raises:
        GenrecError: it cannot be put there; then it is not written here either.
    """
    shared = _shared(path)
    with atomic_file(path) as part:
        write_json(part, content)
        if shared is not None:
            shared[0].upload(part, shared[1])


def refresh_shared(path: Path) -> None:
    """Bring such a file up to date with the bucket that its storage mirrors; hold the same lock."""
    shared = _shared(path)
    if shared is not None and shared_is_there(path):
        shared[0].download(shared[1], path)


def shared_is_there(path: Path) -> bool:
    """Whether there is such a file, in the bucket if its storage mirrors one."""
    shared = _shared(path)
    return path.is_file() if shared is None else shared[1] in shared[0].listing(shared[1])


def _shared(path: Path) -> tuple[ObjectStore, str] | None:
    """The bucket that mirrors a file's storage, and the file's name there."""
    path = path.resolve()  # a link may lead into the mirror
    root = next((root for root in path.parents if (root / _REMOTE).is_file()), None)
    return None if root is None else (_store_of(root), path.relative_to(root).as_posix())


def _mirror(store: ObjectStore) -> Path:
    base = Path(os.environ.get(MIRROR_VARIABLE) or DEFAULT_MIRROR).expanduser().absolute()
    root = base / store.bucket / store.prefix
    if not (root / _REMOTE).is_file():
        write_json(root / _REMOTE, {"url": store.url})
    return root


def _store_of(root: Path) -> ObjectStore:
    return ObjectStore(read_json(root / _REMOTE)["url"])


def _remote_of(root: Path) -> tuple[ObjectStore, str] | None:
    """What ``root`` mirrors, and the prefix of ``root`` in it: partitions lie one folder below the storage's root."""
    for base, below in ((root, ""), (root.parent, f"{root.name}/")):
        if (base / _REMOTE).is_file():
            return _store_of(base), below
    return None


def _refresh(pointer: Path, root: Path) -> None:
    """Bring the mirror's ``latest.json`` up to date."""
    remote = _remote_of(root)
    if remote is None:
        return
    asset = pointer.parent.name
    found = _json_in(remote[0], f"{remote[1]}{asset}/{LATEST}")
    if found is None:
        pointer.unlink(missing_ok=True)
        return
    if isinstance(found, dict) and _MOVE in found:
        _, found["version"] = _last_move(asset, *remote)
    write_json(pointer, found)


def _obtain(asset: str, version: str, root: Path) -> bool:
    """Whether the version is here, once it was fetched where it lies elsewhere."""
    folder, remote = root / asset / version, _remote_of(root)
    if remote is None:
        return recovered(folder).is_dir()
    store, below = remote
    prefix = f"{below}{asset}/{version}/"
    found = [name.removeprefix(prefix) for name in store.listing(prefix)]
    if MANIFEST not in found:
        return False
    for name in found:
        _require_inside(name, f"{store.url}/{prefix}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked_folder(folder.parent):  # of two processes that want a version, one fetches it
        if not (recovered(folder) / MANIFEST).is_file():
            with atomic_folder(folder) as part:
                for name in found:
                    store.download(prefix + name, part / name)
                verify_manifest(part)
            return True
    fixed = read_json(folder / MANIFEST)["files"]
    for name in found:
        if name not in fixed and Path(name).name != MANIFEST:  # such a file may change
            with locked_place((folder / name).parent):  # it may be about to change here
                store.download(prefix + name, folder / name)
    return True


def _put(asset: str, version: str, root: Path, store: ObjectStore, below: str) -> None:
    folder = root / asset / version
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / MANIFEST]
    for path in [*files, folder / MANIFEST]:
        store.upload(path, f"{below}{path.relative_to(root).as_posix()}")


def _require_inside(name: str, where: str) -> None:
    if name.startswith("/") or ".." in Path(name).parts:
        raise GenrecError(f"{where}{name}: this name would leave the folder; remove the object")


def _version_in(pointer: Path) -> str:
    return _named_version(read_json(pointer), str(pointer))


def _named_version(content: Any, pointer: str) -> str:
    version = content.get("version") if isinstance(content, dict) else None
    if not isinstance(version, str):
        raise GenrecError(f'{pointer}: wanted {{"version": "..."}}, found {content!r:.80}; build the asset again')
    _require_plain_name(version, pointer)
    return version


def _require_plain_name(version: str, pointer: Path | str) -> None:
    if not version or version in {".", ".."} or Path(version).name != version:
        raise GenrecError(
            f"{pointer}: version {version!r} is not the name of a folder beside it; build the asset again"
        )
