"""The forms of raw data, and the two tables that each gives: items and histories.

The forms are P5's three files (``p5.py``) and tables of any shop (``tables.py``, with the layouts of ``layouts.py``).
"""

import shutil
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from genrec_core.data import p5, tables
from genrec_core.data.archive import errors_naming, opened_source
from genrec_core.data.histories import OPTIONAL_COLUMNS
from genrec_core.data.interactions import clean_histories
from genrec_core.data.item_text import TEMPLATE, TEXT_FIELDS, render_text, template_parts
from genrec_core.data.sample import write_sample
from genrec_core.errors import GenrecError
from genrec_core.settings import DEFAULT_TEXT_TEMPLATE, CatalogSettings, DataSettings
from genrec_core.storage.artifacts import atomic_folder, read_json, sha256_of, write_json
from genrec_core.storage.redact import without_secrets

PROVENANCE, DATA_SETTINGS, PARSED = "provenance.json", "data_settings.json", "parsed"
_NAMED_FILES, _SHOWN_ITEMS = 12, 3
ITEMS, HISTORIES = f"{PARSED}/items.parquet", f"{PARSED}/histories.parquet"


class Tables(NamedTuple):
    """Raw data as all forms give it.

    ``items`` has ``item_id`` (Int64 if all ids are whole numbers, else String; ascending), the columns of
    ``TEXT_FIELDS``, further columns, ``described`` (whether anything but the id is known), and perhaps ``vector``.
    ``histories`` has ``user_id`` String, ``item_ids`` (a list, oldest first), and ``times`` in seconds if there are
    any.
    """

    items: pl.DataFrame
    histories: pl.DataFrame


def receive_raw(
    place: str | None, target: Path, sha256: str | None = None, settings: DataSettings | None = None
) -> dict[str, Any]:
    """Copy the raw files to the folder ``target`` and store their tables beside them, all or nothing.

    ``place`` and ``sha256`` are as for :func:`genrec_core.data.archive.opened_source`; None: the synthetic sample.
    Returns ``source`` without passwords, ``files`` (bytes and sha256 by name), and what was read, dropped and counted.
    """
    settings = settings or DataSettings()
    with atomic_folder(target) as folder:
        if place is None:
            write_sample(folder)
            return {"source": "embedded sample", **_store_tables(folder, settings)}
        with opened_source(place, is_wanted, partial(lacking, settings=settings), sha256) as opened:
            for name in raw_files(opened, settings):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(opened / name, folder / name)
            with errors_naming(str(opened), folder):
                return {"source": without_secrets(place), **_store_tables(folder, settings)}


def is_wanted(name: str) -> bool:
    """Whether a file of this name may be part of raw data."""
    return name in p5.RAW_FILES or tables.is_wanted(name)


def lacking(folder: Path, settings: DataSettings) -> str:
    """What a folder lacks to be raw data of a known form; '' if it lacks nothing."""
    if raw_files(folder, settings):
        return ""
    missing = [name for name in p5.RAW_FILES if not (folder / name).is_file()]
    if len(missing) < len(p5.RAW_FILES):
        return f"missing {', '.join(missing)}"
    names = ", ".join(sorted(path.name for path in folder.iterdir())[:_NAMED_FILES]) or "nothing"
    if settings.interactions:
        return f"no {settings.interactions}, as the setting interactions says, but {names}"
    return (
        f"neither interactions.csv (or .parquet, .jsonl) nor another known form of data, but {names}; name the file in "
        "the setting interactions, and that of the items in items"
    )


def raw_files(folder: Path, settings: DataSettings) -> list[str]:
    """The files of the raw data in a folder, relative to it; none if no form is recognised."""
    there = [name for name in p5.RAW_FILES if (folder / name).is_file()]
    if there:
        return there if len(there) == len(p5.RAW_FILES) else []
    found = tables.recognised(folder, settings)
    return found.files if found else []


def load_tables(raw: Path) -> Tables:
    """The tables of a folder of raw files: stored by :func:`receive_raw`, or parsed if the files are others."""
    stored = _provenance(raw)
    if stored and stored["files"] == _file_facts(raw, list(stored["files"])):
        return Tables(pl.read_parquet(raw / ITEMS), pl.read_parquet(raw / HISTORIES))
    settings = DataSettings.model_validate(read_json(raw / DATA_SETTINGS)) if stored else DataSettings()
    parsed = _parse(raw, settings)
    return Tables(parsed.items, parsed.histories)


def read_catalog(raw: Path, settings: CatalogSettings) -> pl.DataFrame:
    """The item catalogue of a folder of raw files, sorted by id.

    It has ``item_id``, the fields, ``text``, ``text_template`` (that of the settings, else that of the raw data), and
    perhaps ``vector``. ``text`` is never empty: an item of which nothing is known gets its id.
    """
    items, template = load_tables(raw).items, settings.text_template
    template = _provenance(raw).get(TEMPLATE, DEFAULT_TEXT_TEMPLATE) if template is None else template
    fields = [name for name in items.columns if name not in ("item_id", "described", "source_id", "vector")]
    parts, named = template_parts(template, fields), "source_id" if "source_id" in items.columns else "item_id"
    rows = items.drop("vector", strict=False).iter_rows(named=True)
    texts = pl.Series("text", [render_text(parts, row) or f"Item: {row[named]};" for row in rows], pl.String)
    vector = ["vector"] if "vector" in items.columns else []
    return items.select("item_id", *fields, texts, pl.lit(template).alias(TEMPLATE), *vector)


