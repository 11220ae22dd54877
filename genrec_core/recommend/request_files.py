"""Requests, and how a file of them is read or divided among independent runs.

Text has lines ``user item item ...``, or is CSV with the columns ``user_id`` and ``item_ids``. CSV may also hold the
columns ``allow``, ``deny`` (item ids) and ``rule``, which restrict that user's list. For lists of ids in a cell see
:func:`genrec_core.data.ids.item_ids_of`. The header shows what separates the columns: a comma, a semicolon, a tab or a
bar. The first line that is not blank decides the form. Blank lines are skipped; a byte-order mark and CRLF line ends
are accepted. For Parquet see ``parquet_files.py``.
"""

import csv
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from genrec_core.data.ids import item_ids_of, user_id_of
from genrec_core.data.text_files import SAVE_AS_UTF8, csv_header, csv_row, is_utf16
from genrec_core.errors import GenrecError
from genrec_core.recommend.constraints import Constraints
from genrec_core.recommend.prediction_files import is_parquet

CONSTRAINT_COLUMNS = ("allow", "deny", "rule")
LONGEST_LINE = 16 << 20  # bytes; a longer line is rejected, so that a file without line ends cannot fill the memory
_BLOCK_BYTES = 1 << 20
_BOM = b"\xef\xbb\xbf"
_NAMES = re.compile(r"\b(user_id|item_ids)\b", re.IGNORECASE)
# A CSV row without a header: the first item follows the user.
_SEMICOLON, _TEXT_SEMICOLON = re.compile(r"\s*\S*;-?[0-9]+(\s|$)"), re.compile(r"\s*\S*;\S+(\s|$)")
_MOST_SHARDS = 100_000
Check = Callable[[Constraints], object]  # raises a GenrecError for constraints that cannot be met
_Cells = Mapping[str, Any]  # of one request, by column


@dataclass(frozen=True, slots=True)
class Request:
    """One user to serve."""

    line: int  # in the file, from 1
    user_id: str
    item_ids: list[Any]  # the history, int or str, oldest first; may be empty
    constraints: Constraints = field(default_factory=Constraints)


@dataclass(frozen=True, slots=True)
class Rejected:
    """One line that cannot be served: its number, the reason, and its text."""

    line: int
    reason: str
    content: str


def read_requests(
    path: Path, check: Check | None = None, lines: range | None = None, *, text_ids: bool = False
) -> Iterator[Request | Rejected]:
    """Read a request file in its order without holding it in memory: text, CSV, or Parquet by its name.

    It is an error if the file lacks a column, or holds no request although all lines are read.

    Args:
        path: the file.
        check: called with the constraints of each request that has some. If it raises a ``GenrecError``, that is the
            reason why the line is rejected.
        lines: line numbers to read, from 1, in Parquet those of rows; None for all.
        text_ids: whether the ids of the model's items are text.
    """
    if is_parquet(path):
        from genrec_core.recommend.parquet_files import read_parquet  # needs polars

        outcomes = read_parquet(path, check, lines, text_ids)
    else:
        outcomes = _read_text(path, check, lines, text_ids)
    empty = True
    for outcome in outcomes:
        empty = False
        yield outcome
    if empty and lines is None:
        raise _no_requests(path)


def count_lines(path: Path) -> int:
    """Lines of a request file, also a last one without a line end; an empty file is an error."""
    if is_parquet(path):
        from genrec_core.recommend.parquet_files import count_rows

        count = count_rows(path)
    else:
        count, last = 0, b"\n"
        with _opened(path) as file:
            while block := file.read(_BLOCK_BYTES):
                count, last = count + block.count(b"\n"), block[-1:]
        count += last != b"\n"
    if not count:
        raise _no_requests(path)
    return count


def request_of(line: int, cells: _Cells, check: Check | None, text_ids: bool) -> Request:
    """The request of a row: ids and lists as text or as lists of ids; cells of constraints may be absent."""
    user_id, item_ids = user_id_of(cells["user_id"] or ""), item_ids_of(cells["item_ids"] or (), text_ids)
    if not any(cells.get(name) for name in CONSTRAINT_COLUMNS):
        return Request(line, user_id, item_ids)
    lists = (_stripped(cells.get(name)) for name in ("allow", "deny"))
    allow, deny = (item_ids_of(cell, text_ids) if cell else None for cell in lists)
    constraints = Constraints.of(allow, deny, _stripped(cells.get("rule")) or None)
    if check is not None and constraints:
        check(constraints)
    return Request(line, user_id, item_ids, constraints)


def _no_requests(path: Path) -> GenrecError:
    return GenrecError(f"{path}: no requests in it; write lines `user item ...`, CSV or Parquet with user_id,item_ids")


def _stripped(cell: Any) -> Any:
    return cell.strip() if isinstance(cell, str) else cell


