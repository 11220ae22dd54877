"""Text files: UTF-8 is read, another encoding is refused by its line; CSV headers and rows. Needs no polars."""

import ast
import csv
import json
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from genrec_core.errors import GenrecError

SAVE_AS_UTF8 = "save the file as UTF-8"
_UTF16_MARKS = tuple(mark.decode(errors="surrogateescape") for mark in (BOM_UTF16_LE, BOM_UTF16_BE))


def utf8_lines(path: Path, newline: str | None = None) -> Iterator[tuple[int, str]]:
    """Numbered lines of a file, from 1, without a byte-order mark; ``newline`` is as for :func:`open`."""
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline=newline) as lines:
        for number, line in enumerate(lines, 1):
            require_utf8(line, path, number)
            yield number, line


def utf8_text(path: Path) -> str:
    """The whole of a file."""
    return "".join(line for _, line in utf8_lines(path))


def require_utf8(line: str, path: Path, number: int) -> None:
    """Refuse a line, decoded with ``errors="surrogateescape"``, that was not UTF-8 or holds a NUL, as UTF-16 does."""
    if "\0" in line or line.startswith(_UTF16_MARKS):
        raise GenrecError(f"{path}: line {number}: UTF-16, or a NUL byte; {SAVE_AS_UTF8}")
    if line != without_halves(line):
        raise GenrecError(f"{path}: line {number}: not UTF-8; {SAVE_AS_UTF8}")


def json_or_literal(line: str) -> dict[str, Any]:
    """The dict of a line, in JSON or as a Python literal; anything else is a ``ValueError``."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        try:
            entry = ast.literal_eval(line)
        except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
            raise ValueError(f"neither JSON nor a Python literal: {line[:60]!r}") from error
    if not isinstance(entry, dict):
        raise ValueError(f"no dict: {line[:60]!r}")
    return entry


def without_halves(text: str) -> str:
    """``text`` with U+FFFD for each half of a surrogate pair, which no file can hold; a pair becomes its letter."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def is_utf16(raw: bytes) -> bool:
    """Whether the first line of a file is UTF-16: it has its mark, or every second byte is zero."""
    marked = raw.startswith((BOM_UTF16_LE, BOM_UTF16_BE))
    return marked or (len(raw) > 1 and (not any(raw[::2]) or not any(raw[1::2])))


def csv_header(line: str, wanted: set[str]) -> tuple[str, list[str]] | None:
    """The delimiter and the column names, in lower case, of a CSV header that names all columns ``wanted``."""
    for delimiter in ",;\t|":  # spreadsheets and databases differ in it
        names = [name.strip().strip('"').strip().lower() for name in line.split(delimiter)]
        if wanted <= set(names):
            return delimiter, names
    return None


def csv_row(line: str, delimiter: str) -> list[str]:
    """The fields of one line; a quote that does not close is a ``csv.Error``."""
    return line.split(delimiter) if '"' not in line else next(csv.reader([line], strict=True, delimiter=delimiter))
