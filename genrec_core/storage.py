"""Where finished artefacts lie: ``{root}/{asset}/{version}/``, and ``latest.json`` beside them names the newest."""

import os
from pathlib import Path

from genrec_core.artifacts import read_json, write_json
from genrec_core.errors import GenrecError

ROOT_VARIABLE = "GENREC_STORAGE"
DEFAULT_ROOT = Path(".genrec") / "storage"
LATEST = "latest.json"


def storage_root() -> Path:
    """The folder that ``GENREC_STORAGE`` names (``.genrec/storage`` where it is unset), as an absolute path.

    Raises:
        GenrecError: it is a URL; artefacts are kept in folders only.
    """
    value = os.environ.get(ROOT_VARIABLE)
    if value and "://" in value:
        raise GenrecError(f"{ROOT_VARIABLE}={value}: not a folder; set it to a folder of this machine")
    return (Path(value).expanduser() if value else DEFAULT_ROOT).absolute()


def latest(asset: str, root: Path | None = None) -> Path:
    """The folder of the newest finished version of ``asset``.

    Args:
        asset: the asset's name, for example ``onnx_encoder``.
        root: the storage to look in; :func:`storage_root` where None.

    Raises:
        GenrecError: the asset was never built, or ``latest.json`` names a version that is not there.
    """
    pointer = (root or storage_root()) / asset / LATEST
    if not pointer.is_file():
        raise GenrecError(
            f"{asset} was never built: no {pointer}; run `make run`, or set {ROOT_VARIABLE} to the storage that has it"
        )
    folder = pointer.parent / _version_in(pointer)
    if not folder.exists():
        raise GenrecError(f"{pointer} names {folder.name}, but {folder} is missing; build {asset} again")
    return folder


def version_folder(asset: str, version: str, root: Path | None = None) -> Path:
    """The folder of one version of ``asset``, whether it is the newest or not.

    Raises:
        GenrecError: ``version`` is not a plain folder name, or that version is not in the storage.
    """
    store = (root or storage_root()) / asset
    _require_plain_name(version, store)
    if not (store / version).is_dir():
        raise GenrecError(f"{store}: no version {version} of {asset}; it was removed, or lies in another storage")
    return store / version


def set_latest(asset: str, version: str, root: Path | None = None) -> None:
    """Make ``version`` the newest of ``asset``; call it once the version is whole on disk.

    Raises:
        GenrecError: ``version`` is not a plain folder name.
    """
    pointer = (root or storage_root()) / asset / LATEST
    _require_plain_name(version, pointer)
    write_json(pointer, {"version": version})


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
