"""The releases of a storage: copies them to another, removes old ones, and chooses what a new one is compared with."""

import json
import shutil
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from genrec_core.errors import GenrecError
from genrec_core.releases.pointer import (
    CHECKPOINT,
    RELEASES,
    Pointer,
    first_pointer,
    measured_in,
    serve,
    served_pointer,
)
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

_COMPARED = 5  # newest earlier releases that a new one is compared with


def transfer_release(source: Path, target: Path, version: str | None = None, reason: str | None = None) -> str:
    """Copy a release that is or was served from one storage to another, verify it, and serve it there.

    A release that the other storage holds already is not sent again. It is served only once it is whole there. If
    another release was served in ``target`` meanwhile, a ServedMeanwhileError is raised: this one is there, but not
    served.

    ``source`` and ``target`` are the roots of the storages; without a ``version``, the served one is taken.
    """
    if source == target:
        raise GenrecError(f"{place_of(source)}: a release cannot be taken to where it is; name another storage")
    pointer = served_pointer(source)
    if pointer is None:
        raise GenrecError(f"{place_of(source)}: no release is served there to take; run `make run` first")
    if version is not None and version not in pointer.known:
        passed = f"one of {', '.join(pointer.known)}"
        raise GenrecError(f"{version} was never served in {place_of(source)}, so no gate let it pass; take {passed}")
    version = version or pointer.version
    folder = version_folder(RELEASES, version, source)
    verify_manifest(folder)
    if not any(there.version == version and there.whole for there in all_versions(RELEASES, target)):
        with atomic_folder(target / RELEASES / version) as part:
            shutil.copytree(folder, part, dirs_exist_ok=True)
            verify_manifest(part)
        put_version(RELEASES, version, target)
    before = served_pointer(target)
    if before is None or before.version != version:
        reason = reason or f"taken from {place_of(source)}"
        point_latest(RELEASES, version, target)  # first, so that a second call serves the release if this one dies here
        serve(before.moved(version, reason) if before else first_pointer(version, reason), target)
    return version


class Removed(NamedTuple):
    """A version that :func:`clean` removed."""

    asset: str  # with a partition where it has some
    version: str
    whole: bool  # whether it was complete


def clean(root: Path, keep: int, least_age: timedelta) -> list[Removed]:
    """Remove old versions: of each asset all but the newest ``keep``, and what was never finished.

    These stay too: the version that ``latest.json`` names, the served release and up to ``keep`` releases served just
    before it, and the release whose training reached the highest validation Recall@10, because new releases are
    compared with the best. A run may be reading or writing what is younger than ``least_age``, so that stays as well.
    """
    removed = []
    for asset in all_assets(root):
        name, base = Path(asset).name, root / Path(asset).parent
        versions = sorted(all_versions(name, base), key=lambda version: version.written, reverse=True)
        whole = [version.version for version in versions if version.whole]
        kept = set(whole[:keep])
        if is_there(name, base):
            kept.add(latest(name, base).name)
        if asset == RELEASES and (served := served_pointer(root)):
            known = [version for version in served.known if version in whole]
            kept |= {served.version, *served.before[-keep:], *_best_trained(known, root)}
        for version in versions:
            if version.version not in kept and datetime.now(UTC) - version.written >= least_age:
                remove_version(name, version.version, base)
                removed.append(Removed(asset, version.version, version.whole))
    return removed


def compared_models(served: Pointer, root: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """What a new release is compared with: measured models by version, and why an earlier one cannot be fetched.

    These are the served release first, the newest releases before it, and the one whose training reached the best
    validation recall. Others are left out, as each model is opened and ranks items for all users of the comparison.
    """
    whole = {version.version for version in all_versions(RELEASES, root) if version.whole}
    before = [version for version in served.known if version != served.version and version in whole]
    models = {served.version: measured_in(version_folder(RELEASES, served.version, root))}
    damaged: dict[str, str] = {}
    for version in dict.fromkeys([*before[-_COMPARED:], *_best_trained(before, root)]):
        try:
            models[version] = measured_in(version_folder(RELEASES, version, root))
        except GenrecError as error:
            damaged[version] = str(error)
    return models, damaged


def _best_trained(versions: Sequence[str], root: Path) -> list[str]:
    """The release whose training reached the highest validation Recall@10; none if no release says."""
    recalls: dict[str, float] = {}
    for version in versions:
        history = read_small(RELEASES, f"{version}/{CHECKPOINT}/training_history.json", root)
        with suppress(ValueError, KeyError, TypeError):  # there is none, or it is damaged
            recalls[version] = float(json.loads(history or b"")["best_recall@10"])
    return [max(recalls, key=recalls.__getitem__)] if recalls else []
