"""Interactions of a table: read by meaning, cleaned step by step, and put together as histories."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from genrec_core.data.layouts import TableForm
from genrec_core.data.table_files import HEAD_ROWS, Rows, read_columns
from genrec_core.errors import GenrecError
from genrec_core.settings import DataSettings

_WHOLE_NUMBER = r"^(0|-?[1-9][0-9]{0,18})$"
_LATEST_SECONDS = 1e11  # the year 5138; a larger number counts smaller units
_MICROSECONDS = 1_000_000
_EARLIEST_DAY, _LATEST_DAY = 19000101, 21001231  # dates written as numbers


class Step(NamedTuple):
    """What one step of cleaning left out."""

    step: str
    interactions: int
    users: int
    items: int


class Interactions(NamedTuple):
    """Cleaned interactions, sorted by user and time, ties in file order."""

    frame: pl.DataFrame  # user String, item Int64 or String, and time Int64 in seconds if there are times
    facts: dict[str, Any]  # `cleaning`, what each step left out, and what else is worth saying


def read_interactions(
    files: Sequence[Path],
    form: TableForm,
    columns: Mapping[str, str],
    settings: DataSettings,
    known_items: pl.Series | None,
) -> Interactions:
    """Read and clean the interactions of a table.

    Args:
        columns: meaning -> column.
        known_items: the ids of the table of items; None without one.

    Raises:
        GenrecError: a time or a rating that is none, by file and row; or nothing is left.
    """
    rows = read_columns(files, form, list(columns.values()))
    frame = rows.frame.rename({column: meaning for meaning, column in columns.items()})
    frame = frame.with_columns(item_ids(frame["item"], f"column {columns['item']}"), _user_ids(frame["user"]))
    unit = 1
    if "time" in columns:
        times, unit = _times(rows, frame["time"], columns["time"])
        frame = frame.with_columns(times)
    if "weight" in columns and settings.least_rating is not None:
        frame = frame.with_columns(_ratings(rows, frame["weight"], columns["weight"]))
    del rows
    cleaned = _Cleaning(frame, unit)
    cleaned.clean(settings, known_items)
    return cleaned.done()


def item_ids(ids: pl.Series, place: str) -> pl.Series:
    """Ids as Int64 if all are whole numbers as programs write them, else as String; empty ones are null."""
    if ids.dtype.is_float():  # how pandas writes whole numbers beside empty cells
        whole = ids.cast(pl.Int64, strict=False)
        if not (whole.cast(ids.dtype) == ids).all():
            raise GenrecError(f"{place}: holds numbers with fractions, which are no ids; name another column")
        return whole
    if ids.dtype.is_integer():
        return ids.cast(pl.Int64)
    texts = _texts(ids)
    if len(texts.drop_nulls()) and texts.drop_nulls().str.contains(_WHOLE_NUMBER).all():
        numbers = texts.cast(pl.Int64, strict=False)
        if numbers.null_count() == texts.null_count():
            return numbers
    return texts


def same_kind(*series: pl.Series) -> list[pl.Series]:
    """The ids of several columns as one kind: all as text if one holds text."""
    texts = any(ids.dtype == pl.String for ids in series)
    return [ids.cast(pl.String) if texts else ids for ids in series]


def histories_of(interactions: pl.DataFrame) -> pl.DataFrame:
    """``user_id``, ``item_ids`` and, if there are times, ``times``: a row a user, in the order of the interactions."""
    columns = [pl.col("item").alias("item_ids"), *([pl.col("time").alias("times")] if "time" in interactions else [])]
    return interactions.group_by(pl.col("user").alias("user_id"), maintain_order=True).agg(columns)


def clean_histories(histories: pl.DataFrame, settings: DataSettings) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Histories without times, as those of P5, cleaned by the steps that need nothing else; and the facts."""
    frame = histories.explode("item_ids").rename({"user_id": "user", "item_ids": "item"})
    cleaning = _Cleaning(frame, 1)
    cleaning.clean(settings, None)
    cleaned = cleaning.done()
    return histories_of(cleaned.frame), cleaned.facts


