"""What a model folder holds of its items beside what ranks them: to explain lists, and to compare items."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from genrec_core.bundle.model_folder import NEW_ITEMS, PARTNER_COUNTS, PARTNERS, TEXT_VECTORS, ModelItems
from genrec_core.errors import GenrecError
from genrec_core.search.key_cells import RoundedKeys
from genrec_core.storage.artifacts import read_array


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
    """The arrays by catalogue row, mapped; None for what the model lacks."""

    keys: np.ndarray | RoundedKeys | None = None  # of the dense head, float32 [n_items, width], or rounded
    texts: np.ndarray | None = None  # text vectors of length 1, float32 [n_items, dim]
    together: BoughtTogether | None = None

    @classmethod
    def load(cls, folder: Path, items: ModelItems) -> "ItemDetails":
        """Read them from the folder of a model with these ``items``.

        Raises:
            GenrecError: an array holds another number of items.
        """
        texts, partners, counts = (
            _mapped(folder / name, len(items.item_ids))
            for name in (f"{NEW_ITEMS}/{TEXT_VECTORS}", PARTNERS, PARTNER_COUNTS)
        )
        together = None if partners is None or counts is None else BoughtTogether(partners, counts)
        keys = items.keys if items.scales is None else RoundedKeys(items.keys, items.scales)
        return cls(keys, texts if texts is not None and texts.shape[1] else None, together)


def _mapped(path: Path, n_items: int) -> np.ndarray | None:
    if not path.is_file():
        return None
    array = np.asarray(read_array(path, "r"))
    if len(array) != n_items:
        raise GenrecError(f"{path}: holds {len(array)} rows for {n_items} items; export the model again")
    return array
