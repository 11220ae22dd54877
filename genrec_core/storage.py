"""Where finished artefacts lie: ``{root}/{asset}/{version}/``, and ``latest.json`` beside them names the newest.

The root is a folder. Where ``GENREC_STORAGE`` is an ``s3://`` address it is this machine's mirror of that prefix: what
is asked for is fetched, what is finished is put there, its ``manifest.json`` last, then ``latest.json``. Versions never
change, so one that was fetched before is not fetched again.
"""

import json
import os
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from genrec_core.artifacts import MANIFEST, atomic_folder, locked_folder, read_json, verify_manifest, write_json
from genrec_core.errors import GenrecError
from genrec_core.object_store import SCHEME, ObjectStore
from genrec_core.redact import without_secrets

ROOT_VARIABLE, MIRROR_VARIABLE = "GENREC_STORAGE", "GENREC_MIRROR"
DEFAULT_ROOT, DEFAULT_MIRROR = Path(".genrec") / "storage", Path(".genrec") / "mirror"
LATEST = "latest.json"
_REMOTE = ".remote.json"


class NotBuiltError(GenrecError):
    """There is no version of an asset yet."""


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


def set_latest(asset: str, version: str, root: Path | None = None) -> None:
    """Make ``version`` the newest of ``asset``; call it once the version is whole on disk.

    Raises:
        GenrecError: ``version`` is not a plain folder name, or cannot be put where this storage is the mirror of; then
            it is removed here too, and what was the newest stays.
    """
    root = root or storage_root()
    pointer = root / asset / LATEST
    _require_plain_name(version, pointer)
    remote = _remote_of(root)
    if remote is not None:
        try:
            _put(asset, version, root, *remote)
        except GenrecError:
            shutil.rmtree(root / asset / version, ignore_errors=True)
            raise
    write_json(pointer, {"version": version})
    if remote is not None:
        remote[0].upload(pointer, f"{remote[1]}{asset}/{LATEST}")


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
            if file:
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


def share(path: Path) -> None:
    """Put a file that may change, and which no manifest names, where its storage is the mirror of; else do nothing.

    Raises:
        GenrecError: it cannot be put there.
    """
    for root in path.parents:
        if (root / _REMOTE).is_file():
            _store_of(root).upload(path, path.relative_to(root).as_posix())
            return


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
    content = remote[0].read(f"{remote[1]}{pointer.parent.name}/{LATEST}")
    if content is None:
        pointer.unlink(missing_ok=True)
        return
    try:
        found = json.loads(content)
    except ValueError as error:
        raise GenrecError(f"{remote[0].url}/{remote[1]}{pointer.parent.name}/{LATEST}: not valid JSON") from error
    write_json(pointer, found)


def _obtain(asset: str, version: str, root: Path) -> bool:
    """Whether the version is here, once it was fetched where it lies elsewhere."""
    folder, remote = root / asset / version, _remote_of(root)
    if remote is None:
        return folder.is_dir()
    store, below = remote
    prefix = f"{below}{asset}/{version}/"
    found = [name.removeprefix(prefix) for name in store.listing(prefix)]
    if MANIFEST not in found:
        return False
    for name in found:
        _require_inside(name, f"{store.url}/{prefix}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked_folder(folder.parent):  # of two processes that want a version, one fetches it
        if not (folder / MANIFEST).is_file():
            with atomic_folder(folder) as part:
                for name in found:
                    store.download(prefix + name, part / name)
                verify_manifest(part)
            return True
        fixed = read_json(folder / MANIFEST)["files"]
        for name in found:
            if name not in fixed and Path(name).name != MANIFEST:  # such a file may change
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
    content = read_json(pointer)
    version = content.get("version") if isinstance(content, dict) else None
    if not isinstance(version, str):
        raise GenrecError(f'{pointer}: wanted {{"version": "..."}}, found {content!r:.80}; build the asset again')
    _require_plain_name(version, pointer)
    return version


def _require_plain_name(version: str, pointer: Path) -> None:
    if not version or version in {".", ".."} or Path(version).name != version:
        raise GenrecError(
            f"{pointer}: version {version!r} is not the name of a folder beside it; build the asset again"
        )