class _Cleaning:
    """Interactions while they are cleaned, with what each step left out."""

    def __init__(self, frame: pl.DataFrame, unit: int) -> None:
        self.frame, self.unit, self.steps = frame, unit, list[Step]()
        self.facts = dict[str, Any](read=frame.height)

    def clean(self, settings: DataSettings, known_items: pl.Series | None) -> None:
        there = pl.all_horizontal(pl.col({"user", "item", "time"} & set(self.frame.columns)).is_not_null())
        self._keep("without a user, an item or a time", self.frame.select(there).to_series())
        self._events(settings.events)
        if settings.least_rating is not None:
            self._require("weight", "least_rating")
            self._keep(f"rated below {settings.least_rating:g}", self.frame["weight"] >= settings.least_rating)
        if known_items is not None:
            item, known = same_kind(self.frame["item"], known_items)
            listed = item.is_in(known.implode())
            self.facts["interactions_with_unlisted_items"] = int((~listed).sum())
            if settings.unknown_items == "drop":
                self._keep("with items that the table of items lacks", listed)
        self._sort()
        if "time" in self.frame and settings.drop_duplicates:
            first = pl.struct("user", "item", "time").is_first_distinct()
            self._keep("repeated: same user, item and time", self.frame.select(first).to_series())
        if settings.drop_repeats:
            again = (pl.col("user") == pl.col("user").shift()) & (pl.col("item") == pl.col("item").shift())
            self._keep("repeated in a row", self.frame.select(~again.fill_null(value=False)).to_series())
        self._cores(settings.k_core)
        newest = pl.int_range(pl.len(), 0, -1, dtype=pl.Int64).over("user") <= settings.most_interactions
        self._longest(settings.most_interactions)
        self._keep(f"older than a user's newest {settings.most_interactions}", self.frame.select(newest).to_series())
        if settings.least_interactions > 1:
            enough = pl.len().over("user") >= settings.least_interactions
            self._keep(f"of users with fewer than {settings.least_interactions}", self.frame.select(enough).to_series())

    def done(self) -> Interactions:
        frame = self.frame
        if not frame.height:
            left_out = "; ".join(f"{step.interactions} {step.step}" for step in self.steps if step.interactions)
            raise GenrecError(f"none of {self.facts['read']} interactions is left ({left_out}); clean less")
        if "time" in frame:
            tied = (frame["user"] == frame["user"].shift()) & (frame["time"] == frame["time"].shift())
            self.facts["share_of_ties"] = round(int(tied.fill_null(value=False).sum()) / frame.height, 4)
            frame = frame.with_columns(pl.col("time") // self.unit)
            days = frame.select(pl.col("time").min(), pl.col("time").max().alias("last")).row(0)
            self.facts["first_day"], self.facts["last_day"] = (_day(seconds) for seconds in days)
        repeats = 1 - frame.select("user", "item").n_unique() / frame.height
        self.facts["share_of_repeats"] = round(repeats, 4)
        order = frame.select("user", *(["item", "time"] if "time" in frame else ["item"]))
        return Interactions(order, {"cleaning": [step._asdict() for step in self.steps], **self.facts})

    def _events(self, wanted: list[str] | None) -> None:
        if "event" in self.frame:
            kinds = self.frame["event"].cast(pl.String).value_counts(sort=True)
            self.facts["events"] = dict(kinds.head(20).iter_rows())
        if wanted is not None:
            self._require("event", "events")
            self._keep(f"of other kinds than {', '.join(wanted)}", self.frame["event"].cast(pl.String).is_in(wanted))

    def _sort(self) -> None:
        """By the first row of each user, then by time, then as in the file."""
        by = ["first", "time"] if "time" in self.frame else ["first"]
        placed = self.frame.with_row_index("row").with_columns(pl.col("row").min().over("user").alias("first"))
        self.frame = placed.sort(by, maintain_order=True).drop("row", "first")

    def _cores(self, k: int) -> None:
        """Leave out users and items of fewer than ``k`` interactions until none has fewer."""
        kept, users, items = np.ones(self.frame.height, bool), *map(_numbered, (self.frame["user"], self.frame["item"]))
        while k > 1:
            few = kept & ~((np.bincount(users[kept], minlength=users.max(initial=0) + 1)[users] >= k)
                           & (np.bincount(items[kept], minlength=items.max(initial=0) + 1)[items] >= k))  # fmt: skip
            if not few.any():
                break
            kept &= ~few
        if k > 1:
            self._keep(f"outside the {k}-core", pl.Series(kept))

    def _longest(self, most: int) -> None:
        counts = self.frame["user"].value_counts()["count"]
        self.facts["most_interactions_of_a_user"] = int(counts.to_numpy().max(initial=0))
        self.facts["users_cut_to_their_newest"] = int((counts > most).sum())

    def _require(self, meaning: str, setting: str) -> None:
        if meaning not in self.frame.columns:
            raise GenrecError(
                f"{setting}: the interactions have no column for it; name it in columns, as {{{meaning}: name}}"
            )

    def _keep(self, what: str, kept: pl.Series) -> None:
        before = self.frame
        self.frame = before.filter(kept)
        if self.frame.height < before.height:
            lost = [before[name].n_unique() - self.frame[name].n_unique() for name in ("user", "item")]
            self.steps.append(Step(what, before.height - self.frame.height, *lost))


def _numbered(ids: pl.Series) -> np.ndarray:
    """A number from 0 for each id, int64 [n]."""
    return (ids.rank("dense").cast(pl.Int64) - 1).to_numpy()


def _texts(values: pl.Series) -> pl.Series:
    """Without white space around them; empty ones are null."""
    texts = values.cast(pl.String).str.strip_chars()
    return texts.set(texts == "", None)


def _user_ids(ids: pl.Series) -> pl.Series:
    if ids.dtype.is_float():
        ids = item_ids(ids, "the column of users")
    return _texts(ids)


def _ratings(rows: Rows, values: pl.Series, column: str) -> pl.Series:
    return _parsed(rows, values, column, lambda cells: cells.cast(pl.Float64, strict=False), "a number such as 4.5")


def _times(rows: Rows, values: pl.Series, column: str) -> tuple[pl.Series, int]:
    """Times as Int64, and how many of them make a second. Text may be such numbers, or dates in ISO's form."""
    if values.dtype.is_temporal():
        return values.dt.epoch("us"), _MICROSECONDS
    wanted = "seconds since 1970, or a date such as 2024-05-31 or 2024-05-31T12:30:00Z"
    head = values.head(HEAD_ROWS)
    if not values.dtype.is_numeric() and _numbers(_texts(head)).null_count() == len(head):
        return _parsed(rows, values, column, _dates, wanted), _MICROSECONDS
    numbers = _parsed(rows, values, column, _numbers, wanted)
    if numbers.is_between(_EARLIEST_DAY, _LATEST_DAY).all():  # such as 20240531; as seconds, all would be of 1970
        days = numbers.cast(pl.String).str.replace(r"^(\d{4})(\d\d)(\d\d)$", "$1-$2-$3")
        return _parsed(rows, days, column, _dates, wanted), _MICROSECONDS
    return numbers, _unit(numbers)


def _numbers(cells: pl.Series) -> pl.Series:
    whole = cells.cast(pl.Int64, strict=False)  # first, as a float has no place for nanoseconds
    return whole.fill_null(cells.cast(pl.Float64, strict=False).cast(pl.Int64, strict=False))


def _dates(cells: pl.Series) -> pl.Series:
    try:
        return cells.str.to_datetime(strict=False, time_zone="UTC", time_unit="us").dt.epoch("us")
    except pl.exceptions.PolarsError:  # no known form fits the first date
        return pl.Series(cells.name, [None] * len(cells), dtype=pl.Int64)


def _parsed(
    rows: Rows, values: pl.Series, column: str, parse: Callable[[pl.Series], pl.Series], wanted: str
) -> pl.Series:
    """The values as ``parse`` reads them; one that it cannot read is an error with file, row and remedy."""
    cells = values if values.dtype.is_numeric() else _texts(values)
    parsed = parse(cells)
    broken = (parsed.is_null() & cells.is_not_null()).arg_true()
    if len(broken):
        row = int(broken[0])
        raise GenrecError(
            f"{rows.place(row)}: column {column}: {str(values[row])[:60]!r} is not {wanted} ({len(broken)} such rows); "
            "mend it, or name another column in the setting columns"
        )
    return parsed


def _day(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).date().isoformat()
    except (OverflowError, ValueError, OSError):  # a number that is no time
        return str(seconds)


def _unit(times: pl.Series) -> int:
    """How many of the numbers make a second: 1, or a power of a thousand for milliseconds, microseconds and so on."""
    known, unit = times.drop_nulls().to_numpy(), 1
    middle = abs(float(np.median(known))) if len(known) else 0.0
    while middle > _LATEST_SECONDS:
        middle, unit = middle / 1000, unit * 1000
    return unit
