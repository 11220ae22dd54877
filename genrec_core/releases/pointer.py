"""Releases: a model with all that belongs to it, written once and never changed, and which of them is served.

``model_release/{version}/`` holds a release. The newest ``served_release`` holds ``pointer.json``, which names the
version that is served; it moves, and moves back, by being written anew.
"""

import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genrec_core.bundle.model_folder import WITHDRAWN
from genrec_core.errors import GenrecError
from genrec_core.storage.artifacts import atomic_folder, read_json, write_json, write_manifest
from genrec_core.storage.folders import (
    LATEST,
    MovedError,
    is_there,
    latest,
    locked_storage,
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
    from genrec_core.bundle.withdrawn import Withdrawal

RELEASES, SERVED = "model_release", "served_release"
MODEL, CHECKPOINT, SEMANTIC_IDS, METRICS = "model", "checkpoint", "semantic_ids", "metrics"
FACTS, POINTER, PROFILE = "release.json", "pointer.json", "profile.json"


class ServedMeanwhileError(GenrecError):
    """Another release was served while one was made ready to be."""


@dataclass(frozen=True)
class Pointer:
    """Which release is served.

    Args:
        version: its folder's name below ``model_release``.
        before: what was served before it, oldest first; going back takes from its end.
        known: every version that was ever served, oldest first.
        reason: why it was moved here.
        follows: the version of ``served_release`` that it was moved from; empty if nothing was served.
        name: its own version of ``served_release``; empty before it has one.
    """

    version: str
    before: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    reason: str = ""
    follows: str = ""
    name: str = field(default="", compare=False)

    def moved(self, version: str, reason: str) -> "Pointer":
        """The pointer once ``version`` is served; one that is served already keeps its history."""
        before, known = (*self.before, self.version), tuple(dict.fromkeys((*self.known, version)))
        if version in before:
            before = before[: before.index(version)]
        return Pointer(version, before, known, reason, follows=self.name)

    def moved_back(self, to: str | None, reason: str) -> "Pointer":
        """The pointer once an earlier release is served again.

        Args:
            to: a version that was served; None for the one before this.
            reason: as kept.

        Raises:
            GenrecError: there is none before this, or ``to`` was never served.
        """
        if to is None and not self.before:
            raise GenrecError(f"{self.version} is the first release, so there is none to go back to")
        if to is not None and to not in self.known:
            raise GenrecError(f"{to} was never served; go back to one of {', '.join(self.known)}")
        return self.moved(to or self.before[-1], reason)


def first_pointer(version: str, reason: str) -> Pointer:
    """The pointer where nothing was served before."""
    return Pointer(version, (), (version,), reason)


def write_pointer(folder: Path, pointer: Pointer) -> None:
    """Write ``pointer.json`` into the folder of a new version of ``served_release``."""
    write_json(folder / POINTER, {name: value for name, value in asdict(pointer).items() if name != "name"})


def read_pointer(folder: Path) -> Pointer:
    """The content of ``pointer.json``.

    Raises:
        GenrecError: it is missing or of another form.
    """
    content = read_json(folder / POINTER)
    try:
        before, known = tuple(content["before"]), tuple(content["known"])
        follows = content.get("follows", "")  # older pointers have none
        return Pointer(content["version"], before, known, content["reason"], follows, folder.name)
    except (AttributeError, KeyError, TypeError) as error:
        raise GenrecError(f"{folder / POINTER}: no pointer to a release ({error!r}); serve a release again") from error


def served_pointer(root: Path | None = None) -> Pointer | None:
    """What is served now; None before the first release.

    Args:
        root: the storage to look in; :func:`~genrec_core.storage.folders.storage_root` where None.
    """
    if not is_there(SERVED, root):
        return None
    return read_pointer(latest(SERVED, root))


def require_pointer(root: Path | None = None) -> Pointer:
    """What is served now.

    Raises:
        GenrecError: nothing was released yet.
    """
    pointer = served_pointer(root)
    if pointer is None:
        raise GenrecError(
            f"no release is served yet: no {(root or storage_root()) / SERVED / LATEST}; run `make run`, or name an "
            "exported model with --model_dir"
        )
    return pointer


def served_release(root: Path | None = None) -> Path:
    """The folder of the release that is served.

    Raises:
        GenrecError: nothing was released yet, or its folder is gone.
    """
    return version_folder(RELEASES, require_pointer(root).version, root)


def served_model(root: Path | None = None) -> Path:
    """The exported model of the release that is served.

    Raises:
        GenrecError: as :func:`served_release`.
    """
    return served_release(root) / MODEL


def serve(pointer: Pointer, root: Path) -> None:
    """Make ``pointer`` what is served in a storage, as a new version of ``served_release``.

    Raises:
        ServedMeanwhileError: as :func:`move_served`.
    """
    name = str(uuid.uuid4())
    with atomic_folder(root / SERVED / name) as part:
        write_pointer(part, pointer)
        write_manifest(part)
    move_served(name, root)


def move_served(name: str, root: Path) -> None:
    """Make a version of ``served_release`` that is whole on disk what is served, if nothing was served meanwhile.

    What is withdrawn from the release so far is withdrawn from the next one before anybody can read it there.

    Raises:
        ServedMeanwhileError: what is served is no longer what the pointer was moved from; ``name`` is removed.
    """
    pointer = read_pointer(root / SERVED / name)
    with locked_storage(root):
        before = served_pointer(root)
        try:
            require_served(pointer.follows, root)
            put_version(SERVED, name, root)
            _carry(before, pointer, root)
            _move(name, pointer, root)
        except ServedMeanwhileError:
            if before is None or name != before.name:
                remove_version(SERVED, name, root)
            raise
        _carry(before, pointer, root)  # what another machine, or a command that names the folder, withdrew up to here


def require_served(follows: str, root: Path) -> None:
    """Refuse to go on where something was served meanwhile.

    Args:
        follows: the version of ``served_release`` that was read; empty if nothing was served.
        root: the storage.

    Raises:
        ServedMeanwhileError: another one is served now.
    """
    now = served_pointer(root)
    if (now.name if now else "") != follows:
        served = f"release {now.version} was served" if now else "the pointer was removed"
        raise ServedMeanwhileError(
            f"{root / SERVED}: {served} while this ran, so nothing was moved; run it again, so that it goes from there"
        )


def _move(name: str, pointer: Pointer, root: Path) -> None:
    try:
        move_latest(SERVED, name, pointer.follows or None, root)
    except MovedError:
        require_served(pointer.follows, root)  # says which release was served
        raise


def _carry(before: Pointer | None, after: Pointer, root: Path) -> None:
    """Withdraw from the next release what is withdrawn from the one before, which is not fetched without need."""
    if before is None or before.version == after.version:
        return
    if shared_is_there(root / RELEASES / before.version / MODEL / WITHDRAWN):
        source, target = (version_folder(RELEASES, pointer.version, root) / MODEL for pointer in (before, after))
        carry_withdrawn(source, target)


def withdraw_from_served(
    items: "np.ndarray", restore: bool = False, root: Path | None = None
) -> "tuple[Path, Withdrawal]":
    """Withdraw items from the release that is served, or restore them, whatever is served meanwhile.

    Args:
        items, restore: as for :func:`genrec_core.bundle.withdrawn.withdraw`.
        root: the storage; :func:`~genrec_core.storage.folders.storage_root` where None.

    Returns:
        The model, and what was done.

    Raises:
        GenrecError: nothing is served, or as :func:`genrec_core.bundle.withdrawn.withdraw`.
    """
    from genrec_core.bundle.withdrawn import withdraw

    root = root or storage_root()
    with locked_storage(root):
        while True:
            release = served_release(root)
            done = withdraw(release / MODEL, items, restore)
            if served_release(root) == release:  # else another machine has moved the pointer of the bucket
                return release / MODEL, done


def add_to_served(
    new: "NewItems", vectors: "np.ndarray", before: Pointer, root: Path | None = None
) -> tuple[str, "np.ndarray"]:
    """Serve a successor of a release whose model and semantic IDs hold new items too.

    The release before stays what it was and can be gone back to. Withdrawn items stay withdrawn.

    Args:
        new, vectors: as for :func:`genrec_core.bundle.item_additions.add_items`.
        before: what was served when the items were read.
        root: the storage; :func:`~genrec_core.storage.folders.storage_root` where None.

    Returns:
        The successor's version, and the codes of the new items.

    Raises:
        ServedMeanwhileError: another release was served meanwhile; the successor is removed.
        GenrecError: as :func:`genrec_core.bundle.item_additions.add_items`.
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
    """Write a release that holds new items too, without a list of withdrawn ones; the items' codes."""
    from genrec_core.bundle.item_additions import add_items
    from genrec_core.quantization.new_items import assign_ids

    added = new.item_ids.tolist()
    with atomic_folder(target) as part:
        codes = add_items(release / MODEL, new, vectors, part / MODEL)
        (part / MODEL / WITHDRAWN).unlink(missing_ok=True)
        assign_ids(release / SEMANTIC_IDS, added, vectors, part / SEMANTIC_IDS)
        for name in (CHECKPOINT, METRICS):
            shutil.copytree(release / name, part / name, copy_function=_link_or_copy)
        if (release / PROFILE).is_file():
            shutil.copyfile(release / PROFILE, part / PROFILE)
        facts = {"version": target.name, "items_added_to": release.name, "items_added": added}
        write_json(part / FACTS, read_json(release / FACTS) | facts)
        write_manifest(part)
    return codes


def write_release(folder: Path, parts: Mapping[str, Path], facts: Mapping[str, Any]) -> None:
    """Fill ``folder`` with the parts of a release and ``release.json``.

    Files are hard links where the file system has them: artefacts never change in place. Items withdrawn from the
    exported model are no part of it, as that list does change.

    Args:
        folder: an empty folder.
        parts: folders by the name that they get in the release.
        facts: what is known of the release, JSON values.
    """
    for name, source in parts.items():
        shutil.copytree(source, folder / name, copy_function=_link_or_copy, ignore=shutil.ignore_patterns(WITHDRAWN))
    write_json(folder / FACTS, dict(facts))


def carry_withdrawn(source: Path, target: Path) -> int:
    """Withdraw from one exported model what is withdrawn from another, as far as it holds it; how many items.

    Raises:
        GenrecError: as :func:`genrec_core.bundle.withdrawn.withdraw`.
    """
    from genrec_core.bundle.withdrawn import withdraw

    items = withdrawn_too(source, target)
    if len(items):
        withdraw(target, items)
    return len(items)


def withdrawn_too(source: Path, target: Path) -> "np.ndarray":
    """The items int64 [n] that :func:`carry_withdrawn` would withdraw from ``target``; nothing is written.

    NumPy is imported here, as the process that answers requests has none.

    Raises:
        GenrecError: the list of ``source`` is damaged.
    """
    import numpy as np

    from genrec_core.bundle.withdrawn import read_withdrawn

    ids = [np.load(model / "item_ids.npy", allow_pickle=False) for model in (source, target)]
    return np.intersect1d(read_withdrawn(source, ids[0]), ids[1])


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copy2(source, target)
