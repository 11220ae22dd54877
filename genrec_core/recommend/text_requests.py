"""Reads request files of text: lines ``user item item ...``, or CSV with the columns ``user_id`` and ``item_ids``.

CSV may also hold the columns ``allow``, ``deny`` (item ids) and ``rule``, which restrict that user's list. The header
shows what separates the columns: a comma, a semicolon, a tab or a bar. The first line that is not blank decides the
form. Blank lines are skipped; a byte-order mark and CRLF line ends are accepted.
"""

import csv
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from genrec_core.data.ids import item_ids_of, user_id_of
from genrec_core.data.text_files import SAVE_AS_UTF8, csv_header, csv_row, is_utf16
from genrec_core.errors import GenrecError
from genrec_core.recommend.constraints import Constraints
from genrec_core.recommend.requests import CONSTRAINT_COLUMNS, Check, Rejected, Request, constraints_of

LONGEST_LINE = 16 << 20  # bytes; a longer line is rejected, so that a file without line ends cannot fill the memory
_BLOCK_BYTES = 1 << 20
_BOM = b"\xef\xbb\xbf"
_NAMES = re.compile(r"\b(user_id|item_ids)\b", re.IGNORECASE)
_SEMICOLON = re.compile(r"\s*\S*;-?[0-9]+(\s|$)")  # a CSV row without a header: the first item follows the user
_Row = tuple[str, list[int], Constraints]


def has_integer_users(path: Path) -> bool:
    return False


def count_lines(path: Path) -> int:
    """Lines of a file, also a last one without a line end."""
    count, last = 0, b"\n"
    with _opened(path) as file:
        while block := file.read(_BLOCK_BYTES):
            count, last = count + block.count(b"\n"), block[-1:]
    return count + (last != b"\n")


def read(path: Path, check: Check | None, lines: range | None) -> Iterator[Request | Rejected]:
    """See :func:`genrec_core.recommend.requests.read_requests`."""
    parse: Callable[[str], _Row] | None = None
    for number, raw in _lines(path):
        if lines is not None and number >= lines.stop:
            return
        if parse is None:
            header = _csv_header(raw, f"{path}: line {number}")
            parse = _text_row if header is None else _csv_parser(*header)
            if header is not None:
                continue
        if lines is None or number in lines:
            yield _outcome(number, raw, parse, check)


def _outcome(number: int, raw: bytes, parse: Callable[[str], _Row], check: Check | None) -> Request | Rejected:
    try:
        user_id, item_ids, constraints = parse(_decoded(raw))
        if check is not None and constraints:
            check(constraints)
    except GenrecError as error:
        return Rejected(number, str(error), raw.decode("utf-8", errors="replace"))
    return Request(number, user_id, item_ids, constraints)


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


def _csv_parser(delimiter: str, header: list[str]) -> Callable[[str], _Row]:
    for name in ("user_id", "item_ids", *CONSTRAINT_COLUMNS):
        if header.count(name) > 1:
            raise GenrecError(f"the header of the requests names {name} twice; leave one of the columns out")
    csv.field_size_limit(LONGEST_LINE)

    def parse(line: str) -> _Row:
        try:
            fields = csv_row(line, delimiter)
        except csv.Error as error:
            raise GenrecError(f"not a CSV row ({error})") from error
        if len(fields) != len(header):
            counts = f"{len(fields)} fields where the header has {len(header)}"
            raise GenrecError(f"{counts}; put quotes around a value that holds {delimiter!r}")
        cells = dict(zip(header, fields, strict=True))
        return user_id_of(cells["user_id"]), item_ids_of(cells["item_ids"]), constraints_of(cells)

    return parse


def _text_row(line: str) -> _Row:
    if "," in line or _SEMICOLON.match(line):
        raise GenrecError(
            f"a {'comma' if ',' in line else 'semicolon'} in the form `user item item ...`; separate by spaces, or "
            "begin the file with the CSV header user_id,item_ids"
        )
    words = line.split()
    if not words:
        raise GenrecError("nothing but Unicode's white space")
    return user_id_of(words[0]), item_ids_of(words[1:]), Constraints()
