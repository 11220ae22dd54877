"""What is trained, validated and tested: by order, or by one point in time for everybody.

By order (leave-one-out): train on all but a user's last two items, validate on the last but one, test on the last. By
time: the histories say how many of a user's newest items lie in the validation window and in the test window; train on
the items before both. Every item of a window is then a target, and its history is all that the user had before it: what
a model that was trained at the cut is asked. Each user counts alike, with the mean over the user's targets. Popularity
counts the training part alone.
"""

from dataclasses import dataclass, replace

import numpy as np

from genrec_core.data.histories import Histories

SHORTEST_EVALUATED = 3  # items a user needs for a test item, a validation item and a history before it
_VALIDATION, _TEST = 0, 1
_MOST_TARGETS = 20  # of a user: more would say little that is new, and cost as much as more users
_ENOUGH_TARGETS = 20_000  # of all users; where there are more users, each has one target


@dataclass(frozen=True)
class HeldOut:
    """Targets, and the items before each. A user has one target, or several where a window in time holds more."""

    histories: Histories  # of each target all items before it
    targets: np.ndarray  # catalogue rows, int32 [n]
    users: np.ndarray  # index of each target's user in the whole histories, int64 [n], ascending

    def take(self, chosen: np.ndarray) -> "HeldOut":
        """The targets at the indices ``chosen``, int64, ascending."""
        return HeldOut(self.histories.take(chosen), self.targets[chosen], self.users[chosen])

    @property
    def n_users(self) -> int:
        """Users who have a target."""
        return len(np.unique(self.users))

    def repeated_targets(self) -> int:
        """Targets that their user already has, so that no list without the history can hold them."""
        owner = np.repeat(np.arange(len(self.targets)), self.histories.lengths)
        return len(np.unique(owner[self.histories.rows == self.targets[owner]]))


def mean_of_each_user(values: np.ndarray, users: np.ndarray) -> np.ndarray:
    """The mean over each user's targets, float64 [n_users], from ``values`` and ``users`` [n_targets]."""
    _, numbers, targets = np.unique(users, return_inverse=True, return_counts=True)
    means: np.ndarray = np.bincount(numbers, values, len(targets)) / targets
    return means


def training_part(histories: Histories) -> Histories:
    """Everything before the validation item or window; a user who is never evaluated keeps all by order."""
    return histories.cut(np.arange(len(histories)), held_out_items(histories.lengths, histories.windows).sum(axis=0))


def everything(histories: Histories) -> Histories:
    """The same histories with nothing held out, so that all of them are the training part."""
    return replace(histories, windows=np.zeros((2, len(histories)), np.int64))


def validation_part(histories: Histories, most: int | None = None, seed: int = 0) -> HeldOut:
    """The validation items that have an item before them, of at most ``most`` users drawn with ``seed``.

    Split by time, a user has up to 20 targets, evenly spread over the window, as long as all together are not more than
    ``most`` (None: 20,000, and all users).
    """
    return _held_out(histories, _VALIDATION, most, seed)


def held_out_test_part(histories: Histories, most: int | None = None, seed: int = 0) -> HeldOut:
    """The test items, as :func:`validation_part` takes them. Only the final evaluation reads them."""
    return _held_out(histories, _TEST, most, seed)


def new_users(histories: Histories) -> HeldOut:
    """The first item of every user who has none before the test window: no history can be read; none if by order."""
    tested = held_out_items(histories.lengths, histories.windows)[_TEST]
    users = np.flatnonzero((tested == histories.lengths) & (tested > 0))
    return HeldOut(histories.cut(users, tested[users]), histories.rows[histories.offsets[users]], users)


def held_out_items(lengths: np.ndarray, by_time: np.ndarray | None) -> np.ndarray:
    """Newest items of each user that are validated and tested, int64 [2, n_users].

    Args:
        lengths: items a user, int64 [n_users].
        by_time: :attr:`Histories.windows`; None: one and one of each user with at least three items.
    """
    return np.tile(lengths >= SHORTEST_EVALUATED, (2, 1)).astype(np.int64) if by_time is None else by_time


def askable(lengths: np.ndarray, by_time: np.ndarray | None) -> np.ndarray:
    """How many users have an item in the validation window, and in the test window, and one before it: int64 [2]."""
    return np.array([np.count_nonzero(_places(lengths, by_time, window)[1]) for window in (_VALIDATION, _TEST)])


def training_counts(histories: Histories, n_items: int) -> np.ndarray:
    """Interactions of each item in the training part, int64 [n_items]."""
    return np.bincount(training_part(histories).rows, minlength=n_items).astype(np.int64)


def popularity_order(counts: np.ndarray) -> np.ndarray:
    """Catalogue rows from most to least popular, int64 [n_items]; of equals the lower row first."""
    return np.argsort(-counts, kind="stable")


def tied_targets(histories: Histories, held_out: HeldOut) -> float | None:
    """Share of targets that have the time of the item before or after them; None where times are unknown.

    Their order in the file is arbitrary, so either item could be the target.
    """
    if histories.times is None:
        return None
    places = histories.offsets[held_out.users] + held_out.histories.lengths
    ends = histories.offsets[held_out.users + 1] - 1
    times = histories.times
    later = (places < ends) & (times[places] == times[np.minimum(places + 1, ends)])
    return float(((times[places] == times[places - 1]) | later).mean())


def _places(lengths: np.ndarray, by_time: np.ndarray | None, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each user's targets begin in the history, and how many there are: int64 [n_users] both.

    The first item of a history is never a target, as nothing is before it.
    """
    newest = held_out_items(lengths, by_time)
    begin = lengths - newest[window:].sum(axis=0)
    first = np.maximum(begin, 1)
    return first, np.maximum(begin + newest[window] - first, 0)


def _held_out(histories: Histories, window: int, most: int | None, seed: int) -> HeldOut:
    """See :func:`validation_part`."""
    first, items = _places(histories.lengths, histories.windows, window)
    asked = np.flatnonzero(items)
    users = asked[np.sort(np.random.default_rng(seed).permutation(len(asked))[:most])]
    share = (_ENOUGH_TARGETS if most is None else most) // max(len(users), 1)
    targets = np.minimum(items[users], np.clip(share, 1, _MOST_TARGETS))
    owner = np.repeat(users, targets)
    number = np.arange(len(owner)) - np.repeat(targets.cumsum() - targets, targets)
    places = first[owner] + number * items[owner] // np.repeat(targets, targets)
    before = histories.cut(owner, histories.lengths[owner] - places)
    return HeldOut(before, histories.rows[histories.offsets[owner] + places], owner)
