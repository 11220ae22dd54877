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
from genrec_dagster.pages import PLOTS, SMALL, page_address

# Files that hold times or paths, and tables made of the raw files beside them, whose bytes depend on polars.
_NOT_CONTENT = {
    *(MANIFEST, PROVENANCE, "embedding_stats.json", "training_history.json", "experiment.json"),
    *("release.json", "pointer.json", "report.json", "codes.html", PLOTS, ITEMS, HISTORIES),
}
VERDICT = "verdict"  # the first entry of every page
_MOST_ROWS = 40  # of a table
_BAR = 16  # characters of the longest bar
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


def page(verdict: str, shown: Page, numbers: Page | None = None, details: Page | None = None) -> Page:
    """The entries of an asset's page in the order in which a person reads them; Dagster keeps it.

    Args:
        verdict: one plain sentence, which says what the rest means.
        shown: links, tables, examples and pictures.
        numbers: what Dagster plots over time, and short facts; fractions get four significant digits.
        details: hashes, raw JSON and what is rarely read.
    """
    short = {name: rounded(value) if isinstance(value, float) else value for name, value in (numbers or {}).items()}
    return {VERDICT: verdict, **shown, **short, **(details or {})}


def rounded(number: float) -> float:
    """A number of four significant digits."""
    return float(f"{number:.4g}")


def percent(share: float) -> str:
    """A share as text: "92 %"; one decimal below 10 %."""
    return f"{100 * share:.{0 if share >= 0.1 or not share else 1}f} %"


def bars(counts: Mapping[str, int], name: str, what: str) -> list[Row]:
    """Rows that draw ``counts``: a picture that Dagster shows in place.

    Args:
        name: what the keys are.
        what: what is counted.
    """
    total, largest = max(sum(counts.values()), 1), max(counts.values(), default=1)
    return [
        {name: key, what: count, "share": percent(count / total), "": "█" * round(_BAR * count / max(largest, 1))}
        for key, count in counts.items()
    ]


def columns(frame: pl.DataFrame, meanings: Mapping[str, str]) -> dg.MetadataValue:
    """The columns of a frame, with descriptions from ``meanings``."""
    named = [dg.TableColumn(name, str(kind), meanings.get(name)) for name, kind in frame.schema.items()]
    return dg.MetadataValue.table_schema(dg.TableSchema(named))


def table(rows: Sequence[Row], longest: int = 160) -> dg.MetadataValue:
    """A table of at least one row, all with the same columns, which Dagster shows in place.

    Floats have four significant digits. Cells of more than ``longest`` characters are cut, and rows beyond the
    fortieth are only counted.
    """
    types = {bool: "bool", int: "int", float: "float"}
    columns = [dg.TableColumn(name, types.get(type(value), "string")) for name, value in rows[0].items()]
    records = [dg.TableRecord({name: _shown(cell, longest) for name, cell in row.items()}) for row in rows[:_MOST_ROWS]]
    if len(rows) > _MOST_ROWS:
        first, *others = rows[0]
        more = f"and {len(rows) - _MOST_ROWS:,} more, see the files at `path`"
        records.append(dg.TableRecord({first: more, **dict.fromkeys(others, "")}))
    return dg.MetadataValue.table(records, dg.TableSchema(columns))


def _shown(value: str | int | float | None, longest: int) -> str | int | float:
    if isinstance(value, float):
        return rounded(value)
    if isinstance(value, str) and len(value) > longest:
        return f"{value[: longest - 1]}…"
    return "" if value is None else value


def hashes(of_files: Mapping[str, str]) -> dg.MetadataValue:
    """SHA-256 by file, in halves: a whole one is wider than Dagster's table, and cuts off the verdict."""
    return table([{"file": name, "sha256": f"{digest[:32]} {digest[32:]}"} for name, digest in of_files.items()])


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


def pictures(folder: Path, files: Mapping[str, tuple[str, str]]) -> tuple[Page, Page]:
    """Pictures of an asset's page, twice: small and in place, from the server of pages; and as a copy, behind a click.

    The copy is for deployments without that server, and for versions that are gone.

    Args:
        folder: the version's folder, which holds the PNGs.
        files: the name of each entry with the file's name and the title.
    """
    places = {name: page_address(folder, file) for name, (file, _) in files.items()}
    shown: Page = {
        name: dg.MetadataValue.md(f"[![{title}]({places[name]}?{SMALL})]({places[name]})")
        for name, (_, title) in files.items()
    }
    copies: Page = {
        f"{name}_copy": picture((folder / file).read_bytes(), title) for name, (file, title) in files.items()
    }
    return shown, copies


def picture(png: bytes, title: str) -> dg.MetadataValue:
    """A PNG that Dagster shows on a click on "[Show Markdown]", as all Markdown of more than 1,000 characters."""
    return dg.MetadataValue.md(f"![{title}](data:image/png;base64,{base64.b64encode(png).decode()})")


def _cell(value: object, longest: int) -> str:
    text = f"{value:.4f}" if isinstance(value, float) else str(value)
    text = "" if value is None else text.replace("\n", " ")
    text = text if len(text) <= longest else f"{text[: longest - 3]}..."
    return text.replace("|", "\\|")
