"""Whose lists a benchmark asks for: real users, or random histories of real lengths.

Training, and decoding with a fixed number of beams, take as long for random histories. A search that drops beams below
what it knows takes longer for them, since a model that is at a loss spreads what it believes.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from genrec_core.data.histories import Histories
from genrec_core.data.split import validation_part
from genrec_core.errors import GenrecError
from genrec_core.storage.folders import latest

RANDOM = Path("random")

# Amazon Beauty 5-core: 22,363 users have 5 to 204 items, 8.9 on average.
_SHORTEST, _MEAN_LENGTH, _LONGEST = 5, 8.9, 204


def random_histories(users: int, n_items: int, seed: int) -> Histories:
    """Histories of distinct rows, their lengths drawn around Beauty's mean.

    Args:
        users: how many.
        n_items: items in the catalogue.
        seed: seed of lengths and items.
    """
    random = np.random.default_rng(seed)
    drawn = _SHORTEST - 1 + random.geometric(1 / (_MEAN_LENGTH - _SHORTEST + 1), users)
    lengths = drawn.clip(max=min(_LONGEST, n_items))
    rows = [random.choice(n_items, length, replace=False) for length in lengths]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Histories([str(user) for user in range(users)], np.concatenate(rows).astype(np.int32), offsets)


@dataclass(frozen=True)
class Workload:
    """Users to draw from.

    Args:
        n_items: items in the catalogue.
        real: what real users had before their validation item, by catalogue row; None for random histories.
    """

    n_items: int
    real: Histories | None

    @classmethod
    def of(cls, item_ids: np.ndarray, source: Path | None) -> "Workload":
        """The users of ``source``.

        Args:
            item_ids: the data set's id by catalogue row, int64 [n_items], in any order.
            source: see :func:`genrec_core.data.sources.read_user_histories`; ``random``; or None: the newest
                ``user_histories`` of the storage, and random histories where it has none of this catalogue.

        Raises:
            GenrecError: ``source`` cannot be read, or holds items that the catalogue does not, or nobody to evaluate.
        """
        if source == RANDOM:
            return cls(len(item_ids), None)
        try:
            found = _before_validation(source or latest("user_histories"), item_ids)
        except GenrecError:
            if source is not None:
                raise
            return cls(len(item_ids), None)
        if not len(found):
            raise GenrecError(f"{source or 'user_histories'}: no user of three items or more; give others, or random")
        return cls(len(item_ids), found)

    @property
    def name(self) -> str:
        """``validation users`` or ``random``."""
        return "random" if self.real is None else "validation users"

    def drawn(self, users: int, seed: int) -> list[np.ndarray]:
        """Catalogue rows of some users, oldest first, int [n] each; the same user twice only where there are fewer."""
        if self.real is None:
            found, chosen = random_histories(users, self.n_items, seed), np.arange(users)
        else:
            random, found = np.random.default_rng(seed), self.real
            chosen = random.choice(len(found), users, replace=users > len(found))
        return [found.of(user) for user in chosen.tolist()]


def _before_validation(source: Path, item_ids: np.ndarray) -> Histories:
    from genrec_core.data.sources import read_user_histories

    order = item_ids.argsort()  # items that got their id later stand behind the others
    histories = Histories.from_frame(read_user_histories(source), item_ids[order])
    before = validation_part(histories).histories
    return Histories(before.user_ids, order[before.rows].astype(np.int32), before.offsets)
