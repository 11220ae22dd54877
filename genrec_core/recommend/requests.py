"""Reads request files line by line: ``user item item ...``, or CSV with the columns ``user_id`` and ``item_ids``.

CSV may also hold the columns ``allow``, ``deny`` (item ids) and ``rule``, which restrict that user's list. Its columns
are parted by a comma, a semicolon, a tab or a bar, as its header says.
"""

import csv
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from genrec_core.data.text_files import SAVE_AS_UTF8, csv_header, csv_row, is_utf16
from genrec_core.errors import GenrecError
from genrec_core.recommend.constraints import Constraints

LONGEST_LINE = 16 << 20  # bytes; a longer line is rejected, so that a file without line ends cannot fill the memory
CONSTRAINT_COLUMNS = ("allow", "deny", "rule")
_BLOCK_BYTES = 1 << 20
_BOM = b"\xef\xbb\xbf"
_INTEGER = re.compile(r"-?[0-9]{1,18}", re.ASCII)  # 18 digits always fit int64
_NAMES = re.compile(r"\b(user_id|item_ids)\b", re.IGNORECASE)
_SEMICOLON = re.compile(r"\s*\S*;-?[0-9]+(\s|$)")  # a row of CSV without a header: the first item beside the user
_SHOWN = 60  # characters of a faulty value that a reason quotes


@dataclass(frozen=True, slots=True)
class Request:
    """One user to serve.

    Args:
        line: line number in the file, from 1.
        user_id: as written.
        item_ids: the history, oldest first; may be empty.
        constraints: what this user's list is restricted to.
    """

    line: int
    user_id: str
    item_ids: list[int]
    constraints: Constraints = field(default_factory=Constraints)


@dataclass(frozen=True, slots=True)
class Rejected:
    """One line that cannot be served: its number, why, and its text."""

    line: int
    reason: str
    content: str


_Parse = Callable[[str], tuple[str, list[int], Constraints]]
Check = Callable[[Constraints], object]  # raises a GenrecError for constraints that cannot be met


class MalformedError(Exception):
    """A line that is not a request; the message is the reason."""


def read_requests(path: Path, check: Check | None = None, lines: range | None = None) -> Iterator[Request | Rejected]:
    """Read a request file, one line at a time, in its order.

    The first line that is not blank decides the form: a CSV header that names ``user_id`` and ``item_ids`` (columns
    other than these, ``allow``, ``deny`` and ``rule`` are ignored), else text. Ids are integers separated by spaces, or
    a list such as ``"[1, 2, 3]"``. Blank lines are skipped; a byte-order mark and CRLF line ends are accepted.

    Args:
        path: the file.
        check: called with the constraints of every request that has some; its ``GenrecError`` is the reason why the
            line is rejected.
        lines: line numbers to read, from 1; None for all.

    Raises:
        GenrecError: the file cannot be read, is UTF-16, begins with a header that lacks a column, or holds no request
            line at all (where all are read).
    """
    found = False
    for outcome in _outcomes(path, check, lines):
        found = True
        yield outcome
    if not found and lines is None:
        raise GenrecError(f"{path}: no requests in it; write lines `user item item ...`, or CSV under user_id,item_ids")


def count_lines(path: Path) -> int:
    """Lines of a file, the last one also where it has no line end.

    Raises:
        GenrecError: the file cannot be read.
    """
    count, last = 0, b"\n"
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                count, last = count + block.count(b"\n"), block[-1:]
    except OSError as error:
        raise _unreadable(path, error) from error
    return count + (last != b"\n")


def _outcomes(path: Path, check: Check | None, lines: range | None) -> Iterator[Request | Rejected]:
    parse: _Parse | None = None
    for number, raw in _lines(path):
        if lines is not None and number >= lines.stop:
            return
        if parse is None:
            header = _csv_header(raw, f"{path}: line {number}")
            parse = _text_row if header is None else _csv_row(*header)
            if header is not None:
                continue
        if lines is None or number in lines:
            yield _outcome(number, raw, parse, check)


