"""The raw form of the P5 project: three files in, the tables of items and histories out.

``sequential_data.txt`` holds ``user item item ...`` a line (1-based item ids, oldest first), ``meta.json.gz`` a dict a
line (JSON or a Python literal), ``datamaps.json`` the map ``item2id`` from the ``asin`` of a dict to the id.
"""

import gzip
import json
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from genrec_core.data.ids import item_id_of, item_ids_of
from genrec_core.data.item_text import TEXT_FIELDS, text_fields
from genrec_core.data.text_files import json_or_literal, require_utf8, utf8_lines, utf8_text, without_halves
from genrec_core.errors import GenrecError

SEQUENCES, META, DATAMAPS = "sequential_data.txt", "meta.json.gz", "datamaps.json"
RAW_FILES = (SEQUENCES, META, DATAMAPS)
_LONGEST_LINE = 4 << 20  # characters; a few KB of gzip can hold a line that fills the memory
_OTHER_NAMES = {"asin": "parent_asin", "brand": "store", "categories": "category"}  # as of Amazon's later data
_ITEM_COLUMNS = {
    "item_id": pl.Int64,
    **{name: pl.Float64 if name == "price" else pl.String for name in TEXT_FIELDS},
    "source_id": pl.String,
    "described": pl.Boolean,
}


def read_items(raw: Path) -> pl.DataFrame:
    """Read the items of ``datamaps.json``, sorted by id, with the fields of their lines in ``meta.json.gz``.

    A field is null where absent. ``source_id`` is the asin; ``described`` says whether the item has such a line.
    """
    ids_by_asin = _item_ids(raw / DATAMAPS)
    entries = _meta_lines(raw / META)
    fields_by_asin = {asin: text_fields(entry) for entry in entries if (asin := str(entry["asin"])) in ids_by_asin}
    unknown = dict.fromkeys(TEXT_FIELDS)
    rows = [
        {
            "item_id": item_id,
            **fields_by_asin.get(asin, unknown),
            "source_id": without_halves(asin),
            "described": asin in fields_by_asin,
        }
        for asin, item_id in sorted(ids_by_asin.items(), key=lambda entry: entry[1])
    ]
    return pl.DataFrame(rows, schema=_ITEM_COLUMNS)


def read_histories(raw: Path) -> pl.DataFrame:
    """Read ``sequential_data.txt``: ``user_id`` Utf8 and ``item_ids`` List(Int64), oldest first, in file order."""
    path = raw / SEQUENCES
    items_by_user: dict[str, list[int]] = {}
    faults: list[str] = []
    for number, line in utf8_lines(path):
        if fields := line.split():
            try:
                _add_history(items_by_user, *fields)
            except ValueError as error:
                faults.append(f"line {number}: user {fields[0]}: {error}")
    _raise_faults(path, faults, "write a line as 'user item item ...' with positive integer items")
    if not items_by_user:
        raise GenrecError(f"{path}: holds no history; write a line as 'user item item ...'")
    return pl.DataFrame(
        {"user_id": list(items_by_user), "item_ids": list(items_by_user.values())},
        schema={"user_id": pl.String, "item_ids": pl.List(pl.Int64)},
    )


def require_known_items(raw: Path, items: pl.DataFrame, histories: pl.DataFrame) -> None:
    """Refuse histories with items that ``datamaps.json`` lacks."""
    pairs = histories.explode("item_ids")
    unknown = pairs.join(items, left_on="item_ids", right_on="item_id", how="anti", maintain_order="left")
    if len(unknown):
        user, item = unknown.row(0)
        raise GenrecError(
            f"{raw / SEQUENCES}: user {user}: item {item} is not in item2id of {DATAMAPS} "
            f"({len(unknown)} such entries); add it there or take it out"
        )


def _add_history(items_by_user: dict[str, list[int]], user: str, *items: str) -> None:
    if user in items_by_user:
        raise ValueError("is there already")
    if not items:
        raise ValueError("has no item")
    item_ids = item_ids_of(items)
    if min(item_ids) < 1:
        raise ValueError(f"item {min(item_ids)} is not a positive integer")
    items_by_user[user] = item_ids


def _item_ids(path: Path) -> dict[str, int]:
    text = utf8_text(path)
    try:
        content = json.loads(text)
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


def _meta_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Parse ``meta.json.gz`` line by line; raises for faulty lines after the last one."""
    faults: list[str] = []
    try:
        with gzip.open(path, "rt", encoding="utf-8-sig", errors="surrogateescape") as lines:
            for number, line in enumerate(iter(partial(lines.readline, _LONGEST_LINE + 1), ""), 1):
                if len(line) > _LONGEST_LINE:
                    raise GenrecError(f"{path}: line {number}: longer than {_LONGEST_LINE} characters; split it")
                require_utf8(line, path, number)
                if line.strip():
                    try:
                        yield _parse_meta(line.strip())
                    except ValueError as error:
                        faults.append(f"line {number}: {error}")
    except (OSError, EOFError, zlib.error) as error:
        raise GenrecError(f"{path}: cannot be read as gzip text ({error}); get it again") from error
    _raise_faults(path, faults, "write a line as one dict with an 'asin', in JSON or as a Python literal")


def _parse_meta(line: str) -> dict[str, Any]:
    entry = json_or_literal(line)
    for name, other in _OTHER_NAMES.items():
        if name not in entry and other in entry:
            entry[name] = entry[other]
    if "asin" not in entry:
        raise ValueError(f"no dict with an 'asin': {line[:60]!r}")
    return entry


def _raise_faults(path: Path, faults: list[str], remedy: str) -> None:
    if faults:
        more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise GenrecError(f"{path}: {'; '.join(faults[:5])}{more}; {remedy}")
