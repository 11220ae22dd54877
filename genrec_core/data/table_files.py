"""Reads the files of a table: CSV in its dialects, JSON lines and Parquet; plain, .gz or .zst; one file or parts."""

import csv
import gzip
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from genrec_core.data.layouts import TableForm, plain_name
from genrec_core.data.text_files import SAVE_AS_UTF8, json_or_literal
from genrec_core.errors import GenrecError

HEAD_ROWS = 1000
_JSON, _PARQUET = (".json", ".jsonl", ".ndjson"), (".parquet", ".pq")
_TEXT = (".csv", ".tsv", ".txt", ".dat", ".data", ".inter", ".item")
DATA_ENDINGS = (*_JSON, *_PARQUET, *_TEXT)
_SEPARATORS, _UNIT = ",;\t|", "\x1f"  # the second stands for a separator of several characters
_LONGEST_ERROR = 200  # characters of another library's words


class Rows(NamedTuple):
    """Columns of a table, and where each row stands."""

    frame: pl.DataFrame
    files: list[Path]
    heights: list[int]  # rows of each file

    def place(self, row: int) -> str:
        """The file and the row of it, from 1, of a row of ``frame``."""
        for path, height in zip(self.files, self.heights, strict=True):
            if row < height:
                return f"{path}: row {row + 1}"
            row -= height
        raise IndexError(row)


def is_data(name: str) -> bool:
    """Whether a file's name is one of a table."""
    return plain_name(name).endswith(DATA_ENDINGS)


def read_head(path: Path, form: TableForm) -> pl.DataFrame:
    """The first rows of a file with all columns, for what they look like; texts and JSON as text."""
    if _ends(path, _JSON):
        objects = [entry for _, entry in zip(range(HEAD_ROWS), json_objects(path), strict=False)]
        names = list(dict.fromkeys(name for entry in objects for name in entry))
        return pl.DataFrame({name: [_as_text(entry.get(name)) for entry in objects] for name in names})
    with _named_faults(path, form):
        return _scan(path, form).head(HEAD_ROWS).collect()


def read_columns(files: Sequence[Path], form: TableForm, columns: Sequence[str]) -> Rows:
    """Some columns of all files, one behind the other: typed from Parquet, else as text; empty cells are null.

    Raises:
        GenrecError: a file that is cut, malformed or not UTF-8, with its line where that can be told.
    """
    frames = []
    for path in files:
        with _named_faults(path, form):
            scan = _scan_json(path, columns) if _ends(path, _JSON) else _scan(path, form)
            if missing := [name for name in columns if name not in scan.collect_schema()]:
                raise GenrecError(f"{path}: has no column {missing[0]}, which {files[0].name} has; add it")
            frames.append(scan.select(columns).collect())
    return Rows(pl.concat(frames, how="vertical_relaxed"), list(files), [frame.height for frame in frames])


def read_cells(files: Sequence[Path], form: TableForm) -> dict[str, list[Any]]:
    """All cells of the files by column: text from CSV, values of any type from JSON, Python's from Parquet."""
    cells: dict[str, list[Any]] = {}
    rows = 0
    for path in files:
        if _ends(path, _JSON):
            for entry in json_objects(path):
                for name, value in entry.items():
                    column = cells.setdefault(name, [])
                    column.extend([None] * (rows - len(column)))
                    column.append(value)
                rows += 1
        else:
            with _named_faults(path, form):
                frame = _scan(path, form).collect()
            for name in frame.columns:
                column = cells.setdefault(name, [])
                column.extend([None] * (rows - len(column)))
                column.extend(frame[name].to_list())
            rows += frame.height
    for column in cells.values():
        column.extend([None] * (rows - len(column)))
    return cells


