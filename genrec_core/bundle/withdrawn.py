"""Items taken out of an exported model without building it again: a list beside the model that can be undone.

The list is ``withdrawn.json`` in the model folder. The folder's manifest does not name it, for it changes while the
model stays as it was released; it holds a sha256 of its own instead.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from genrec_core.bundle.model_folder import WITHDRAWN
from genrec_core.errors import GenrecError
from genrec_core.storage.artifacts import MANIFEST, read_json, verify_manifest
from genrec_core.storage.folders import refresh_shared, write_shared
from genrec_core.storage.locks import locked_place

_SHOWN = 5


@dataclass(frozen=True)
class Withdrawal:
    """What :func:`withdraw` did.

    Args:
        changed: items that were withdrawn or restored now; the others already were.
        withdrawn: items that are withdrawn from now on.
        left: items that can still be recommended.
    """

    changed: int
    withdrawn: int
    left: int


def read_withdrawn(model_dir: Path, item_ids: np.ndarray) -> np.ndarray:
    """Ids of the withdrawn items, int64 [n] ascending; none where the folder has no list.

    Raises:
        GenrecError: the list is damaged, or names an item that the model does not hold.
    """
    path = model_dir / WITHDRAWN
    if not path.is_file():
        return np.empty(0, dtype=np.int64)
    content = read_json(path)
    listed = content.get("item_ids") if isinstance(content, dict) else None
    if not isinstance(listed, list) or not all(type(item) is int for item in listed):
        raise GenrecError(f"{path}: no list of item ids; remove it and withdraw the items again")
    if content.get("sha256") != _digest(listed):
        raise GenrecError(f"{path}: differs from its own sha256; remove it and withdraw the items again")
    foreign = np.setdiff1d(np.array(listed, dtype=np.int64), item_ids)
    if len(foreign):
        raise GenrecError(f"{path}: item {foreign[0]} is none of the model's; remove it and withdraw the items again")
    return np.array(listed, dtype=np.int64)


def withdraw(model_dir: Path, items: np.ndarray, restore: bool = False) -> Withdrawal:
    """Add ``items`` to the withdrawn ones, or take them off that list; the list is replaced whole.

    Recommenders opened afterwards obey; one that is open already does not change. Items withdrawn already, or restored
    without being withdrawn, change nothing. Two calls at once wait for one another, and for items that are being added
    to the folder. To withdraw from what is served, call :func:`genrec_core.releases.pointer.withdraw_from_served`.

    Args:
        model_dir: the exported model.
        items: ids, int64 [n].
        restore: recommend the items again.

    Raises:
        GenrecError: the folder is no whole model or cannot be written, an item is none of the model's, or no item would
            be left.
    """
    with locked_place(model_dir):
        item_ids = _held_items(model_dir, items)
        refresh_shared(model_dir / WITHDRAWN)
        before = read_withdrawn(model_dir, item_ids)
        after = np.setdiff1d(before, items) if restore else np.union1d(before, items)
        if len(after) == len(item_ids):
            raise GenrecError("no item of the model would be left; nothing was changed")
        _write(model_dir, after.tolist())
    return Withdrawal(abs(len(after) - len(before)), len(after), len(item_ids) - len(after))


def _held_items(model_dir: Path, items: np.ndarray) -> np.ndarray:
    """Ids of all items of a whole model, int64 [n]; ``items`` must be among them."""
    verify_manifest(model_dir)
    if WITHDRAWN in read_json(model_dir / MANIFEST)["files"]:
        raise GenrecError(f"{model_dir / MANIFEST} names {WITHDRAWN}, which may change; write the manifest without it")
    item_ids: np.ndarray = np.load(model_dir / "item_ids.npy", allow_pickle=False)
    unknown = np.setdiff1d(items, item_ids)
    if len(unknown):
        shown = ", ".join(map(str, unknown[:_SHOWN].tolist()))
        raise GenrecError(f"{len(unknown)} items are none of the model's ({shown}); nothing was changed")
    return item_ids


def _write(model_dir: Path, items: list[int]) -> None:
    path = model_dir / WITHDRAWN
    try:
        write_shared(path, {"item_ids": items, "sha256": _digest(items)})
    except OSError as error:
        raise GenrecError(f"{path}: cannot be written ({error.strerror or error}); nothing was changed") from error


def _digest(items: list[int]) -> str:
    return hashlib.sha256(json.dumps(items).encode()).hexdigest()
