"""Building blocks of asset metadata: content versions, tables and pictures."""

import base64
import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from genrec_core.data.sources import HISTORIES, ITEMS, PROVENANCE
from genrec_core.storage.artifacts import MANIFEST, sha256_of

# Files that hold times or paths, and tables made of the raw files beside them, whose bytes depend on polars.
_NOT_CONTENT = {
    *(MANIFEST, PROVENANCE, "embedding_stats.json", "training_history.json", "experiment.json"),
    *("release.json", "pointer.json", "report.json", ITEMS, HISTORIES),
}
Row = Mapping[str, str | int | float | bool | None]
Page = dict[str, int | float | str | dict[str, Any] | dg.MetadataValue]


def content_version(folder: Path) -> dg.DataVersion:
    """A hash of the names and contents of all files, except those that only describe how ``folder`` was made."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in _NOT_CONTENT:
            digest.update(f"{name} {sha256_of(path)}\n".encode())
    return dg.DataVersion(digest.hexdigest())


def frame_version(frame: pl.DataFrame) -> dg.DataVersion:
    """A hash of a frame's names, types and values."""
    content = io.BytesIO()
    frame.write_ipc(content, compression="uncompressed")
    return dg.DataVersion(hashlib.sha256(content.getbuffer()).hexdigest())


def columns(frame: pl.DataFrame, meanings: Mapping[str, str]) -> dg.MetadataValue:
    """The columns of a frame, with descriptions from ``meanings``."""
    named = [dg.TableColumn(name, str(kind), meanings.get(name)) for name, kind in frame.schema.items()]
    return dg.MetadataValue.table_schema(dg.TableSchema(named))


def table(rows: Sequence[Row]) -> dg.MetadataValue:
    """A table of at least one row, all with the same columns; floats have four significant digits."""
    types = {bool: "bool", int: "int", float: "float"}
    columns = [dg.TableColumn(name, types.get(type(value), "string")) for name, value in rows[0].items()]
    records = [dg.TableRecord({name: _shown(cell) for name, cell in row.items()}) for row in rows]
    return dg.MetadataValue.table(records, dg.TableSchema(columns))


def _shown(value: str | int | float | None) -> str | int | float:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    return "" if value is None else value


def markdown_table(rows: Sequence[Mapping[str, object]], longest: int = 80) -> str:
    """Rows as a GitHub-style table; cells longer than ``longest`` characters are cut."""
    if not rows:
        return "(no rows)"
    lines = [
        list(rows[0]),
        ["---"] * len(rows[0]),
        *([_cell(value, longest) for value in row.values()] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def markdown(rows: Sequence[Mapping[str, object]], longest: int = 80) -> dg.MetadataValue:
    """A table that Dagster shows on a click; see :func:`markdown_table`."""
    return dg.MetadataValue.md(markdown_table(rows, longest))


def picture(png: bytes, title: str) -> dg.MetadataValue:
    """A PNG that Dagster shows in place."""
    return dg.MetadataValue.md(f"![{title}](data:image/png;base64,{base64.b64encode(png).decode()})")


def _cell(value: object, longest: int) -> str:
    text = f"{value:.4f}" if isinstance(value, float) else str(value)
    text = "" if value is None else text.replace("\n", " ")
    text = text if len(text) <= longest else f"{text[: longest - 3]}..."
    return text.replace("|", "\\|")