def _read_text(path: Path, check: Check | None, lines: range | None, text_ids: bool) -> Iterator[Request | Rejected]:
    parse: Callable[[str], _Cells] | None = None
    for number, raw in _lines(path):
        if lines is not None and number >= lines.stop:
            return
        if parse is None:
            header = _csv_header(raw, f"{path}: line {number}")
            parse = partial(_text_row, text_ids) if header is None else _csv_parser(*header)
            if header is not None:
                continue
        if lines is None or number in lines:
            yield _outcome(number, raw, parse, check, text_ids)


def _outcome(
    number: int, raw: bytes, parse: Callable[[str], _Cells], check: Check | None, text_ids: bool
) -> Request | Rejected:
    try:
        return request_of(number, parse(_decoded(raw)), check, text_ids)
    except GenrecError as error:
        return Rejected(number, str(error), raw.decode("utf-8", errors="replace"))


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Numbered lines that are not blank, without their line ends."""
    number = 0
    with _opened(path) as file:
        while raw := file.readline(LONGEST_LINE):
            number += 1
            if not raw.endswith(b"\n") and len(raw) == LONGEST_LINE:
                while (rest := file.readline(LONGEST_LINE)) and not rest.endswith(b"\n"):
                    pass
            elif number == 1:
                raw = raw.removeprefix(_BOM)
            if raw.strip():
                yield number, raw.rstrip(b"\r\n")


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise GenrecError(f"{path}: cannot be read ({error.strerror or error}); name a request file") from error


def _decoded(raw: bytes) -> str:
    if len(raw) >= LONGEST_LINE:
        raise GenrecError(f"the line is longer than {LONGEST_LINE} bytes")
    if b"\0" in raw:
        raise GenrecError("the line holds a NUL byte")
    if b"\r" in raw:  # a parser takes it for white space; the items of two users would become those of one
        raise GenrecError("the line holds a carriage return that does not end it; end lines with LF or CRLF")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise GenrecError(f"byte {error.start + 1} of the line is not UTF-8; {SAVE_AS_UTF8}") from error


def _csv_header(raw: bytes, place: str) -> tuple[str, list[str]] | None:
    """The delimiter and the column names, if the first line of a file is a CSV header."""
    if is_utf16(raw):
        raise GenrecError(f"{place}: the file is UTF-16; {SAVE_AS_UTF8}")
    line = raw.decode("utf-8", errors="replace")
    header = csv_header(line, {"user_id", "item_ids"})
    if header is None and _NAMES.search(line):
        raise GenrecError(f"{place}: {line[:60]!r} is no header of requests; name the columns user_id and item_ids")
    return header


def _csv_parser(delimiter: str, header: list[str]) -> Callable[[str], _Cells]:
    for name in ("user_id", "item_ids", *CONSTRAINT_COLUMNS):
        if header.count(name) > 1:
            raise GenrecError(f"the header of the requests names {name} twice; leave one of the columns out")
    csv.field_size_limit(LONGEST_LINE)

    def parse(line: str) -> _Cells:
        try:
            fields = csv_row(line, delimiter)
        except csv.Error as error:
            raise GenrecError(f"not a CSV row ({error})") from error
        if len(fields) != len(header):
            counts = f"{len(fields)} fields where the header has {len(header)}"
            raise GenrecError(f"{counts}; put quotes around a value that holds {delimiter!r}")
        return dict(zip(header, fields, strict=True))

    return parse


def _text_row(text_ids: bool, line: str) -> _Cells:
    if "," in line or (_TEXT_SEMICOLON if text_ids else _SEMICOLON).match(line):
        raise GenrecError(
            f"a {'comma' if ',' in line else 'semicolon'} in the form `user item item ...`; separate by spaces, or "
            "begin the file with the CSV header user_id,item_ids"
        )
    user_id, *item_ids = line.split() or [""]  # white space of Unicode alone is no user
    return {"user_id": user_id, "item_ids": item_ids}


@dataclass(frozen=True)
class Shard:
    """A range of lines of a request file; the outputs of all parts, joined in order, are the output of the whole."""

    number: int  # of this part, from 1
    count: int  # of all parts

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Read ``i/n``, for example ``2/8``."""
        match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text.strip(), re.ASCII)
        number, count = [int(part) for part in match.groups()] if match else [0, 0]
        if not 1 <= number <= count <= _MOST_SHARDS:
            raise GenrecError(f"shard {text!r:.60}: write i/n, such as 2/8 for part 2 of 8, n at most {_MOST_SHARDS}")
        return cls(number, count)

    def lines(self, total: int, block: int) -> range:
        """The line numbers of this part, from 1, of ``total`` lines.

        ``block`` lines are decoded together and never divided, so that no row depends on the number of parts.
        """
        blocks = math.ceil(total / block)
        first, end = (math.ceil(blocks * part / self.count) * block for part in (self.number - 1, self.number))
        return range(1 + min(first, total), 1 + min(end, total))
