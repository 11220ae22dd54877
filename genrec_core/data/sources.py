"""The forms of raw data, and the two tables that each form gives: items and histories.

A new form is one file like ``p5.py`` and one line in ``SOURCES``.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from genrec_core.data import p5
from genrec_core.data.archive import errors_naming, opened_source
from genrec_core.data.histories import OPTIONAL_COLUMNS
from genrec_core.data.item_text import TEXT_FIELDS, render_text, template_parts
from genrec_core.data.sample import write_sample
from genrec_core.errors import GenrecError
from genrec_core.settings import CatalogSettings
from genrec_core.storage.artifacts import atomic_folder, read_json, sha256_of, write_json
from genrec_core.storage.redact import without_secrets

PROVENANCE, ITEMS, HISTORIES = "provenance.json", "items.parquet", "histories.parquet"


class Source(NamedTuple):
    """A form of raw data: the names of its files, and what reads a folder of them. Errors name the file and the line.

    ``read_items`` gives ``item_id`` Int64 (ascending), the columns of ``TEXT_FIELDS``, ``source_id`` (the text of an
    item of which nothing else is known) and ``described`` (whether it has a description). ``read_histories`` gives
    ``user_id`` Utf8 and ``item_ids`` List(Int64), oldest first.
    """

    files: tuple[str, ...]
    read_items: Callable[[Path], pl.DataFrame]
    read_histories: Callable[[Path], pl.DataFrame]
    require_known_items: Callable[[Path, pl.DataFrame, pl.DataFrame], None]  # refuses unknown items in the histories


SOURCES = {"p5": Source(p5.RAW_FILES, p5.read_items, p5.read_histories, p5.require_known_items)}


class Tables(NamedTuple):
    """Raw data in the columns that :class:`Source` names."""

    items: pl.DataFrame
    histories: pl.DataFrame


def receive_raw(place: str | None, target: Path, sha256: str | None = None, form: str = "p5") -> dict[str, Any]:
    """Copy the raw files to the folder ``target`` and store their tables beside them, all or nothing.

    ``place`` and ``sha256`` are as for :func:`genrec_core.data.archive.opened_source`; None: the synthetic sample.
    Returns ``source`` without passwords, ``form``, ``files`` (bytes and sha256 by name), and counts of their content.
    """
    source = SOURCES[form]
    with atomic_folder(target) as folder:
        if place is None:
            write_sample(folder)
            return {"source": "embedded sample", **_store_tables(folder, form)}
        with opened_source(place, source.files, sha256) as opened:
            for name in source.files:
                shutil.copyfile(opened / name, folder / name)
            with errors_naming(str(opened), folder):
                return {"source": without_secrets(place), **_store_tables(folder, form)}


def load_tables(raw: Path) -> Tables:
    """The tables of a folder of raw files: stored by :func:`receive_raw`, or parsed if the files are others."""
    stored: dict[str, Any] = read_json(raw / PROVENANCE) if (raw / PROVENANCE).is_file() else {}
    source = SOURCES[stored.get("form", "p5")]
    if stored and stored["files"] == _file_facts(raw, source):
        return Tables(pl.read_parquet(raw / ITEMS), pl.read_parquet(raw / HISTORIES))
    return Tables(source.read_items(raw), source.read_histories(raw))


def read_catalog(raw: Path, settings: CatalogSettings) -> pl.DataFrame:
    """The item catalogue of a folder of raw files, sorted by id: ``item_id``, the text fields, and ``text``.

    ``text`` is never empty: an item of which nothing is known gets its ``source_id``.
    """
    items, parts = load_tables(raw).items, template_parts(settings.text_template)
    rows = [
        {**row, "text": render_text(parts, row) or f"Item: {row['source_id']};"} for row in items.iter_rows(named=True)
    ]
    return pl.DataFrame(rows, schema={**items.drop("source_id", "described").schema, "text": pl.String})


def read_user_histories(path: Path) -> pl.DataFrame:
    """Read ``user_histories`` from a parquet file, a folder with one, or a folder of raw files."""
    if (path / p5.SEQUENCES).is_file():
        return p5.read_histories(path)
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if len(files) != 1 or not files[0].is_file():
        raise GenrecError(f"{path}: no user histories; give a parquet file or its folder, or one with {p5.SEQUENCES}")
    try:
        frame = pl.read_parquet(files[0])
        optional = [name for name in OPTIONAL_COLUMNS if name in frame.columns]  # without them the split is another
        return frame.select(pl.col("user_id").cast(pl.String), pl.col("item_ids").cast(pl.List(pl.Int64)), *optional)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise GenrecError(f"{files[0]}: not parquet with user_id and lists of integer item_ids ({error})") from error


def read_stored_catalog(source: Path) -> pl.DataFrame:
    """The frame of ``item_catalog`` from its parquet file, or from the folder that holds it."""
    files = sorted(source.glob("*.parquet")) if source.is_dir() else [source]
    if len(files) != 1:
        raise GenrecError(f"{source}: holds {len(files)} parquet files; name the one of the item catalogue")
    try:
        return pl.read_parquet(files[0])
    except (pl.exceptions.PolarsError, OSError) as error:
        raise GenrecError(f"{files[0]}: not a parquet file ({error}); name the item catalogue's") from error


def _store_tables(folder: Path, form: str) -> dict[str, Any]:
    """Parse the raw files in ``folder``, store their tables beside them, and count their content."""
    source = SOURCES[form]
    items, histories = source.read_items(folder), source.read_histories(folder)
    source.require_known_items(folder, items, histories)
    items.write_parquet(folder / ITEMS)
    histories.write_parquet(folder / HISTORIES)
    texts = [name for name in TEXT_FIELDS if items.schema[name] == pl.String]
    facts = {
        "form": form,
        "files": _file_facts(folder, source),
        "users": histories.height,
        "items": items.height,
        "interactions": int(histories["item_ids"].list.len().sum()),
        "items_without_meta": int((~items["described"]).sum()),
        "items_with_unreadable_letters": items.filter(
            pl.any_horizontal(pl.col(texts).str.contains("\ufffd", literal=True))  # what replaces such letters
        ).height,
    }
    write_json(folder / PROVENANCE, facts)
    return facts


def _file_facts(raw: Path, source: Source) -> dict[str, dict[str, Any]]:
    paths = [raw / name for name in source.files if (raw / name).is_file()]
    return {path.name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)} for path in paths}
