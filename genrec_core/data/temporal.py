"""The temporal split of ``user_histories``: two points in time, the same for all users."""

from datetime import UTC, datetime

import numpy as np
import polars as pl

from genrec_core.data.histories import TEST_ITEMS, VALIDATION_ITEMS, windows_of
from genrec_core.data.split import held_out_items
from genrec_core.errors import GenrecError
from genrec_core.settings import SplitSettings


def split_by_time(frame: pl.DataFrame, settings: SplitSettings) -> pl.DataFrame:
    """Add ``validation_items`` and ``test_items``: how many of a user's newest items lie in each window.

    All interactions of one instant lie on the same side of a cut, so a window may hold more than its share. Split by
    order, the frame stays as it is.

    Args:
        frame: ``user_histories`` with ``times``, ascending within a user.

    Raises:
        GenrecError: there are no times, a date is none, or one of the three parts would be empty.
    """
    if settings.split == "leave_one_out":
        return frame
    if "times" not in frame.columns:
        raise GenrecError("user_histories: the source has no times; give it a time column, or set split: leave_one_out")
    bought = frame["times"].explode(empty_as_null=False).to_numpy()
    times = np.sort(bought)
    test = _first_second(times, settings.test_from, settings.test_share * len(times))
    before = times[: np.searchsorted(times, test)]
    validation = _first_second(before, settings.validation_from, settings.validation_share * len(times))
    sizes = np.diff([0, *np.searchsorted(times, [validation, test]), len(times)])
    if sizes.min() <= 0:
        raise GenrecError(
            f"user_histories: of {len(times)} interactions from {_day(times[:1])} to {_day(times[-1:])}, the temporal "
            "split trains {}, validates {} and tests {}; choose other dates or shares".format(*sizes.clip(min=0))
        )
    offsets = np.concatenate([[0], np.cumsum(frame["item_ids"].list.len().to_numpy())]).astype(np.int64)
    tested, held_out = (np.diff(_running_count(bought >= second)[offsets]) for second in (test, validation))
    return frame.with_columns(pl.Series(VALIDATION_ITEMS, held_out - tested), pl.Series(TEST_ITEMS, tested))


def _first_second(times: np.ndarray, date: str | None, size: float) -> int:
    """The beginning of ``date``; without one, of the window of the ``size`` newest of the ascending ``times``."""
    if date is None:
        return int(times[np.clip(len(times) - round(size), 0, len(times) - 1)]) if len(times) else 0
    try:
        return int(datetime.fromisoformat(date).replace(tzinfo=UTC).timestamp())
    except ValueError as error:
        raise GenrecError(f"user_histories: {date} is no date ({error}); write it as YYYY-MM-DD") from error


def _running_count(flags: np.ndarray) -> np.ndarray:
    """How many of ``flags`` before each place are true, int64 [n + 1]."""
    return np.concatenate([[0], np.cumsum(flags)]).astype(np.int64)


def split_sentence(frame: pl.DataFrame) -> str:
    """One sentence: how many users and interactions are trained, validated and tested, and from which day."""
    lengths = frame["item_ids"].list.len().to_numpy().astype(np.int64)
    by_time = windows_of(frame)
    validated, tested = held_out_items(lengths, by_time)
    trained = lengths - validated - tested
    parts = [_part("trained", trained), _part("validated", validated), _part("tested", tested)]
    if by_time is not None:
        stamps = frame["times"].explode(empty_as_null=False).to_numpy()
        ends = lengths.cumsum()
        for number, newest in ((1, validated + tested), (2, tested)):
            parts[number] += f" from {_day(stamps[(ends - newest)[newest > 0]])}"
    return "; ".join(parts)


def _part(name: str, items: np.ndarray) -> str:
    return f"{name}: {items.sum():,} interactions of {np.count_nonzero(items):,} users"


def _day(seconds: np.ndarray) -> str:
    """The day of the earliest of ``seconds`` since 1970."""
    return f"{datetime.fromtimestamp(int(seconds.min()), UTC):%Y-%m-%d}" if len(seconds) else "never"
