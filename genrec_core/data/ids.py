"""Reads the ids of items and users: the one place that says what an id is. Needs neither NumPy nor polars."""

import re
from collections.abc import Iterable
from typing import Annotated

from pydantic import Field

from genrec_core.errors import GenrecError

_LEAST, _MOST = -(2**63), 2**63 - 1
_INTEGER = re.compile(r"\s*-?[0-9]{1,19}\s*", re.ASCII)

ItemId = Annotated[int, Field(strict=True, ge=_LEAST, le=_MOST)]  # in JSON that pydantic reads


def item_id_of(value: object) -> int:
    """The item id that a text or a number of a file stands for, an integer of 64 bits."""
    if type(value) is int or (isinstance(value, str) and _INTEGER.fullmatch(value)):
        item_id = int(value)
        if _LEAST <= item_id <= _MOST:
            return item_id
    raise GenrecError(f"item {value!r:.60} is not an integer id")


def item_ids_of(values: str | Iterable[object]) -> list[int]:
    """The item ids of a list, or of a text: ``5 6 7`` or ``[5, 6, 7]``."""
    return [item_id_of(value) for value in (_words(values) if isinstance(values, str) else values)]


def _words(text: str) -> list[str]:
    text = text.strip()
    if not text.startswith("["):
        return text.split()
    if not text.endswith("]"):
        raise GenrecError("the list of items begins with [ but does not end with ]; close it")
    inner = text[1:-1].strip()
    return [word.strip().strip("'\"") for word in inner.split(",")] if inner else []


def user_id_of(text: str) -> str:
    """A user's id without the white space around it; a line end in it, which would divide a row, is an error."""
    user_id = text.strip()
    if not user_id:
        raise GenrecError("user_id is empty")
    if "\n" in user_id or "\r" in user_id:
        raise GenrecError("user_id holds a line end")
    return user_id