def read_user_histories(path: Path) -> pl.DataFrame:
    """Read the frame of ``user_histories`` from a parquet file, a folder with one, or a folder of raw files."""
    if any((path / name).is_file() for name in (PROVENANCE, p5.SEQUENCES)):
        return load_tables(path).histories
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if len(files) != 1 or not files[0].is_file():
        raise GenrecError(f"{path}: no user histories; give a parquet file or its folder, or a folder of raw files")
    try:
        frame = pl.read_parquet(files[0])
        inner = pl.String if frame.schema["item_ids"] == pl.List(pl.String) else pl.Int64
        optional = [name for name in OPTIONAL_COLUMNS if name in frame.columns]  # without them the split is another
        return frame.select(pl.col("user_id").cast(pl.String), pl.col("item_ids").cast(pl.List(inner)), *optional)
    except (pl.exceptions.PolarsError, OSError, KeyError) as error:
        raise GenrecError(f"{files[0]}: not parquet with user_id and lists of item_ids ({error})") from error


def read_stored_catalog(source: Path) -> pl.DataFrame:
    """The frame of ``item_catalog`` from its parquet file, or from the folder that holds it."""
    files = sorted(source.glob("*.parquet")) if source.is_dir() else [source]
    if len(files) != 1:
        raise GenrecError(f"{source}: holds {len(files)} parquet files; name the one of the item catalogue")
    try:
        return pl.read_parquet(files[0])
    except (pl.exceptions.PolarsError, OSError) as error:
        raise GenrecError(f"{files[0]}: not a parquet file ({error}); name the item catalogue's") from error


def inspected(
    place: str, settings: DataSettings, show: Callable[[list[dict[str, Any]]], None]
) -> tuple[dict[str, Any], list[str]]:
    """What :func:`receive_raw` would understand of the data at ``place``, which it leaves alone.

    ``show`` gets the rows of :func:`genrec_core.data.tables.overview` as soon as the first rows are read. Returns the
    facts, and the texts of three items.
    """
    with opened_source(place, is_wanted, partial(lacking, settings=settings)) as opened:
        if (found := None if (opened / p5.SEQUENCES).is_file() else tables.recognised(opened, settings)) is not None:
            show(tables.overview(opened, found, settings))
        with tempfile.TemporaryDirectory(prefix="genrec-raw-") as scratch:
            folder = Path(scratch)
            for name in raw_files(opened, settings):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).symlink_to((opened / name).resolve())
            with errors_naming(without_secrets(place), folder):
                facts = _store_tables(folder, settings)
                texts = read_catalog(folder, CatalogSettings())["text"]
    return facts, texts.sample(min(len(texts), _SHOWN_ITEMS), seed=0).to_list()


def sentence(facts: Mapping[str, Any]) -> str:
    """What raw data hold, in one sentence, from the facts of :func:`receive_raw`."""
    counts = f"{facts['interactions']:,} interactions of {facts['users']:,} users, {facts['items']:,} items"
    days = f", {facts['first_day']} to {facts['last_day']}" if "first_day" in facts else ", without times"
    dropped = sum(step["interactions"] for step in facts["cleaning"])
    left_out = f"; {dropped:,} of {facts['read']:,} interactions were left out" if dropped else ""
    return f"{facts['layout']}: {counts}{days}{left_out}."


def _parse(folder: Path, settings: DataSettings) -> tables.Shop:
    """The tables of the raw files in a folder, whatever their form is."""
    if (folder / p5.SEQUENCES).is_file():
        items, histories = p5.read_items(folder), p5.read_histories(folder)
        p5.require_known_items(folder, items, histories)
        histories, read = clean_histories(histories, settings)
        facts = {"layout": "P5", "text_template": DEFAULT_TEXT_TEMPLATE, "columns": [], **read}
        return tables.Shop(items, histories, facts)
    found = tables.recognised(folder, settings)
    if found is None:
        raise GenrecError(f"{folder}: holds no raw data of a known form; materialise raw_beauty again")
    return tables.read_shop(folder, found, settings)


def _store_tables(folder: Path, settings: DataSettings) -> dict[str, Any]:
    """Parse the raw files in ``folder``, store their tables beside them, and count their content."""
    files = _file_facts(folder, raw_files(folder, settings))
    items, histories, read = _parse(folder, settings)
    (folder / PARSED).mkdir()
    items.write_parquet(folder / ITEMS)
    histories.write_parquet(folder / HISTORIES)
    texts = [name for name in TEXT_FIELDS if items.schema[name] == pl.String]
    facts = {
        "files": files,
        "users": histories.height,
        "items": items.height,
        "interactions": int(histories["item_ids"].list.len().sum()),
        "items_without_meta": int((~items["described"]).sum()),
        "items_with_unreadable_letters": items.filter(
            pl.any_horizontal(pl.col(texts).str.contains("\ufffd", literal=True))  # what replaces such letters
        ).height,
        **read,
    }
    write_json(folder / DATA_SETTINGS, settings.model_dump())
    write_json(folder / PROVENANCE, facts)
    return facts


def _provenance(raw: Path) -> dict[str, Any]:
    return read_json(raw / PROVENANCE) if (raw / PROVENANCE).is_file() else {}


def _file_facts(raw: Path, names: list[str]) -> dict[str, dict[str, Any]]:
    paths = {name: raw / name for name in names if (raw / name).is_file()}
    return {name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)} for name, path in paths.items()}
