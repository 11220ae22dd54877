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
from genrec_core.data.item_text import TEXT_FIELDS, render_text, template_parts
from genrec_core.data.sample import write_sample
from genrec_core.settings import CatalogSettings
from genrec_core.storage.artifacts import atomic_folder, read_json, sha256_of, write_json
from genrec_core.storage.redact import without_secrets

PROVENANCE, ITEMS, HISTORIES = "provenance.json", "items.parquet", "histories.parquet"
_UNREADABLE = "\ufffd"  # stands where a file's writer, or our reader, found no letter


class Source(NamedTuple):
    """A form of raw data.

    Args:
        files: the names of its files.
        read_items: a folder with these files -> ``item_id`` Int64 (ascending), the columns of ``TEXT_FIELDS``,
            ``source_id`` (its text where nothing else is known) and ``described`` (whether it has a description).
        read_histories: the same folder -> ``user_id`` Utf8 and ``item_ids`` List(Int64), oldest first.
        require_known_items: raises a GenrecError where the histories (last argument) hold an unknown item.

    Both readers raise a GenrecError that names the file and the line at fault.
    """

    files: tuple[str, ...]
    read_items: Callable[[Path], pl.DataFrame]
    read_histories: Callable[[Path], pl.DataFrame]
    require_known_items: Callable[[Path, pl.DataFrame, pl.DataFrame], None]


SOURCES = {"p5": Source(p5.RAW_FILES, p5.read_items, p5.read_histories, p5.require_known_items)}


class Tables(NamedTuple):
    """Raw data as tables, in the columns that :class:`Source` names."""

    items: pl.DataFrame
    histories: pl.DataFrame


def receive_raw(place: str | None, target: Path, sha256: str | None = None, form: str = "p5") -> dict[str, Any]:
    """Copy the raw files to the folder ``target`` and store their tables beside them, all or nothing.

    Args:
        place: as for :func:`genrec_core.data.archive.opened_source`, or None for the embedded synthetic sample.
        target: the folder to write.
        sha256: sha256 that the archive must have; None: any.
        form: a name of ``SOURCES``.

    Returns:
        ``source`` without passwords, ``form``, ``files`` (bytes and sha256 by name), and counts of their content.

    Raises:
        GenrecError: a file is missing or empty, or a line does not parse; names the user's own file and the line.
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
    """The tables of a folder of raw files, as :func:`receive_raw` stored them.

    The raw files are parsed only if it stored none, or if they have changed since; an error names the file and line.
    """
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


def _store_tables(folder: Path, form: str) -> dict[str, Any]:
    """Parse the raw files in ``folder``, store their tables beside them, and count what is in them."""
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
            pl.any_horizontal(pl.col(texts).str.contains(_UNREADABLE, literal=True))
        ).height,
    }
    write_json(folder / PROVENANCE, facts)
    return facts


def _file_facts(raw: Path, source: Source) -> dict[str, dict[str, Any]]:
    paths = [raw / name for name in source.files if (raw / name).is_file()]
    return {path.name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)} for path in paths}