def _outcome(number: int, raw: bytes, parse: _Parse, check: Check | None) -> Request | Rejected:
    try:
        user_id, item_ids, constraints = parse(_decoded(raw))
        if check is not None and constraints:
            check(constraints)
    except (MalformedError, GenrecError) as error:
        return Rejected(number, str(error), raw.decode("utf-8", errors="replace"))
    return Request(number, user_id, item_ids, constraints)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Numbered lines that are not blank, without their line ends."""
    try:
        with path.open("rb") as file:
            number = 0
            while raw := file.readline(LONGEST_LINE):
                number += 1
                if not raw.endswith(b"\n") and len(raw) == LONGEST_LINE:
                    _skip_line(file)
                elif number == 1:
                    raw = raw.removeprefix(_BOM)
                if raw.strip():
                    yield number, raw.rstrip(b"\r\n")
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> GenrecError:
    return GenrecError(f"{path}: cannot be read ({error.strerror or error}); name a readable request file")


def _skip_line(file: BinaryIO) -> None:
    """Read to the end of the line and keep nothing."""
    while (rest := file.readline(LONGEST_LINE)) and not rest.endswith(b"\n"):
        pass


def _decoded(raw: bytes) -> str:
    if len(raw) >= LONGEST_LINE:
        raise MalformedError(f"the line is longer than {LONGEST_LINE} bytes")
    if b"\0" in raw:
        raise MalformedError("the line holds a NUL byte")
    if b"\r" in raw:  # white space to a parser, but where lines end so elsewhere, two users' items would become one's
        raise MalformedError("the line holds a carriage return that does not end it; end lines with LF or CRLF")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedError(f"byte {error.start + 1} of the line is not UTF-8; {SAVE_AS_UTF8}") from error


def _csv_header(raw: bytes, place: str) -> tuple[str, list[str]] | None:
    """The delimiter and the column names, if the first line of a file is the header of the CSV form.

    Raises:
        GenrecError: the file is UTF-16, or the header lacks a column; names ``place``.
    """
    if is_utf16(raw):
        raise GenrecError(f"{place}: the file is UTF-16; {SAVE_AS_UTF8}")
    line = raw.decode("utf-8", errors="replace")
    header = csv_header(line, {"user_id", "item_ids"})
    if header is None and _NAMES.search(line):
        raise GenrecError(f"{place}: {line[:_SHOWN]!r} is no header of requests; name the columns user_id and item_ids")
    return header


def _csv_row(delimiter: str, header: list[str]) -> _Parse:
    """The parser of a data row under ``header``."""
    for name in ("user_id", "item_ids", *CONSTRAINT_COLUMNS):
        if header.count(name) > 1:
            raise GenrecError(f"the header of the requests names {name} twice; leave one of the columns out")
    user_column, items_column = header.index("user_id"), header.index("item_ids")
    restricting = {name: header.index(name) for name in CONSTRAINT_COLUMNS if name in header}

    def parse(line: str) -> tuple[str, list[int], Constraints]:
        fields = _csv_fields(line, delimiter)
        if len(fields) != len(header):
            raise MalformedError(
                f"{len(fields)} fields where the header has {len(header)}; put quotes around a value that holds "
                f"{delimiter!r}"
            )
        user_id = user_id_of(fields[user_column])
        cells = {name: fields[column].strip() for name, column in restricting.items()}
        return user_id, item_ids_of(fields[items_column].strip()), constraints_of(cells)

    return parse


def user_id_of(text: str) -> str:
    """A user's id without the white space around it.

    Raises:
        MalformedError: it is empty, or holds a line end, which would divide a row of the output.
    """
    user_id = text.strip()
    if not user_id:
        raise MalformedError("user_id is empty")
    if "\n" in user_id or "\r" in user_id:
        raise MalformedError("user_id holds a line end")
    return user_id


def constraints_of(cells: dict[str, str]) -> Constraints:
    """The constraints that the cells of ``allow``, ``deny`` and ``rule`` hold; an empty cell restricts nothing.

    Raises:
        MalformedError: a list holds something that is no id.
    """
    if not any(cells.values()):
        return Constraints()
    allow, deny = (item_ids_of(cell) if (cell := cells.get(name)) else None for name in ("allow", "deny"))
    return Constraints.of(allow, deny, cells.get("rule") or None)


def _csv_fields(line: str, delimiter: str) -> list[str]:
    csv.field_size_limit(LONGEST_LINE)
    try:
        return csv_row(line, delimiter)
    except csv.Error as error:
        raise MalformedError(f"not a CSV row ({error})") from error


def _text_row(line: str) -> tuple[str, list[int], Constraints]:
    if "," in line or _SEMICOLON.match(line):
        raise MalformedError(
            f"a {'comma' if ',' in line else 'semicolon'} in the form `user item item ...`; separate by spaces, or "
            "begin the file with the CSV header user_id,item_ids"
        )
    words = line.split()
    if not words:
        raise MalformedError("nothing but Unicode's white space")
    user_id, *items = words
    return user_id, [_item_id(item) for item in items], Constraints()


def item_ids_of(text: str) -> list[int]:
    """Integers separated by spaces, or a bracketed list separated by commas."""
    if not text.startswith("["):
        return [_item_id(item) for item in text.split()]
    if not text.endswith("]"):
        raise MalformedError("item_ids begins with [ but does not end with ]")
    inner = text[1:-1].strip()
    return [_item_id(item.strip().strip("'\"")) for item in inner.split(",")] if inner else []


def _item_id(text: str) -> int:
    if _INTEGER.fullmatch(text) is None:
        raise MalformedError(f"item {text[:_SHOWN]!r} is not an integer id")
    return int(text)