def json_objects(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of JSON lines or of one JSON array. Python literals, which some data sets have, are read too."""
    with _named_faults(path, None):
        if _first_line(path).lstrip().startswith("["):
            text = "\n".join(pl.scan_lines(path).collect()["line"].to_list())
            try:
                entries = json.loads(text)
            except ValueError as error:
                raise GenrecError(f"{path}: not a JSON array ({error}); mend it") from error
            if not all(isinstance(entry, dict) for entry in entries):
                raise GenrecError(f"{path}: not an array of JSON objects; write one object a row")
            yield from entries
            return
        lines = (line for batch in pl.scan_lines(path).collect_batches() for line in batch["line"].to_list())
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    yield json_or_literal(line.strip().lstrip("\ufeff"))
                except ValueError as error:
                    raise GenrecError(f"{path}: line {number}: {error}; write one JSON object a line") from error


def _scan(path: Path, form: TableForm) -> pl.LazyFrame:
    """A file of CSV or Parquet, all its columns."""
    if _ends(path, _PARQUET):
        return pl.scan_parquet(path)
    source: Path | BytesIO = path
    separator = form.separator or _separator(path)
    if len(separator) > 1 or form.encoding != "utf-8":
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt", encoding=form.encoding, newline="") as file:
            source = BytesIO(file.read().replace(separator, _UNIT).encode())
        separator = _UNIT
    scan = pl.scan_csv(
        source,
        separator=separator,
        has_header=not form.header,
        infer_schema=False,
        null_values=["\\N"],  # as databases write it
        quote_char=None if form.separator else '"',
    )
    if form.header:
        found = scan.collect_schema().names()
        if len(found) != len(form.header):
            raise GenrecError(
                f"{path}: has {len(found)} columns, not the {len(form.header)} named ones; name all of them"
            )
        return scan.rename(dict(zip(found, form.header, strict=True)))
    return scan.rename(lambda name: name.strip().strip('"'))


def _scan_json(path: Path, columns: Sequence[str]) -> pl.LazyFrame:
    """Some columns of JSON lines, as text."""
    if _first_line(path).lstrip().startswith("["):
        rows = [{name: _as_text(entry.get(name)) for name in columns} for entry in json_objects(path)]
        return pl.LazyFrame(rows, schema=dict.fromkeys(columns, pl.String))
    line = pl.col("line").str.strip_chars("\ufeff \t\r\n")
    decoded = line.str.json_decode(pl.Struct(dict.fromkeys(columns, pl.String)))
    return pl.scan_lines(path).filter(line != "").select(decoded.alias("line")).unnest("line")


def _separator(path: Path) -> str:
    """The character that parts the names in the first line."""
    first = _first_line(path)
    return max(_SEPARATORS, key=first.count)


def _first_line(path: Path) -> str:
    lines: list[str] = pl.scan_lines(path).head(1).collect()["line"].to_list()
    if not lines:
        raise GenrecError(f"{path}: is empty; get it again, or take it away")
    return lines[0].lstrip("\ufeff")


def _ends(path: Path, endings: tuple[str, ...]) -> bool:
    return plain_name(path.name).endswith(endings)


def _as_text(value: Any) -> str | None:
    return None if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


@contextmanager
def _named_faults(path: Path, form: TableForm | None) -> Iterator[None]:
    """Tell a fault of a file by its name, the line where it can be found, and the remedy."""
    try:
        yield
    except (pl.exceptions.PolarsError, OSError, EOFError, UnicodeDecodeError) as error:
        found = None if _ends(path, _PARQUET) else _faulty_line(path, form)
        reason = found or " ".join(str(error).split())[:_LONGEST_ERROR]
        raise GenrecError(f"{path}: {reason}; mend the file, or get it again") from error


def _faulty_line(path: Path, form: TableForm | None) -> str | None:
    """The first line that cannot be read and why; None where that cannot be told."""
    opened = gzip.open if path.suffix == ".gz" else open
    is_json = _ends(path, _JSON)
    number, fields = 0, 0
    try:
        with opened(path, "rt", encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
            for number, line in enumerate(lines, 1):
                if not line.isprintable() and any("\udc80" <= letter <= "\udcff" for letter in line):
                    return f"line {number}: not UTF-8; {SAVE_AS_UTF8}"
                if is_json and line.strip() and not _is_object(line):
                    return f"line {number}: no JSON object: {line.strip()[:60]!r}"
            if is_json or form is None or form.separator:
                return None
            lines.seek(0)
            reader = csv.reader(lines, strict=True, delimiter=_separator(path))
            for record in reader:
                fields = fields or len(record)
                if len(record) > fields:
                    return f"line {reader.line_num}: {len(record)} cells, but {fields} columns"
    except csv.Error as error:
        return f"line {reader.line_num}: {error}"
    except (OSError, EOFError, pl.exceptions.PolarsError):
        return None
    return None


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False
