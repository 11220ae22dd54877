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

from genrec_core.data.columns import identifier
from genrec_core.data.ids import ItemId, item_id_of, text_id_of
from genrec_core.data.item_text import ItemFields, render_text, text_fields
from genrec_core.data.text_files import csv_header, utf8_lines, utf8_text, without_halves
from genrec_core.errors import GenrecError


@dataclass(frozen=True)
class NewItems:
    """Items of a file."""

    item_ids: np.ndarray  # int64 or text [n]
    texts: list[str]  # what is embedded; '' where nothing is known of an item
    fields: list[dict[str, Any]]  # of each item, by their names; None where absent

    def texts_or_ids(self) -> list[str]:
        """The texts; an item without one gets its id as text, so that it gets some code."""
        return [text or f"Item: {item};" for text, item in zip(self.texts, self.item_ids.tolist(), strict=True)]

    def require_texts(self, path: Path) -> None:
        """Raise ``GenrecError`` if an item of the file ``path`` has no text."""
        without = [item for text, item in zip(self.texts, self.item_ids.tolist(), strict=True) if not text]
        if without:
            count = f"({len(without)} such items)"
            raise GenrecError(f"{path}: item {without[0]} has no text {count}; give it a title, or a text")


def read_new_items(path: Path, item_fields: ItemFields, text_ids: bool = False) -> NewItems:
    """The items of a file.

    Args:
        path: CSV with a header, or JSON lines if the name ends in ``.jsonl``; ``item_id``, and either ``text`` or any
            of the fields, in any spelling that their columns may have.
        item_fields: the catalogue's.
        text_ids: whether the catalogue's ids are texts, so that ``0005`` is no number.
    """
    parts = item_fields.parts()
    item_ids: list[int | str] = []
    texts: list[str] = []
    fields: list[dict[str, Any]] = []
    for number, named in _entries(path):
        entry = {identifier(name): value for name, value in named.items()}  # as the catalogue's columns are named
        item_ids.append(_item_id(entry, path, number, text_ids))
        fields.append(text_fields(entry, item_fields))
        texts.append(without_halves(str(entry.get("text") or "")).strip() or render_text(parts, fields[-1]))
    if not item_ids:
        raise GenrecError(f"{path}: no items in it; give CSV with the columns item_id and title, or JSON lines")
    return NewItems(np.array(item_ids), texts, fields)


def read_item_ids(path: Path) -> np.ndarray:
    """Ids int64 or text [n] of a JSON array, as ``item_ids.json`` holds them."""
    try:
        return np.array(TypeAdapter(list[ItemId] | list[str]).validate_json(utf8_text(path)))
    except (OSError, ValidationError) as error:
        wanted = "no array of integers of 64 bits, or of texts"
        raise GenrecError(f"{path}: {wanted} ({error!s:.200}); give one id a vector") from error


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


def _item_id(entry: dict[str, Any], path: Path, number: int, text_ids: bool) -> int | str:
    item_id = entry.get("item_id")
    try:
        return text_id_of(item_id.strip() if isinstance(item_id, str) else item_id) if text_ids else item_id_of(item_id)
    except GenrecError as error:
        kind = "item_id" if text_ids else "integer item_id"
        raise GenrecError(f"{path}, line {number}: {error}; give each item an {kind}") from error
