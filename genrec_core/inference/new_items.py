"""Reads the new items that ``genrec assign-ids`` gives semantic IDs to."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from genrec_core.data.item_text import render_text, template_parts, text_fields
from genrec_core.errors import GenrecError


def read_new_items(path: Path, text_template: str) -> tuple[np.ndarray, list[str]]:
    """Ids int64 [n] and texts of new items.

    Args:
        path: CSV with a header, or JSON lines if the name ends in ``.jsonl``; ``item_id``, and either ``text`` or the
            fields of ``text_template`` (title, brand, categories, price, description).
        text_template: as the catalogue's; see :class:`genrec_core.settings.CatalogSettings`.

    Raises:
        GenrecError: the file cannot be read, or an entry has no integer ``item_id``; names the entry.
    """
    parts = template_parts(text_template)
    ids: list[int] = []
    texts: list[str] = []
    for number, entry in _entries(path):
        item_id = _item_id(entry, path, number)
        ids.append(item_id)
        text = str(entry.get("text") or "").strip()
        texts.append(text or render_text(parts, text_fields(entry)) or f"Item: {item_id};")
    if not ids:
        raise GenrecError(f"{path}: no items in it; give CSV with the columns item_id and title, or JSON lines")
    return np.array(ids, dtype=np.int64), texts


def read_item_ids(path: Path) -> np.ndarray:
    """Ids int64 [n] of a JSON array, as ``item_ids.json`` holds them.

    Raises:
        GenrecError: the file cannot be read, or is no array of integers.
    """
    try:
        ids = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise GenrecError(f"{path}: cannot be read as JSON ({error}); give an array of integer item ids") from error
    if not isinstance(ids, list) or not all(type(item) is int for item in ids):
        raise GenrecError(f"{path}: no array of integers; give one id for each vector")
    return np.array(ids, dtype=np.int64)


def read_vectors(path: Path) -> np.ndarray:
    """Item vectors float32 [n, dim] of a ``.npy`` file.

    Raises:
        GenrecError: the file cannot be read, or is no matrix of numbers.
    """
    try:
        vectors = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise GenrecError(f"{path}: cannot be read as an array ({error}); give a .npy file") from error
    if vectors.ndim != 2 or not np.issubdtype(vectors.dtype, np.floating):
        raise GenrecError(f"{path}: {vectors.dtype} {vectors.shape}, but float32 [items, dim] is wanted")
    return np.asarray(vectors, dtype=np.float32)


def _entries(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Numbered entries; the number is that of their (last) line."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix.lower() == ".jsonl":
                for number, line in enumerate(file, 1):
                    if line.strip():
                        yield number, _json_object(line, path, number)
            else:
                reader = csv.DictReader(file)
                for row in reader:
                    yield reader.line_num, {name: value or None for name, value in row.items() if name}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise GenrecError(f"{path}: cannot be read ({error}); give CSV, or JSON lines named *.jsonl") from error


def _json_object(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise GenrecError(f"{path}, line {number}: not JSON ({error}); write one object a line") from error
    if not isinstance(entry, dict):
        raise GenrecError(f"{path}, line {number}: not an object; write one object with an item_id a line")
    return entry


def _item_id(entry: dict[str, Any], path: Path, number: int) -> int:
    value = entry.get("item_id")
    try:
        return int(np.int64(int(str(value))))
    except (ValueError, OverflowError) as error:
        raise GenrecError(f"{path}, line {number}: item_id is {value!r}; give each item an integer id") from error
