"""Frames of polars or pandas: histories in them, and tables of the same kind for the answers.

Neither library is imported here before its frame is seen, so a program without them can recommend too.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, TypeGuard, TypeVar

import numpy as np

from genrec_core.data.columns import INTERACTION_COLUMNS, column_key, meanings
from genrec_core.data.ids import AnyId, item_ids_of
from genrec_core.errors import GenrecError
from genrec_core.recommend.explain import Explanation, Reason
from genrec_core.recommend.item_facts import ItemFacts
from genrec_core.recommend.similar import Similar

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

Frame = TypeVar("Frame", "pl.DataFrame", "pd.DataFrame")
FrameKind = Literal["polars", "pandas"]
_LISTS = ("itemids", "items", "history", "histories")  # names of a column that holds all items of a user
_PLACE = "the frame of histories"


@dataclass(frozen=True)
class FrameHistories:
    """The histories of a frame: of each user once, in the order of the first row."""

    users: list[Any]  # as the frame has them
    histories: list[list[AnyId]]  # oldest item first


def is_frame(value: object) -> "TypeGuard[pl.DataFrame | pd.DataFrame]":
    """Whether a value is a ``DataFrame`` of polars or pandas. Imports neither."""
    for library in ("polars", "pandas"):
        if library in sys.modules and isinstance(value, getattr(sys.modules[library], "DataFrame", ())):
            return True
    return False


def kind_of(frame: "pl.DataFrame | pd.DataFrame") -> FrameKind:
    """The library of a frame."""
    return "polars" if hasattr(frame, "write_parquet") else "pandas"


def frame_of(columns: Mapping[str, Sequence[Any]], kind: FrameKind) -> Any:
    """A frame of one of the libraries, with columns of any values."""
    return import_module(kind).DataFrame(dict(columns))


def polars_of(frame: "pl.DataFrame | pd.DataFrame") -> "pl.DataFrame":
    """A frame of polars with the columns of any frame; what pandas writes for a missing value is null."""
    import polars as pl

    if isinstance(frame, pl.DataFrame):
        return frame
    return pl.DataFrame([pl.Series(str(name), _plain_cells(frame[name]), strict=False) for name in frame.columns])


def read_histories(frame: "pl.DataFrame | pd.DataFrame", text_ids: bool) -> FrameHistories:
    """The histories of a frame that has a row for each user, or one for each interaction.

    Args:
        frame: with ``user_id`` and a list of ``item_ids``, oldest first; or with ``user_id``, ``item_id`` and, if the
            rows are not in order, a time. Other usual names of these columns are known too.
        text_ids: whether item ids are text; then numbers become their digits.

    Raises:
        GenrecError: a column is not there, or a row has no user, item or time, or an id of another kind.
    """
    names = [str(name) for name in frame.columns]
    listed = any(column_key(name) in _LISTS for name in names)
    usual = {"user": INTERACTION_COLUMNS["user"], "item": INTERACTION_COLUMNS["item"]}
    usual |= {"item": _LISTS} if listed else {"time": INTERACTION_COLUMNS["time"]}
    found = meanings(names, usual, {}, {}, _PLACE)
    cells = {meaning: frame[column].to_list() for meaning, column in found.items()}
    for meaning, column in found.items():
        _require_cells(cells[meaning], column)
    if listed:
        return _one_row_a_user(cells["user"], cells["item"], text_ids)
    return _one_row_an_interaction(cells["user"], cells["item"], cells.get("time"), text_ids)


def list_columns(
    users: Sequence[Any], items: np.ndarray, scores: np.ndarray, counts: np.ndarray
) -> dict[str, list[Any]]:
    """The lists of users as columns: a row for each user and place, from 1.

    Args:
        users: one for each list.
        items: item ids [users, k], best first, of which the first ``counts`` of each row mean something.
        scores: [users, k]; NaN becomes None.
        counts: int [users].
    """
    there = np.arange(items.shape[1]) < counts[:, None]
    user_of, place = there.nonzero()
    return {
        "user_id": [users[user] for user in user_of.tolist()],
        "rank": (place + 1).tolist(),
        "item_id": items[there].tolist(),
        "score": [None if score != score else score for score in scores[there].astype(float).tolist()],
    }


def answer_columns(
    answer: Similar | Sequence[Explanation] | Sequence[ItemFacts], titles: Callable[[list[AnyId]], list[str]] | None
) -> dict[str, list[Any]]:
    """An answer as columns: a row for each item, of explanations one for each reason.

    Args:
        titles: gives the titles of items; None leaves them out.
    """
    if isinstance(answer, Similar):
        items = answer.items.tolist()
        columns = {"rank": list(range(1, len(items) + 1)), "item_id": items, "score": answer.scores.tolist()}
        return columns | ({"title": titles(items)} if titles else {})
    if all(isinstance(each, ItemFacts) for each in answer):
        return {each.name: [getattr(facts, each.name) for facts in answer] for each in fields(ItemFacts)}
    if all(isinstance(each, Explanation) for each in answer):
        return _reason_columns([each for each in answer if isinstance(each, Explanation)], titles)
    raise GenrecError("no answer of similar, explain or describe; recommend gives a frame for a frame of histories")


def _reason_columns(
    explanations: Sequence[Explanation], titles: Callable[[list[AnyId]], list[str]] | None
) -> dict[str, list[Any]]:
    """A row for each reason, and one for an explanation without any."""
    absent: list[Reason | None] = [None]
    rows = [(each, reason) for each in explanations for reason in each.reasons or absent]
    columns: dict[str, list[Any]] = {"item_id": [each.item_id for each, _ in rows]}
    if titles:
        columns["title"] = titles(columns["item_id"])
    columns["score"] = [each.score for each, _ in rows]
    columns["because_of"] = [reason and reason.item_id for _, reason in rows]
    if titles:
        rest = iter(titles([reason.item_id for _, reason in rows if reason]))
        columns["because_of_title"] = [next(rest) if reason else None for _, reason in rows]
    for name in ("effect", "shared_levels", "text_similarity", "bought_together"):
        columns[name] = [getattr(reason, name, None) for _, reason in rows]
    return columns


def require_lists(histories: Sequence[Any]) -> None:
    """Refuse one history where several are wanted, and anything else that does not hold lists of items."""
    wrong = [histories] if isinstance(histories, str) else [each for each in histories if not _is_list(each)]
    if wrong:
        raise GenrecError(f"{wrong[0]!r:.60} is no history; give a list for each user, such as [[35, 12], [7]]")


def _is_list(value: object) -> bool:
    return hasattr(value, "__len__") and not isinstance(value, str)


def _plain_cells(column: Any) -> list[Any]:
    """The values of a column of pandas, arrays as lists and missing ones as None."""
    values = (value.tolist() if isinstance(value, np.ndarray) else value for value in column.to_list())
    return [None if _is_missing(value) else value for value in values]


def _is_missing(value: Any) -> bool:
    """Whether a cell is None, NaN or NaT, of which the last two differ from themselves."""
    return value is None or (not hasattr(value, "__len__") and value != value)


def _require_cells(cells: Sequence[Any], column: str) -> None:
    for row, cell in enumerate(cells):
        if _is_missing(cell):
            raise GenrecError(f"{_PLACE}: row {row} has no {column}; fill it, or leave the row out")


def _one_row_a_user(users: list[Any], lists: list[Any], text_ids: bool) -> FrameHistories:
    twice = len(users) - len(set(users))
    if twice:
        raise GenrecError(f"{_PLACE}: {twice} rows repeat a user; give each user one row, or one row an interaction")
    return FrameHistories(users, [_ids(cell, user, text_ids) for user, cell in zip(users, lists, strict=True)])


def _one_row_an_interaction(
    users: list[Any], items: list[Any], times: list[Any] | None, text_ids: bool
) -> FrameHistories:
    order = range(len(users)) if times is None else _by_time(times)
    bought: dict[Any, list[Any]] = {user: [] for user in users}
    for row in order:
        bought[users[row]].append(items[row])
    return FrameHistories(list(bought), [_ids(of_user, user, text_ids) for user, of_user in bought.items()])


def _by_time(times: list[Any]) -> list[int]:
    try:
        return sorted(range(len(times)), key=times.__getitem__)  # rows of one time keep their order
    except TypeError as error:
        raise GenrecError(f"{_PLACE}: its times cannot be ordered ({error}); give numbers or dates alone") from error


def _ids(cell: Any, user: Any, text_ids: bool) -> list[AnyId]:
    """The items of a cell: a list, an array, or a text such as ``5 6 7``."""
    if hasattr(cell, "tolist"):  # NumPy's, as in a pandas frame read from Parquet
        cell = cell.tolist()
    values = cell if isinstance(cell, str) else [value.item() if hasattr(value, "item") else value for value in cell]
    try:
        return item_ids_of(values, text_ids)
    except GenrecError as error:
        raise GenrecError(f"{_PLACE}: user {user}: {error}") from error
