"""Leave-one-out by order: train on all but a user's last two items, validate on the last but one, test on the last.

Popularity counts the training part alone.
"""

from dataclasses import dataclass

import numpy as np

from genrec_core.data.histories import Histories

SHORTEST_EVALUATED = 3  # items a user needs for a test item, a validation item and a history before it


@dataclass(frozen=True)
class HeldOut:
    """One target a user and the items before it."""

    histories: Histories  # all items before the target
    targets: np.ndarray  # catalogue rows, int32 [n]
    users: np.ndarray  # index of each user in the whole histories, int64 [n]

    def take(self, chosen: np.ndarray) -> "HeldOut":
        """The held-out items at the indices ``chosen``, int64."""
        return HeldOut(self.histories.take(chosen), self.targets[chosen], self.users[chosen])

    def repeated_targets(self) -> int:
        """Targets that their user already has, so that no list without the history can hold them."""
        owner = np.repeat(np.arange(len(self.targets)), self.histories.lengths)
        return len(np.unique(owner[self.histories.rows == self.targets[owner]]))


def training_part(histories: Histories) -> Histories:
    """Everything before the last two items; users of fewer than three items, who are never evaluated, keep all."""
    newest = np.where(histories.lengths >= SHORTEST_EVALUATED, 2, 0)
    return histories.cut(np.arange(len(histories)), newest)


def validation_part(histories: Histories) -> HeldOut:
    """The last but one item of every user of three items or more."""
    return _held_out(histories, 2)


def test_part(histories: Histories) -> HeldOut:
    """The last item of every user of three items or more. Only the final evaluation reads it."""
    return _held_out(histories, 1)


def training_counts(histories: Histories, n_items: int) -> np.ndarray:
    """Interactions of each item in the training part, int64 [n_items]."""
    return np.bincount(training_part(histories).rows, minlength=n_items).astype(np.int64)


def popularity_order(counts: np.ndarray) -> np.ndarray:
    """Catalogue rows from most to least popular, int64 [n_items]; of equals the lower row first."""
    return np.argsort(-counts, kind="stable")


def _held_out(histories: Histories, from_end: int) -> HeldOut:
    users = np.flatnonzero(histories.lengths >= SHORTEST_EVALUATED)
    targets = histories.rows[histories.offsets[users + 1] - from_end]
    return HeldOut(histories.cut(users, np.full(len(users), from_end)), targets, users)
