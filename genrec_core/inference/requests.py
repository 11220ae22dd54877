"""Reads request files line by line: ``user item item ...``, or CSV with the columns ``user_id`` and ``item_ids``."""

import csv
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from genrec_core.errors import GenrecError

LONGEST_LINE = 16 << 20  # bytes; a longer line is rejected, so that a file without line ends cannot fill the memory
_BOM = b"\xef\xbb\xbf"
_INTEGER = re.compile(r"-?[0-9]{1,18}", re.ASCII)  # 18 digits always fit int64
_SHOWN = 60  # characters of a faulty value that a reason quotes


@dataclass(frozen=True, slots=True)
class Request:
    """One user to serve.

    Args:
        line: line number in the file, from 1.
        user_id: as written.
        item_ids: the history, oldest first; may be empty.
    """

    line: int
    user_id: str
    item_ids: list[int]


@dataclass(frozen=True, slots=True)
class Rejected:
    """One line that cannot be served: its number, why, and its text."""

    line: int
    reason: str
    content: str


_Parse = Callable[[str], tuple[str, list[int]]]


class _MalformedError(Exception):
    """A line that is not a request; the message is the reason."""


def read_requests(path: Path) -> Iterator[Request | Rejected]:
    """Read a request file, one line at a time, in its order.

    The first line that is not blank decides the form: a CSV header that names ``user_id`` and ``item_ids`` (further
    columns are ignored), else text. ``item_ids`` holds integers separated by spaces, or a list such as ``"[1, 2, 3]"``.
    Blank lines are skipped; a byte-order mark and CRLF line ends are accepted.

    Raises:
        GenrecError: the file cannot be read, or holds no request line at all.
    """
    found = False
    for outcome in _outcomes(path):
        found = True
        yield outcome
    if not found:
        raise GenrecError(f"{path}: no requests in it; write lines `user item item ...`, or CSV under user_id,item_ids")


def _outcomes(path: Path) -> Iterator[Request | Rejected]:
    parse: _Parse | None = None
    for number, raw in _lines(path):
        if parse is None:
            header = _csv_header(raw)
            parse = _text_row if header is None else _csv_row(header)
            if header is not None:
                continue
        yield _outcome(number, raw, parse)


def _outcome(number: int, raw: bytes, parse: _Parse) -> Request | Rejected:
    try:
        user_id, item_ids = parse(_decoded(raw))
    except _MalformedError as error:
        return Rejected(number, str(error), raw.decode("utf-8", errors="replace"))
    return Request(number, user_id, item_ids)


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
        raise GenrecError(
            f"{path}: cannot be read ({error.strerror or error}); name a readable request file"
        ) from error


def _skip_line(file: BinaryIO) -> None:
    """Read to the end of the line and keep nothing."""
    while (rest := file.readline(LONGEST_LINE)) and not rest.endswith(b"\n"):
        pass


def _decoded(raw: bytes) -> str:
    if len(raw) >= LONGEST_LINE:
        raise _MalformedError(f"the line is longer than {LONGEST_LINE} bytes")
    if b"\0" in raw:
        raise _MalformedError("the line holds a NUL byte")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _MalformedError(f"byte {error.start + 1} of the line is not UTF-8") from error


def _csv_header(raw: bytes) -> list[str] | None:
    """Column names, if the line is the header of the CSV form."""
    names = [name.strip().strip('"').lower() for name in raw.decode("utf-8", errors="replace").split(",")]
    return names if {"user_id", "item_ids"} <= set(names) else None


def _csv_row(header: list[str]) -> _Parse:
    """The parser of a data row under ``header``."""
    user_column, items_column = header.index("user_id"), header.index("item_ids")

    def parse(line: str) -> tuple[str, list[int]]:
        fields = _csv_fields(line)
        if len(fields) != len(header):
            raise _MalformedError(
                f"{len(fields)} fields where the header has {len(header)}; put quotes around a value that holds commas"
            )
        user_id = fields[user_column].strip()
        if not user_id:
            raise _MalformedError("user_id is empty")
        return user_id, _item_ids(fields[items_column].strip())

    return parse


def _csv_fields(line: str) -> list[str]:
    if '"' not in line:
        return line.split(",")
    csv.field_size_limit(LONGEST_LINE)
    try:
        return next(csv.reader([line], strict=True))
    except csv.Error as error:
        raise _MalformedError(f"not a CSV row ({error})") from error


def _text_row(line: str) -> tuple[str, list[int]]:
    if "," in line:
        raise _MalformedError(
            "a comma in the form `user item item ...`; separate by spaces, or begin the file with the CSV header "
            "user_id,item_ids"
        )
    user_id, *items = line.split()
    return user_id, [_item_id(item) for item in items]


def _item_ids(text: str) -> list[int]:
    """Integers separated by spaces, or a bracketed list separated by commas."""
    if not text.startswith("["):
        return [_item_id(item) for item in text.split()]
    if not text.endswith("]"):
        raise _MalformedError("item_ids begins with [ but does not end with ]")
    inner = text[1:-1].strip()
    return [_item_id(item.strip().strip("'\"")) for item in inner.split(",")] if inner else []


def _item_id(text: str) -> int:
    if _INTEGER.fullmatch(text) is None:
        raise _MalformedError(f"item {text[:_SHOWN]!r} is not an integer id")
    return int(text)
