"""The raw form of the P5 project: three files in, a catalogue and user histories out.

``sequential_data.txt`` holds ``user item item ...`` a line (1-based item ids, oldest first), ``meta.json.gz`` a dict a
line (JSON or a Python literal), ``datamaps.json`` the map ``item2id`` from the ``asin`` of a dict to the id.
"""

import ast
import gzip
import json
import shutil
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from genrec_core.data.archive import named_as_given, opened_source
from genrec_core.data.ids import item_id_of, item_ids_of
from genrec_core.data.item_text import TEXT_FIELDS, render_text, template_parts, text_fields
from genrec_core.data.sample import write_sample
from genrec_core.data.text_files import require_utf8, utf8_lines, utf8_text, without_halves
from genrec_core.errors import GenrecError
from genrec_core.settings import CatalogSettings
from genrec_core.storage.artifacts import atomic_folder, sha256_of
from genrec_core.storage.redact import without_secrets

SEQUENCES, META, DATAMAPS = "sequential_data.txt", "meta.json.gz", "datamaps.json"
RAW_FILES = (SEQUENCES, META, DATAMAPS)
_SHOWN_FAULTS = 5
_UNREADABLE = "\ufffd"  # stands where a file's writer, or this reader, found no letter
_LONGEST_LINE = 4 << 20  # characters; a few KB of gzip can hold one that fills the memory


def receive_raw(source: str | None, target: Path, sha256: str | None = None) -> dict[str, Any]:
    """Copy the three files to the folder ``target``, whole and validated, or not at all.

    Args:
        source: a folder, an archive, an http(s) URL of an archive, or None for the embedded synthetic sample.
        target: the folder to write.
        sha256: what the archive must have; None: whatever comes.

    Returns:
        ``source`` without passwords, ``files`` (bytes and sha256 by name), and the counts ``users``, ``items``,
        ``interactions``, ``items_without_meta`` and ``items_with_unreadable_letters``.

    Raises:
        GenrecError: a file is missing or empty, or a line does not parse; names the file of the source and the line.
    """
    with atomic_folder(target) as folder:
        if source is None:
            write_sample(folder)
            return {"source": "embedded sample", **describe_raw(folder)}
        with opened_source(source, RAW_FILES, sha256) as found:
            for name in RAW_FILES:
                shutil.copyfile(found / name, folder / name)
            with named_as_given(str(found), folder):
                return {"source": without_secrets(source), **describe_raw(folder)}


def describe_raw(raw: Path) -> dict[str, Any]:
    """Validate a folder of raw files and count what is in it.

    Raises:
        GenrecError: as :func:`receive_raw`.
    """
    item_ids = _item_ids(raw)
    meta = _meta_by_item(raw, item_ids)
    histories = read_histories(raw)
    known = set(item_ids.values())
    unknown = histories.explode("item_ids").filter(~pl.col("item_ids").is_in(list(known)))
    if len(unknown):
        user, item = unknown.row(0)
        raise GenrecError(
            f"{raw / SEQUENCES}: user {user}: item {item} is not in item2id of {DATAMAPS} "
            f"({len(unknown)} such entries); add it there or take it out"
        )
    return {
        "files": {name: {"bytes": (raw / name).stat().st_size, "sha256": sha256_of(raw / name)} for name in RAW_FILES},
        "users": len(histories),
        "items": len(item_ids),
        "interactions": int(histories["item_ids"].list.len().sum()),
        "items_without_meta": len(item_ids) - len(meta),
        "items_with_unreadable_letters": sum(_UNREADABLE in str(fields) for fields in meta.values()),
    }


def read_histories(raw: Path) -> pl.DataFrame:
    """Read ``sequential_data.txt``: ``user_id`` Utf8 and ``item_ids`` List(Int64), oldest first, in file order.

    Raises:
        GenrecError: the file is empty, an item id is no positive integer, a user has no item, or a user comes twice.
    """
    path = raw / SEQUENCES
    users: dict[str, list[int]] = {}
    faults: list[str] = []
    for number, line in utf8_lines(path):
        if fields := line.split():
            try:
                _add_history(users, fields)
            except ValueError as error:
                faults.append(f"line {number}: {error}")
    _raise_faults(path, faults, "a line is 'user item item ...' with positive integer items")
    if not users:
        raise GenrecError(f"{path}: holds no history; a line is 'user item item ...'")
    return pl.DataFrame(
        {"user_id": list(users), "item_ids": list(users.values())},
        schema={"user_id": pl.String, "item_ids": pl.List(pl.Int64)},
    )


def _add_history(users: dict[str, list[int]], fields: list[str]) -> None:
    user, *items = fields
    if user in users:
        raise ValueError(f"user {user} is there already")
    if not items:
        raise ValueError(f"user {user} has no item")
    try:
        users[user] = item_ids_of(items)
    except GenrecError as error:
        raise ValueError(f"user {user}: {error}") from error
    if min(users[user]) < 1:
        raise ValueError(f"user {user}: item {min(users[user])} is not a positive integer")


