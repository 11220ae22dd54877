"""What a model folder holds of its items beside what ranks them: to explain lists, and to compare items."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from genrec_core.bundle.model_folder import (
    EXAMPLE_HISTORIES,
    FIRST_SEEN,
    NEW_ITEMS,
    PARTNER_COUNTS,
    PARTNERS,
    RECENT,
    TEXT_VECTORS,
    ModelFolder,
    ModelItems,
)
from genrec_core.errors import GenrecError
from genrec_core.search.key_index import RoundedKeys
from genrec_core.storage.artifacts import read_array

NEVER = np.iinfo(np.int64).min  # the time of the first purchase of an item that nobody bought


@dataclass(frozen=True)
class BoughtTogether:
    """For each item the items that users bought most often near it.

    "Near" is within :data:`~genrec_core.search.neighbors.WINDOW` items of a history of the training part.
    """

    partners: np.ndarray  # catalogue rows int32 [n_items, k], the most frequent first
    counts: np.ndarray  # times, int32 [n_items, k]; 0 from the place on where an item has no more partners

    def of(self, one: int, other: int) -> int | None:
        """How often the items at two rows were bought together; None where both have ``k`` more frequent partners."""
        for first, second in ((one, other), (other, one)):
            (place,) = (self.partners[first] == second).nonzero()
            if len(place) and self.counts[first, place[0]]:
                return int(self.counts[first, place[0]])
        complete = not self.counts.shape[1] or self.counts[one, -1] == 0 or self.counts[other, -1] == 0
        return 0 if complete else None


@dataclass(frozen=True)
class ItemDetails:
    """The arrays, by catalogue row but for the last, mapped; None for what the model lacks."""

    keys: np.ndarray | RoundedKeys | None = None  # of the dense head, float32 [n_items, width], or rounded
    texts: np.ndarray | None = None  # text vectors of length 1, float32 [n_items, dim]
    together: BoughtTogether | None = None
    recent: np.ndarray | None = None  # interactions in the last days of the training part, int64 [n_items]
    first_seen: np.ndarray | None = None  # time of the first interaction in seconds, or NEVER, int64 [n_items]
    examples: np.ndarray | None = None  # histories of some users, catalogue rows int32 [histories, items], -1 padded

    @classmethod
    def load(cls, folder: Path, items: ModelItems) -> "ItemDetails":
        """Read them from the folder of a model with these ``items``.

        Raises:
            GenrecError: an array holds another number of items.
        """
        count = len(items.item_ids)
        partners, times = _mapped(folder / PARTNERS, count), _mapped(folder / PARTNER_COUNTS, count)
        texts = _mapped(folder / NEW_ITEMS / TEXT_VECTORS, count)
        return cls(
            keys=items.keys if items.scales is None else RoundedKeys(items.keys, items.scales),
            texts=texts if texts is not None and texts.shape[1] else None,
            together=None if partners is None or times is None else BoughtTogether(partners, times),
            recent=_mapped(folder / RECENT, count),
            first_seen=_mapped(folder / FIRST_SEEN, count),
            examples=_mapped(folder / EXAMPLE_HISTORIES),
        )


def extend_item_details(folder: ModelFolder, added: int) -> None:
    """Append ``added`` items to the arrays of a folder that is not whole yet.

    They were never bought, and are the newest: first seen one second after all others.
    """
    for name in (PARTNERS, PARTNER_COUNTS, RECENT):
        if (folder.path / name).is_file():
            known = folder.array(name)
            folder.save_array(name, np.concatenate([known, np.zeros((added, *known.shape[1:]), dtype=known.dtype)]))
    if (folder.path / FIRST_SEEN).is_file():
        seen = folder.array(FIRST_SEEN)
        folder.save_array(FIRST_SEEN, np.concatenate([seen, np.full(added, seen.max() + 1)]))


def _mapped(path: Path, n_items: int | None = None) -> np.ndarray | None:
    if not path.is_file():
        return None
    array = np.asarray(read_array(path, "r"))
    if n_items is not None and len(array) != n_items:
        raise GenrecError(f"{path}: holds {len(array)} rows for {n_items} items; export the model again")
    return array
