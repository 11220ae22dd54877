"""Releases: a model with all that belongs to it, written once and never changed, and which of them is served.

``model_release/{version}/`` holds a release. The newest ``served_release`` holds ``pointer.json``, which names the
version that is served. To move it, forward or back, a new ``served_release`` is written.

Functions import NumPy themselves, because the process that answers requests has none.
"""

import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genrec_core.bundle.model_folder import ModelFolder, Withdrawal
from genrec_core.data.ids import AnyId, id_array
from genrec_core.errors import GenrecError
from genrec_core.storage.artifacts import LOCK, atomic_folder, locked, read_json, write_json, write_manifest
from genrec_core.storage.folders import (
    LATEST,
    MovedError,
    is_there,
    latest,
    move_latest,
    point_latest,
    put_version,
    remove_version,
    shared_is_there,
    storage_root,
    version_folder,
)

if TYPE_CHECKING:
    import numpy as np

    from genrec_core.bundle.new_items import NewItems

RELEASES, SERVED = "model_release", "served_release"
MODEL, CHECKPOINT, SEMANTIC_IDS, METRICS = "model", "checkpoint", "semantic_ids", "metrics"
MEASURED = "measured"  # the exported model that was measured, where the served one was trained again on everything
FACTS, POINTER, PROFILE = "release.json", "pointer.json", "profile.json"


class ServedMeanwhileError(GenrecError):
    """Another release was served while this one was prepared."""


@dataclass(frozen=True)
class Pointer:
    """Which release is served."""

    version: str  # its folder's name below ``model_release``
    before: tuple[str, ...] = ()  # the releases served before it, oldest first; going back takes the last one
    known: tuple[str, ...] = ()  # all versions that were ever served, oldest first
    reason: str = ""  # why it is served
    follows: str = ""  # the version of ``served_release`` that this one replaces; empty if nothing was served
    name: str = field(default="", compare=False)  # its own version of ``served_release``; empty before it has one

    def moved(self, version: str, reason: str) -> "Pointer":
        """The pointer to ``version``. If that was served before, what came after it leaves the history."""
        before, known = (*self.before, self.version), tuple(dict.fromkeys((*self.known, version)))
        if version in before:
            before = before[: before.index(version)]
        return Pointer(version, before, known, reason, follows=self.name)

    def moved_back(self, to: str | None, reason: str) -> "Pointer":
        """The pointer to the earlier release ``to``, or to the one before this; it must have been served."""
        if to is None and not self.before:
            raise GenrecError(f"{self.version} is the first release, so there is none to go back to")
        if to is not None and to not in self.known:
            raise GenrecError(f"{to} was never served; go back to one of {', '.join(self.known)}")
        return self.moved(to or self.before[-1], reason)


def first_pointer(version: str, reason: str) -> Pointer:
    """The pointer to the first release of a storage."""
    return Pointer(version, (), (version,), reason)


def write_pointer(folder: Path, pointer: Pointer) -> None:
    """Write ``pointer.json`` into a new version of ``served_release``."""
    write_json(folder / POINTER, {name: value for name, value in asdict(pointer).items() if name != "name"})


def read_pointer(folder: Path) -> Pointer:
    """The content of ``pointer.json``."""
    content = read_json(folder / POINTER)
    try:
        before, known = tuple(content["before"]), tuple(content["known"])
        follows = content.get("follows", "")  # older pointers have none
        return Pointer(content["version"], before, known, content["reason"], follows, folder.name)
    except (AttributeError, KeyError, TypeError) as error:
        raise GenrecError(f"{folder / POINTER}: no pointer to a release ({error!r}); serve a release again") from error


def served_pointer(root: Path | None = None) -> Pointer | None:
    """The pointer to the served release of a storage (:func:`storage_root` by default); None before the first one."""
    return read_pointer(latest(SERVED, root)) if is_there(SERVED, root) else None


def require_pointer(root: Path | None = None) -> Pointer:
    """The pointer to the served release; it is an error if no release is served yet."""
    pointer = served_pointer(root)
    if pointer is None:
        place = (root or storage_root()) / SERVED / LATEST
        raise GenrecError(f"no release is served yet: no {place}; run `make run`, or name a model with --model_dir")
    return pointer


def served_release(root: Path | None = None) -> Path:
    """The folder of the served release; it is an error if no release is served yet, or the folder is gone."""
    return version_folder(RELEASES, require_pointer(root).version, root)


def served_model(root: Path | None = None) -> Path:
    """The exported model in :func:`served_release`."""
    return served_release(root) / MODEL


def served_in(folder: Path) -> Path:
    """The exported model that is served, in a release or in ``onnx_encoder``."""
    return folder / MODEL if (folder / MODEL).is_dir() else folder


def release_in(place: Path | str | None) -> Path:
    """Where the exported model of a place is now.

    ``place`` is a model folder, a link to one, a release, or the folder of an asset such as ``onnx_encoder``, which
    stands for its newest version; None for the release that is served.
    """
    if place is None:
        return served_model()
    folder = Path(place).expanduser()
    return served_in(latest(folder.name, folder.parent) if (folder / LATEST).is_file() else folder)


def measured_in(folder: Path) -> Path:
    """The exported model that was measured, in a release or in ``onnx_encoder``; others are compared with it."""
    return folder / MEASURED if (folder / MEASURED).is_dir() else served_in(folder)


def serve(pointer: Pointer, root: Path) -> None:
    """Write a pointer as a new version of ``served_release``, and :func:`move_served` to it."""
    name = str(uuid.uuid4())
    with atomic_folder(root / SERVED / name) as part:
        write_pointer(part, pointer)
        write_manifest(part)
    move_served(name, root)


