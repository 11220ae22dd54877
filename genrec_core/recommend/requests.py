"""Requests, and how a file of them is read, whatever its form.

A form of file is a module with the functions of :class:`RequestForm`; :func:`form_of` chooses it by the file's name.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from genrec_core.data.ids import item_ids_of
from genrec_core.errors import GenrecError
from genrec_core.recommend.constraints import Constraints
from genrec_core.recommend.prediction_files import is_parquet

CONSTRAINT_COLUMNS = ("allow", "deny", "rule")
Check = Callable[[Constraints], object]  # raises a GenrecError for constraints that cannot be met


@dataclass(frozen=True, slots=True)
class Request:
    """One user to serve.

    Args:
        line: line number in the file, from 1.
        user_id: as written.
        item_ids: the history, oldest first; may be empty.
        constraints: which items this user may get.
    """

    line: int
    user_id: str
    item_ids: list[int]
    constraints: Constraints = field(default_factory=Constraints)


@dataclass(frozen=True, slots=True)
class Rejected:
    """One line that cannot be served: its number, the reason, and its text."""

    line: int
    reason: str
    content: str


class RequestForm(Protocol):
    """What the module of a form of request files offers."""

    def count_lines(self, path: Path) -> int:
        """Lines of a file."""

    def has_integer_users(self, path: Path) -> bool:
        """Whether the file holds user ids as integers of at most 64 bits, not as text."""

    def read(self, path: Path, check: Check | None, lines: range | None) -> Iterator[Request | Rejected]:
        """See :func:`read_requests`."""


def read_requests(path: Path, check: Check | None = None, lines: range | None = None) -> Iterator[Request | Rejected]:
    """Read a request file in its order without holding it in memory: text, CSV, or Parquet by its name.

    Args:
        path: the file.
        check: called with the constraints of each request that has some. If it raises a ``GenrecError``, that is the
            reason why the line is rejected.
        lines: line numbers to read, from 1; None for all.

    Raises:
        GenrecError: the file cannot be read, lacks a column, or (where all lines are read) holds no request line.
    """
    empty = True
    for outcome in form_of(path).read(path, check, lines):
        empty = False
        yield outcome
    if empty and lines is None:
        raise _no_requests(path)


def count_lines(path: Path) -> int:
    """Lines of a request file; an empty one is an error."""
    count = form_of(path).count_lines(path)
    if not count:
        raise _no_requests(path)
    return count


def constraints_of(cells: Mapping[str, Any]) -> Constraints:
    """The constraints of a row.

    Args:
        cells: ``allow`` and ``deny``, text or lists of ids, and ``rule``; an empty or absent cell restricts nothing.

    Raises:
        GenrecError: a list holds something that is not an id.
    """
    if not any(cells.get(name) for name in CONSTRAINT_COLUMNS):
        return Constraints()
    allow, deny = (item_ids_of(cell) if (cell := _stripped(cells.get(name))) else None for name in ("allow", "deny"))
    return Constraints.of(allow, deny, _stripped(cells.get("rule")) or None)


def _no_requests(path: Path) -> GenrecError:
    return GenrecError(
        f"{path}: no requests in it; write lines `user item item ...`, or CSV or Parquet with the columns user_id and "
        "item_ids"
    )


def _stripped(cell: Any) -> Any:
    return cell.strip() if isinstance(cell, str) else cell


def form_of(path: Path) -> RequestForm:
    """The module that reads a file, chosen by its name."""
    if is_parquet(path):
        from genrec_core.recommend import parquet_requests  # needs polars

        return parquet_requests
    from genrec_core.recommend import text_requests

    return text_requests
