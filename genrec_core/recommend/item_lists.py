"""Reads allow and deny lists: item ids, one or more a line."""

from pathlib import Path

import numpy as np

from genrec_core.data.text_files import utf8_lines
from genrec_core.errors import GenrecError


def read_item_list(path: Path) -> np.ndarray:
    """Item ids separated by spaces or line ends, int64 [n]; an ``item_id`` header is passed over.

    Raises:
        GenrecError: the file cannot be read, holds no id, or something that is none; names the line.
    """
    try:
        lines = [line for _, line in utf8_lines(path)]
    except OSError as error:
        raise GenrecError(f"{path}: cannot be read ({error}); give a text file with one item id a line") from error
    if lines and lines[0].strip().strip('"').lower() == "item_id":
        lines[0] = ""
    items = [_item_id(word, path, number) for number, line in enumerate(lines, 1) for word in line.split()]
    if not items:
        raise GenrecError(f"{path}: no item id in it; write one a line, or leave the option out")
    return np.array(items, dtype=np.int64)


def _item_id(word: str, path: Path, number: int) -> int:
    try:
        return int(np.int64(int(word)))
    except (ValueError, OverflowError) as error:
        raise GenrecError(f"{path}, line {number}: {word[:60]!r} is not an integer id") from error
