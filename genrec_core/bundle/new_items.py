"""Reads the new items of ``genrec assign-ids`` and ``genrec add-items``; refuses other files by ``GenrecError``."""

import csv
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from genrec_core.data.ids import ItemId, item_id_of
from genrec_core.data.item_text import render_text, template_parts, text_fields
from genrec_core.data.text_files import csv_header, utf8_lines, utf8_text, without_halves
from genrec_core.errors import GenrecError


@dataclass(frozen=True)
class NewItems:
    """Items of a file."""

    item_ids: np.ndarray  # int64 [n]
    texts: list[str]  # what is embedded; '' where nothing is known of an item
    fields: list[dict[str, Any]]  # title, brand, categories, price and description of each, None where absent

    def texts_or_ids(self) -> list[str]:
        """The texts; an item without one gets its id as text, so that it gets some code."""
        return [text or f"Item: {item};" for text, item in zip(self.texts, self.item_ids.tolist(), strict=True)]

    def require_texts(self, path: Path) -> None:
        """Raise ``GenrecError`` if an item of the file ``path`` has no text."""
        without = [item for text, item in zip(self.texts, self.item_ids.tolist(), strict=True) if not text]
        if without:
            count = f"({len(without)} such items)"
            raise GenrecError(f"{path}: item {without[0]} has no text {count}; give it a title, or a text")


def read_new_items(path: Path, text_template: str) -> NewItems:
    """The items of a file.

    Args:
        path: CSV with a header, or JSON lines if the name ends in ``.jsonl``; ``item_id``, and either ``text`` or the
            fields of ``text_template`` (title, brand, categories, price, description).
        text_template: as the catalogue's; see :class:`genrec_core.settings.CatalogSettings`.
    """
    parts = template_parts(text_template)
    item_ids: list[int] = []
    texts: list[str] = []
    fields: list[dict[str, Any]] = []
    for number, entry in _entries(path):
        item_ids.append(_item_id(entry, path, number))
        fields.append(text_fields(entry))
        texts.append(without_halves(str(entry.get("text") or "")).strip() or render_text(parts, fields[-1]))
    if not item_ids:
        raise GenrecError(f"{path}: no items in it; give CSV with the columns item_id and title, or JSON lines")
    return NewItems(np.array(item_ids, dtype=np.int64), texts, fields)


def read_item_ids(path: Path) -> np.ndarray:
    """Ids int64 [n] of a JSON array, as ``item_ids.json`` holds them."""
    try:
        return np.array(TypeAdapter(list[ItemId]).validate_json(utf8_text(path)), dtype=np.int64)
    except (OSError, ValidationError) as error:
        raise GenrecError(f"{path}: no array of integers of 64 bits ({error!s:.200}); give one id a vector") from error


def read_vectors(path: Path) -> np.ndarray:
    """Item vectors float32 [n, dim] of a ``.npy`` file."""
    try:
        vectors = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise GenrecError(f"{path}: cannot be read as an array ({error}); give a .npy file") from error
    if vectors.ndim != 2 or not np.issubdtype(vectors.dtype, np.floating):
        raise GenrecError(f"{path}: {vectors.dtype} {vectors.shape}, but float32 [items, dim] is wanted")
    return np.asarray(vectors, dtype=np.float32)


def _entries(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Entries, each with the number of its last line."""
    try:
        if path.suffix.lower() == ".jsonl":
            for number, line in utf8_lines(path):
                if line.strip():
                    yield number, _json_object(line, path, number)
        else:
            yield from _csv_entries(path)
    except (OSError, csv.Error) as error:
        raise GenrecError(f"{path}: cannot be read ({error}); give CSV, or JSON lines named *.jsonl") from error


def _csv_entries(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    lines = (line for _, line in utf8_lines(path, newline=""))
    first = next(lines, "")
    header = csv_header(first, {"item_id"})
    if header is None:
        raise GenrecError(f"{path}: line 1: no header that names item_id; begin the CSV with item_id,title,brand")
    reader = csv.DictReader(chain([first], lines), delimiter=header[0])
    for row in reader:
        yield reader.line_num, {name: value or None for name, value in row.items() if name}


def _json_object(line: str, path: Path, number: int) -> dict[str, Any]:
    entry: Any = None
    with suppress(ValueError, RecursionError):
        entry = json.loads(line)
    if not isinstance(entry, dict):
        raise GenrecError(f"{path}, line {number}: no JSON object; write one object with an item_id a line")
    return entry


def _item_id(entry: dict[str, Any], path: Path, number: int) -> int:
    try:
        return item_id_of(entry.get("item_id"))
    except GenrecError as error:
        raise GenrecError(f"{path}, line {number}: {error}; give each item an integer item_id") from error
