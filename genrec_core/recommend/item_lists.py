"""Reads allow and deny lists: item ids, one or more a line."""

from pathlib import Path

import numpy as np

from genrec_core.data.ids import item_ids_of
from genrec_core.data.text_files import utf8_lines
from genrec_core.errors import GenrecError


def read_item_list(path: Path) -> np.ndarray:
    """Item ids separated by spaces or line ends, int64 [n]; an ``item_id`` header is skipped.

    Raises:
        GenrecError: the file cannot be read, holds no id, or holds a word that is not an id; names the line.
    """
    items: list[int] = []
    try:
        for number, line in utf8_lines(path):
            if number == 1 and line.strip().strip('"').lower() == "item_id":
                continue
            try:
                items += item_ids_of(line.split())
            except GenrecError as error:
                raise GenrecError(f"{path}, line {number}: {error}; write one id a line") from error
    except OSError as error:
        raise GenrecError(f"{path}: cannot be read ({error}); give a text file with one item id a line") from error
    if not items:
        raise GenrecError(f"{path}: no item id in it; write one a line, or leave the option out")
    return np.array(items, dtype=np.int64)
