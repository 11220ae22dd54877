"""What is trained, validated and tested: by order, or by one point in time for everybody.

By order (leave-one-out): train on all but a user's last two items, validate on the last but one, test on the last. By
time: the histories say how many of a user's newest items lie in the validation window and in the test window; train on
the items before both. The target is then the first item in a window, and the history all items before it: what a model
that was trained at the cut is asked. Popularity counts the training part alone.
"""

from dataclasses import dataclass, replace

import numpy as np

from genrec_core.data.histories import Histories

SHORTEST_EVALUATED = 3  # items a user needs for a test item, a validation item and a history before it
_VALIDATION, _TEST = 0, 1


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
    """Everything before the validation item or window; a user who is never evaluated keeps all by order."""
    return histories.cut(np.arange(len(histories)), held_out_items(histories.lengths, histories.windows).sum(axis=0))


def everything(histories: Histories) -> Histories:
    """The same histories with nothing held out, so that all of them are the training part."""
    return replace(histories, windows=np.zeros((2, len(histories)), np.int64))


def validation_part(histories: Histories) -> HeldOut:
    """The validation item of every user who has one and an item before it."""
    return _held_out(histories, _VALIDATION, new=False)


def test_part(histories: Histories) -> HeldOut:
    """The test item of every user who has one and an item before it. Only the final evaluation reads it."""
    return _held_out(histories, _TEST, new=False)


def new_users(histories: Histories) -> HeldOut:
    """The test item of every user whose first item it is, so that no history can be read; none if split by order."""
    return _held_out(histories, _TEST, new=True)


def held_out_items(lengths: np.ndarray, by_time: np.ndarray | None) -> np.ndarray:
    """Newest items of each user that are validated and tested, int64 [2, n_users].

    Args:
        lengths: items a user, int64 [n_users].
        by_time: :attr:`Histories.windows`; None: one and one of each user with at least three items.
    """
    return np.tile(lengths >= SHORTEST_EVALUATED, (2, 1)).astype(np.int64) if by_time is None else by_time


def askable(lengths: np.ndarray, by_time: np.ndarray | None) -> np.ndarray:
    """How many users have an item in the validation window, and in the test window, and one before it: int64 [2]."""
    validated, tested = held_out_items(lengths, by_time)
    validation, test = (validated > 0) & (validated + tested < lengths), (tested > 0) & (tested < lengths)
    return np.array([validation.sum(), test.sum()])


def training_counts(histories: Histories, n_items: int) -> np.ndarray:
    """Interactions of each item in the training part, int64 [n_items]."""
    return np.bincount(training_part(histories).rows, minlength=n_items).astype(np.int64)


def popularity_order(counts: np.ndarray) -> np.ndarray:
    """Catalogue rows from most to least popular, int64 [n_items]; of equals the lower row first."""
    return np.argsort(-counts, kind="stable")


def tied_targets(histories: Histories, held_out: HeldOut) -> float | None:
    """Share of users whose target has the time of the item before or after it; None where times are unknown.

    Their order in the file is arbitrary, so either item could be the target.
    """
    if histories.times is None:
        return None
    places = histories.offsets[held_out.users] + held_out.histories.lengths
    ends = histories.offsets[held_out.users + 1] - 1
    times = histories.times
    later = (places < ends) & (times[places] == times[np.minimum(places + 1, ends)])
    return float(((times[places] == times[places - 1]) | later).mean())


def _held_out(histories: Histories, window: int, new: bool) -> HeldOut:
    """The first item in a window of the users who have none before it (``new``), or who have some."""
    newest = held_out_items(histories.lengths, histories.windows)
    from_end = newest[window:].sum(axis=0)
    users = np.flatnonzero((newest[window] > 0) & ((from_end == histories.lengths) == new))
    targets = histories.rows[histories.offsets[users + 1] - from_end[users]]
    return HeldOut(histories.cut(users, from_end[users]), targets, users)