def move_served(name: str, root: Path) -> None:
    """Serve the release that ``name``, a complete version of ``served_release``, points to.

    Items withdrawn from the release before are withdrawn from this one before anybody can read it. If another release
    was served after the pointer was made, ``name`` is removed and a ServedMeanwhileError raised.
    """
    pointer = read_pointer(root / SERVED / name)
    with locked(root / LOCK):
        before = served_pointer(root)
        try:
            require_served(pointer.follows, root)
            put_version(SERVED, name, root)
            _carry(before, pointer, root)
            move_latest(SERVED, name, pointer.follows or None, root)
        except (MovedError, ServedMeanwhileError) as error:
            if before is None or name != before.name:
                remove_version(SERVED, name, root)
            raise _served_meanwhile(root) from error
        _carry(before, pointer, root)  # items that another machine, or a command that names the folder, withdrew so far


def require_served(follows: str, root: Path) -> None:
    """Raise ServedMeanwhileError unless the version ``follows`` of ``served_release`` is still the served one."""
    now = served_pointer(root)
    if (now.name if now else "") != follows:
        raise _served_meanwhile(root)


def _served_meanwhile(root: Path) -> ServedMeanwhileError:
    now = served_pointer(root)
    event = f"release {now.version} was served" if now else "the pointer was removed"
    return ServedMeanwhileError(
        f"{root / SERVED}: {event} while this ran, so nothing was moved; run it again, so that it goes from there"
    )


def _carry(before: Pointer | None, after: Pointer, root: Path) -> None:
    """Withdraw from the next release the items withdrawn from the one before; without any, that is not fetched."""
    if before is None or before.version == after.version:
        return
    if shared_is_there(ModelFolder(root / RELEASES / before.version / MODEL).withdrawn_list):
        source, target = (version_folder(RELEASES, pointer.version, root) / MODEL for pointer in (before, after))
        carry_withdrawn(source, target)


def release_of(model_dir: Path) -> str | None:
    """The version of the release that a model folder lies in; None where it lies in none."""
    release = model_dir.parent
    return release.name if model_dir.name == MODEL and (release / FACTS).is_file() else None


def withdraw_from_served(
    items: "np.ndarray", restore: bool = False, root: Path | None = None
) -> tuple[Path, Withdrawal]:
    """Withdraw items from the served model, or restore them; if another model is served meanwhile, in that one too."""
    root = root or storage_root()
    with locked(root / LOCK):
        while True:
            release = served_release(root)
            done = ModelFolder(release / MODEL).withdraw(items, restore)
            if served_release(root) == release:  # else another machine has moved the pointer of the bucket
                return release / MODEL, done


def add_to_served(
    new: "NewItems", vectors: "np.ndarray", before: Pointer, root: Path | None = None
) -> tuple[str, "np.ndarray"]:
    """Serve a successor of a release whose model and semantic IDs hold new items too; its version, and their codes.

    Withdrawn items stay withdrawn. If another release than ``before`` is served by now, the successor is removed and a
    ServedMeanwhileError raised. For ``new`` and ``vectors`` see :func:`genrec_core.bundle.item_additions.add_items`.
    """
    root, version = root or storage_root(), str(uuid.uuid4())
    codes = _write_successor(new, vectors, version_folder(RELEASES, before.version, root), root / RELEASES / version)
    put_version(RELEASES, version, root)
    try:
        serve(before.moved(version, f"{len(new.item_ids)} items added to {before.version}"), root)
    except ServedMeanwhileError:
        remove_version(RELEASES, version, root)
        raise
    point_latest(RELEASES, version, root)
    return version, codes


def _write_successor(new: "NewItems", vectors: "np.ndarray", release: Path, target: Path) -> "np.ndarray":
    """Write a release that holds new items too, without a list of withdrawn ones."""
    from genrec_core.bundle.item_additions import add_items
    from genrec_core.quantization.update import assign_ids

    added = new.item_ids.tolist()
    with atomic_folder(target) as part:
        codes = add_items(release / MODEL, new, vectors, part / MODEL)
        if (release / MEASURED).is_dir():
            add_items(release / MEASURED, new, vectors, part / MEASURED)
        assign_ids(release / SEMANTIC_IDS, added, vectors, part / SEMANTIC_IDS)
        if (release / PROFILE).is_file():
            shutil.copyfile(release / PROFILE, part / PROFILE)
        facts = {"version": target.name, "items_added_to": release.name, "items_added": added}
        unchanged = {name: release / name for name in (CHECKPOINT, METRICS)}
        write_release(part, unchanged, read_json(release / FACTS) | facts)
        write_manifest(part)
    return codes


def write_release(folder: Path, parts: Mapping[str, Path], facts: Mapping[str, Any]) -> None:
    """Write the parts of a release and ``release.json`` into ``folder``.

    ``parts`` are folders by the name that they get in the release. Files are hard links where the file system has them,
    because artefacts never change in place. The list of withdrawn items does change, so it is left out.
    """
    for name, source in parts.items():
        shutil.copytree(source, folder / name, copy_function=_link_or_copy)
    ModelFolder(folder / MODEL).withdrawn_list.unlink(missing_ok=True)
    write_json(folder / FACTS, dict(facts))


def carry_withdrawn(source: Path, target: Path) -> int:
    """Withdraw from one exported model its items that are withdrawn from another; returns how many."""
    items = withdrawn_too(source, target)
    if items:
        ModelFolder(target).withdraw(id_array(items))
    return len(items)


def withdrawn_too(source: Path, target: Path) -> list[AnyId]:
    """The items that :func:`carry_withdrawn` would withdraw from ``target``; nothing is written."""
    known = set(ModelFolder(target).item_ids.tolist())
    return [item for item in ModelFolder(source).withdrawn() if item in known]


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copy2(source, target)
