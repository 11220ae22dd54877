"""User histories as catalogue rows: all users in flat arrays, and padded batches of users."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from genrec_core.data.ids import are_text, id_array
from genrec_core.errors import GenrecError

if TYPE_CHECKING:  # inference does without polars, which is large
    import polars as pl

_WIDTH_STEP = 8  # items
VALIDATION_ITEMS, TEST_ITEMS = "validation_items", "test_items"  # columns that say where the windows begin
OPTIONAL_COLUMNS = ("times", VALIDATION_ITEMS, TEST_ITEMS)


@dataclass(frozen=True)
class Histories:
    """The items of each user, oldest first."""

    user_ids: list[str]  # the data set's own ids, one a user
    rows: np.ndarray  # catalogue rows of all users one after the other, int32 [n_interactions]
    offsets: np.ndarray  # user u owns rows[offsets[u]:offsets[u + 1]], int64 [n_users + 1]
    times: np.ndarray | None = None  # when each item was bought, in seconds since 1970, int64 [n_interactions]
    # Newest items of each user in the validation and in the test window, int64 [2, n_users]; None: split by order
    windows: np.ndarray | None = None

    @classmethod
    def from_frame(cls, frame: "pl.DataFrame", item_ids: np.ndarray) -> "Histories":
        """Map a frame of ``user_id`` and ``item_ids`` to rows of the catalogue ``item_ids``, int64 or text [n].

        ``times``, and ``validation_items`` with ``test_items``, are read where the frame has them.
        """
        lengths = frame["item_ids"].list.len().fill_null(1).to_numpy()  # a null list becomes one null item
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        rows = _rows_of_items(frame, offsets, item_ids)
        return cls(frame["user_id"].to_list(), rows, offsets, _times(frame), windows_of(frame))

    @property
    def lengths(self) -> np.ndarray:
        """Items a user, int64 [n_users]."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def of(self, user: int) -> np.ndarray:
        """The rows of one user, oldest first."""
        return self.rows[self.offsets[user] : self.offsets[user + 1]]

    def take(self, users: np.ndarray) -> "Histories":
        """The histories of ``users``, in their order."""
        whole = self.cut(users, np.zeros(len(users), np.int64))
        return whole if self.windows is None else replace(whole, windows=self.windows[:, users])

    def cut(self, users: np.ndarray, newest: np.ndarray) -> "Histories":
        """The histories of ``users`` without their last items, ``newest`` of each, int64 [len(users)]; not split."""
        lengths = self.lengths[users] - newest
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        index = np.arange(offsets[-1]) + np.repeat(self.offsets[users] - offsets[:-1], lengths)
        times = None if self.times is None else self.times[index]
        return Histories([self.user_ids[user] for user in users.tolist()], self.rows[index], offsets, times)


def _times(frame: "pl.DataFrame") -> np.ndarray | None:
    if "times" not in frame.columns:
        return None
    times = frame["times"].explode(empty_as_null=False)
    if (frame["times"].list.len() != frame["item_ids"].list.len()).any() or times.null_count():
        raise GenrecError("user_histories: a list of times is not as long as its list of items; build it again")
    return times.to_numpy().astype(np.int64)


def windows_of(frame: "pl.DataFrame") -> np.ndarray | None:
    """The windows of ``user_histories``, int64 [2, n_users]; None if it is split by order."""
    if TEST_ITEMS not in frame.columns:
        return None
    windows = frame.select(VALIDATION_ITEMS, TEST_ITEMS).to_numpy().T.astype(np.int64)
    if (windows < 0).any() or (windows.sum(axis=0) > frame["item_ids"].list.len().to_numpy()).any():
        raise GenrecError(f"user_histories: {VALIDATION_ITEMS} and {TEST_ITEMS} exceed a history; build it again")
    return windows


def items_of(frame: "pl.DataFrame") -> np.ndarray:
    """The distinct items of a frame of histories, int64 or text [n], ascending."""
    return id_array(frame["item_ids"].explode(empty_as_null=False).drop_nulls().unique().sort(), "the histories")


def _rows_of_items(frame: "pl.DataFrame", offsets: np.ndarray, item_ids: np.ndarray) -> np.ndarray:
    """The row of each item of all histories, int32 [n_interactions]; an error names an unknown item and its user."""
    items = frame["item_ids"].explode(empty_as_null=False)
    if items.dtype.is_float():
        raise GenrecError(f"the histories hold items as {items.dtype}; make item_ids lists of integers or of text")
    wanted = items.cast(str if are_text(item_ids) else int, strict=False)
    rows = wanted.replace_strict(item_ids, np.arange(len(item_ids)), default=None)
    if unknown := rows.null_count():
        first = int(rows.is_null().arg_max() or 0)
        user = frame["user_id"][int(np.searchsorted(offsets, first, side="right")) - 1]
        raise GenrecError(
            f"user {user}: item {items[first]} is not in the catalogue ({unknown} such entries); "
            "add it to the catalogue or take it out of the history"
        )
    return rows.to_numpy().astype(np.int32)


@dataclass(frozen=True)
class HistoryBatch:
    """Histories side by side."""

    rows: np.ndarray  # catalogue rows int32 [batch, time], oldest first, -1 on the right
    lengths: np.ndarray  # items a history, int32 [batch]
    alone: bool = False  # whether no other batch is decoded meanwhile, so that all cores may be used

    def flat(self) -> "FlatHistories":
        """The same histories without padding."""
        lengths = self.lengths.astype(np.int64)
        batch, time = self.rows.shape
        ends = lengths.cumsum()
        own = np.flatnonzero(np.arange(time) < lengths[:, None])
        places = np.zeros((batch, time), dtype=np.int64)
        places.reshape(-1)[own] = np.arange(len(own))
        return FlatHistories(self.rows.reshape(-1).take(own), lengths, places, own, ends - 1)


@dataclass(frozen=True)
class FlatHistories:
    """Histories one behind the other, and where each item is when they are side by side."""

    rows: np.ndarray  # catalogue rows int32 [items]
    lengths: np.ndarray  # items a history, int64 [batch]
    places: np.ndarray  # the items of each history, int64 [batch, time]; 0 on the right of a shorter one
    own: np.ndarray  # the place of each item in the flattened places, int64 [items]
    newest: np.ndarray  # index in rows of the newest item of each history, int64 [batch]


def padded(sequences: Sequence[np.ndarray], max_history: int, alone: bool = False) -> HistoryBatch:
    """Put the newest ``max_history`` rows of each sequence into one batch, as wide as the longest.

    Widths are multiples of eight, or ``max_history``. Then sums with zeros on the right round as sums without them, and
    the model's answer for a history does not depend on the others.
    """
    lengths = np.array([min(len(sequence), max_history) for sequence in sequences], dtype=np.int32)
    width = min(max_history, int(lengths.max(initial=0)) + _WIDTH_STEP - 1 & -_WIDTH_STEP)
    rows = np.full((len(sequences), width), -1, dtype=np.int32)
    for index, sequence in enumerate(sequences):
        rows[index, : lengths[index]] = sequence[len(sequence) - lengths[index] :]
    return HistoryBatch(rows, lengths, alone)
