"""Releases taken from one storage to another, and old versions removed from one."""

import json
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from genrec_core.errors import GenrecError
from genrec_core.releases.pointer import CHECKPOINT, RELEASES, first_pointer, serve, served_pointer
from genrec_core.storage.artifacts import atomic_folder, verify_manifest
from genrec_core.storage.folders import (
    all_assets,
    all_versions,
    is_there,
    latest,
    place_of,
    point_latest,
    put_version,
    read_small,
    remove_version,
    version_folder,
)


def transfer_release(source: Path, target: Path, version: str | None = None, reason: str | None = None) -> str:
    """Copy a release that is or was served from one storage to another, verified, and serve it there.

    What the other storage holds already is not sent again. Nothing is served there before the release is whole.

    Args:
        source: root of a storage, see :func:`genrec_core.storage.folders.storage_root`.
        target: root of the other.
        version: a version that was served in ``source``; None for the one that is.
        reason: as kept with the pointer.

    Returns:
        The version.

    Raises:
        ServedMeanwhileError: another release was served in ``target`` meanwhile; this one is whole there, not served.
        GenrecError: nothing was served in ``source``, or not this; a file differs from its manifest; a storage refuses.
    """
    if source == target:
        raise GenrecError(f"{place_of(source)}: a release cannot be taken to where it is; name another storage")
    pointer = served_pointer(source)
    if pointer is None:
        raise GenrecError(
            f"{place_of(source)}: no release is served there, so there is none to take; run `make run` first"
        )
    if version is not None and version not in pointer.known:
        raise GenrecError(
            f"{version} was never served in {place_of(source)}, so no gate let it pass; take one of "
            f"{', '.join(pointer.known)}"
        )
    version = version or pointer.version
    folder = version_folder(RELEASES, version, source)
    verify_manifest(folder)
    if version not in (held.version for held in all_versions(RELEASES, target) if held.whole):
        with atomic_folder(target / RELEASES / version) as part:
            shutil.copytree(folder, part, dirs_exist_ok=True)
            verify_manifest(part)
        put_version(RELEASES, version, target)
    before = served_pointer(target)
    if before is None or before.version != version:
        reason = reason or f"taken from {place_of(source)}"
        point_latest(RELEASES, version, target)  # before it is served: where this is cut off, the next call serves it
        serve(before.moved(version, reason) if before else first_pointer(version, reason), target)
    return version


@dataclass(frozen=True)
class Removed:
    """A version that :func:`clean` removed.

    Args:
        asset: the asset, with its partition where it has some.
        version: the version's name.
        whole: False for what was never finished.
    """

    asset: str
    version: str
    whole: bool


def clean(root: Path, keep: int, least_age: timedelta) -> list[Removed]:
    """Remove old versions: of each asset all but the newest ``keep``, and what was never finished.

    The version that ``latest.json`` names stays, and of releases those that are served, or were just before: as many as
    ``keep``. So does the one whose training reached the highest validation Recall@10, as new releases are compared with
    the best. What is younger than ``least_age`` stays too, as a run may be reading or writing it.

    Args:
        root: the storage.
        keep: versions to keep of each, at least 1.
        least_age: see above.

    Raises:
        GenrecError: a version cannot be removed.
    """
    removed = []
    served = served_pointer(root)
    for asset in all_assets(root):
        name, base = Path(asset).name, root / Path(asset).parent
        newest = sorted(all_versions(name, base), key=lambda held: held.written, reverse=True)
        kept = {held.version for held in [held for held in newest if held.whole][:keep]}
        if is_there(name, base):
            kept.add(latest(name, base).name)
        if asset == RELEASES and served is not None:
            whole = {held.version for held in newest if held.whole}
            kept |= {
                served.version,
                *served.before[-keep:],
                *best_trained([v for v in served.known if v in whole], root),
            }
        for held in newest:
            if held.version not in kept and datetime.now(UTC) - held.written >= least_age:
                remove_version(name, held.version, base)
                removed.append(Removed(asset, held.version, held.whole))
    return removed


def best_trained(versions: Sequence[str], root: Path) -> list[str]:
    """The release whose training reached the highest validation Recall@10; none where no release says."""
    recall: dict[str, float] = {}
    for version in versions:
        history = read_small(RELEASES, version, f"{CHECKPOINT}/training_history.json", root)
        with suppress(ValueError, KeyError, TypeError):  # there is none, or it is damaged
            recall[version] = float(json.loads(history or b"")["best_recall@10"])
    return [max(recall, key=recall.__getitem__)] if recall else []
