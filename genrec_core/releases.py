"""Releases: a model with all that belongs to it, written once and never changed, and which of them is served.

``model_release/{version}/`` holds a release. The newest ``served_release`` holds ``pointer.json``, which names the
version that is served; it moves, and moves back, by being written anew.
"""

import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genrec_core.artifacts import atomic_folder, read_json, write_json, write_manifest
from genrec_core.errors import GenrecError
from genrec_core.inference.model_folder import WITHDRAWN
from genrec_core.storage import LATEST, is_there, latest, set_latest, storage_root, version_folder

if TYPE_CHECKING:
    import numpy as np

    from genrec_core.inference.new_items import NewItems

RELEASES, SERVED = "model_release", "served_release"
MODEL, CHECKPOINT, SEMANTIC_IDS, METRICS = "model", "checkpoint", "semantic_ids", "metrics"
FACTS, POINTER, PROFILE = "release.json", "pointer.json", "profile.json"


@dataclass(frozen=True)
class Pointer:
    """Which release is served.

    Args:
        version: its folder's name below ``model_release``.
        before: what was served before it, oldest first; going back takes from its end.
        known: every version that was ever served, oldest first.
        reason: why it was moved here.
    """

    version: str
    before: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    reason: str = ""

    def moved(self, version: str, reason: str) -> "Pointer":
        """The pointer once ``version`` is served; one that is served already keeps its history."""
        if version == self.version:
            return Pointer(version, self.before, self.known, reason)
        if version in self.before:
            return Pointer(version, self.before[: self.before.index(version)], self.known, reason)
        return Pointer(version, (*self.before, self.version), tuple(dict.fromkeys((*self.known, version))), reason)

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
    write_json(folder / POINTER, asdict(pointer))


def read_pointer(folder: Path) -> Pointer:
    """The content of ``pointer.json``.

    Raises:
        GenrecError: it is missing or of another form.
    """
    content = read_json(folder / POINTER)
    try:
        return Pointer(content["version"], tuple(content["before"]), tuple(content["known"]), content["reason"])
    except (KeyError, TypeError) as error:
        raise GenrecError(f"{folder / POINTER}: no pointer to a release ({error!r}); serve a release again") from error


def served_pointer(root: Path | None = None) -> Pointer | None:
    """What is served now; None before the first release.

    Args:
        root: the storage to look in; :func:`~genrec_core.storage.storage_root` where None.
    """
    if not is_there(SERVED, root):
        return None
    return read_pointer(latest(SERVED, root))


def served_release(root: Path | None = None) -> Path:
    """The folder of the release that is served.

    Raises:
        GenrecError: nothing was released yet, or its folder is gone.
    """
    pointer = served_pointer(root)
    if pointer is None:
        raise GenrecError(
            f"no release is served yet: no {(root or storage_root()) / SERVED / LATEST}; run `make run`, or name an "
            "exported model with --model_dir"
        )
    return version_folder(RELEASES, pointer.version, root)


def served_model(root: Path | None = None) -> Path:
    """The exported model of the release that is served.

    Raises:
        GenrecError: as :func:`served_release`.
    """
    return served_release(root) / MODEL


def serve(pointer: Pointer, root: Path) -> None:
    """Make ``pointer`` what is served in a storage, as a new version of ``served_release``."""
    name = str(uuid.uuid4())
    with atomic_folder(root / SERVED / name) as part:
        write_pointer(part, pointer)
        write_manifest(part)
    set_latest(SERVED, name, root)


def add_to_served(new: "NewItems", vectors: "np.ndarray", root: Path | None = None) -> tuple[str, "np.ndarray"]:
    """Serve a successor of the served release whose model and semantic IDs hold new items too.

    The release before stays what it was and can be gone back to. Withdrawn items stay withdrawn.

    Args:
        new, vectors: as for :func:`genrec_core.inference.item_additions.add_items`.
        root: the storage; :func:`~genrec_core.storage.storage_root` where None.

    Returns:
        The successor's version, and the codes of the new items.

    Raises:
        GenrecError: nothing is served, or as :func:`genrec_core.inference.item_additions.add_items`.
    """
    from genrec_core.inference.item_additions import add_items
    from genrec_core.quantization.semantic_ids import assign_ids

    root, version = root or storage_root(), str(uuid.uuid4())
    release, before = served_release(root), served_pointer(root)
    assert before is not None
    added = new.item_ids.tolist()
    with atomic_folder(root / RELEASES / version) as part:
        codes = add_items(release / MODEL, new, vectors, part / MODEL)
        (part / MODEL / WITHDRAWN).unlink(missing_ok=True)
        assign_ids(release / SEMANTIC_IDS, added, vectors, part / SEMANTIC_IDS)
        for name in (CHECKPOINT, METRICS):
            shutil.copytree(release / name, part / name, copy_function=_link_or_copy)
        if (release / PROFILE).is_file():
            shutil.copyfile(release / PROFILE, part / PROFILE)
        facts = {"version": version, "items_added_to": before.version, "items_added": added}
        write_json(part / FACTS, read_json(release / FACTS) | facts)
        write_manifest(part)
    set_latest(RELEASES, version, root)
    carry_withdrawn(release / MODEL, root / RELEASES / version / MODEL)
    serve(before.moved(version, f"{len(added)} items added to {before.version}"), root)
    return version, codes


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
        GenrecError: as :func:`genrec_core.inference.withdrawn.withdraw`.
    """
    import numpy as np

    from genrec_core.inference.withdrawn import read_withdrawn, withdraw

    ids = [np.load(model / "item_ids.npy", allow_pickle=False) for model in (source, target)]
    items = np.intersect1d(read_withdrawn(source, ids[0]), ids[1])
    if len(items):
        withdraw(target, items)
    return len(items)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copy2(source, target)
