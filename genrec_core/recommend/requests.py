"""Requests, and how a file of them is read, whatever its form, or divided among independent runs.

A form of file is a module with the functions of :class:`RequestForm`; :func:`form_of` chooses it by the file's name.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from genrec_core.data.ids import item_ids_of
from genrec_core.errors import GenrecError
from genrec_core.recommend.constraints import Constraints
from genrec_core.recommend.prediction_files import is_parquet

CONSTRAINT_COLUMNS = ("allow", "deny", "rule")
_MOST_SHARDS = 100_000
Check = Callable[[Constraints], object]  # raises a GenrecError for constraints that cannot be met


@dataclass(frozen=True, slots=True)
class Request:
    """One user to serve."""

    line: int  # in the file, from 1
    user_id: str
    item_ids: list[int]  # the history, oldest first; may be empty
    constraints: Constraints = field(default_factory=Constraints)


@dataclass(frozen=True, slots=True)
class Rejected:
    """One line that cannot be served: its number, the reason, and its text."""

    line: int
    reason: str
    content: str


class RequestForm(Protocol):
    """What the module of a form of request files offers."""

    def count_lines(self, path: Path) -> int: ...

    def has_integer_users(self, path: Path) -> bool:
        """Whether the file holds user ids as integers of at most 64 bits, not as text."""

    def read(self, path: Path, check: Check | None, lines: range | None) -> Iterator[Request | Rejected]:
        """See :func:`read_requests`."""


def read_requests(path: Path, check: Check | None = None, lines: range | None = None) -> Iterator[Request | Rejected]:
    """Read a request file in its order without holding it in memory: text, CSV, or Parquet by its name.

    It is an error if the file lacks a column, or holds no request although all lines are read.

    Args:
        path: the file.
        check: called with the constraints of each request that has some. If it raises a ``GenrecError``, that is the
            reason why the line is rejected.
        lines: line numbers to read, from 1; None for all.
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
    """The constraints of a row: ``allow`` and ``deny``, text or lists of ids, and ``rule``; cells may be absent."""
    if not any(cells.get(name) for name in CONSTRAINT_COLUMNS):
        return Constraints()
    allow, deny = (item_ids_of(cell) if (cell := _stripped(cells.get(name))) else None for name in ("allow", "deny"))
    return Constraints.of(allow, deny, _stripped(cells.get("rule")) or None)


def _no_requests(path: Path) -> GenrecError:
    return GenrecError(f"{path}: no requests in it; write lines `user item ...`, CSV or Parquet with user_id,item_ids")


def _stripped(cell: Any) -> Any:
    return cell.strip() if isinstance(cell, str) else cell


def form_of(path: Path) -> RequestForm:
    """The module that reads a file, chosen by its name."""
    if is_parquet(path):
        from genrec_core.recommend import parquet_files  # needs polars

        return parquet_files
    from genrec_core.recommend import text_requests

    return text_requests


@dataclass(frozen=True)
class Shard:
    """A range of lines of a request file; the outputs of all parts, joined in order, are the output of the whole."""

    number: int  # of this part, from 1
    count: int  # of all parts

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Read ``i/n``, for example ``2/8``."""
        match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text.strip(), re.ASCII)
        if match is None:
            raise GenrecError(f"shard {text!r:.60}: write i/n, for example 2/8 for the second of eight parts")
        number, count = int(match[1]), int(match[2])
        if not 1 <= number <= count <= _MOST_SHARDS:
            raise GenrecError(f"shard {text!r:.60}: i counts from 1 to n, and n is {_MOST_SHARDS} at most")
        return cls(number, count)

    def lines(self, total: int, block: int) -> range:
        """The line numbers of this part, from 1, of ``total`` lines.

        ``block`` lines are decoded together and never divided, so that no row depends on the number of parts.
        """
        blocks = math.ceil(total / block)
        first, end = (math.ceil(blocks * part / self.count) * block for part in (self.number - 1, self.number))
        return range(1 + min(first, total), 1 + min(end, total))