def read_catalog(raw: Path, settings: CatalogSettings) -> pl.DataFrame:
    """One row an item of ``datamaps.json``, sorted by id.

    Returns:
        ``item_id`` Int64, ``title``, ``brand``, ``categories`` ("A > B > C", several paths joined by "; "),
        ``description`` Utf8 and ``price`` Float64, each null where absent, and ``text``, never empty: an item of
        which nothing is known gets its asin.

    Raises:
        GenrecError: a file does not parse, or the template names a field that does not exist.
    """
    item_ids = _item_ids(raw)
    known = _meta_by_item(raw, item_ids)
    parts = template_parts(settings.text_template)
    rows = []
    for asin, item_id in sorted(item_ids.items(), key=lambda entry: entry[1]):
        fields = known.get(item_id, dict.fromkeys(TEXT_FIELDS))
        rows.append(
            {"item_id": item_id, **fields, "text": render_text(parts, fields) or f"Item: {without_halves(asin)};"}
        )
    schema = {"item_id": pl.Int64, "title": pl.String, "brand": pl.String, "categories": pl.String}
    return pl.DataFrame(rows, schema={**schema, "price": pl.Float64, "description": pl.String, "text": pl.String})


def _item_ids(raw: Path) -> dict[str, int]:
    """``item2id`` as integers."""
    path = raw / DATAMAPS
    try:
        content = json.loads(utf8_text(path))
    except FileNotFoundError as error:
        raise GenrecError(f"{path}: no such file; put it there") from error
    except GenrecError:
        raise
    except ValueError as error:  # no JSON, or a number of thousands of digits
        raise GenrecError(f"{path}: not valid JSON ({error}); mend it") from error
    if not isinstance(content, dict) or not isinstance(content.get("item2id"), dict) or not content["item2id"]:
        raise GenrecError(f"{path}: holds no 'item2id' object; it maps each asin to a positive integer id")
    try:
        item_ids = {str(asin): item_id_of(item_id) for asin, item_id in content["item2id"].items()}
    except GenrecError as error:
        raise GenrecError(f"{path}: item2id: {error}; every id is a positive integer") from error
    if min(item_ids.values()) < 1 or len(set(item_ids.values())) < len(item_ids):
        raise GenrecError(f"{path}: item2id: every id is a positive integer and belongs to one asin")
    return item_ids


def _meta_by_item(raw: Path, item_ids: dict[str, int]) -> dict[int, dict[str, Any]]:
    """The text fields of the items of the catalogue; other products of the file are passed over."""
    found: dict[int, dict[str, Any]] = {}
    for entry in _meta_lines(raw / META):
        item_id = item_ids.get(str(entry.get("asin")))
        if item_id is not None:
            found[item_id] = text_fields(entry)
    return found


def _meta_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Parse ``meta.json.gz`` line by line; every line is checked before the last is yielded."""
    faults: list[str] = []
    try:
        with gzip.open(path, "rt", encoding="utf-8-sig", errors="surrogateescape") as lines:
            for number, line in enumerate(iter(partial(lines.readline, _LONGEST_LINE + 1), ""), 1):
                if len(line) > _LONGEST_LINE:
                    raise GenrecError(f"{path}: line {number}: longer than {_LONGEST_LINE} characters")
                require_utf8(line, path, number)
                if not line.strip():
                    continue
                try:
                    yield _parse_meta(line)
                except ValueError as error:
                    faults.append(f"line {number}: {error}")
    except (OSError, EOFError, zlib.error) as error:
        raise GenrecError(f"{path}: cannot be read as gzip text ({error}); get it again") from error
    _raise_faults(path, faults, "a line is one dict, as JSON or as a Python literal, with an 'asin'")


def _parse_meta(line: str) -> dict[str, Any]:
    """One dict, JSON or a Python literal.

    Raises:
        ValueError: it is neither, or has no asin.
    """
    try:
        entry = json.loads(line)
    except ValueError:
        try:
            entry = ast.literal_eval(line.strip())
        except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
            raise ValueError(f"neither JSON nor a Python literal: {line.strip()[:60]!r}") from error
    if not isinstance(entry, dict) or "asin" not in entry:
        raise ValueError(f"no dict with an 'asin': {line.strip()[:60]!r}")
    return entry


def _raise_faults(path: Path, faults: list[str], remedy: str) -> None:
    if faults:
        more = f" and {len(faults) - _SHOWN_FAULTS} more" if len(faults) > _SHOWN_FAULTS else ""
        raise GenrecError(f"{path}: {'; '.join(faults[:_SHOWN_FAULTS])}{more}; {remedy}")
