"""Reads the ids of items and users: the one place that says what an id is. Needs neither NumPy nor polars.

Item ids are the user's own. If all ids of a catalogue are whole numbers, they are integers of 64 bits. Otherwise all
are text, and each letter counts: ``0005`` is not ``5``.
"""

import ast
import json
import re
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field

from genrec_core.errors import GenrecError

if TYPE_CHECKING:
    import numpy as np

_LEAST, _MOST = -(2**63), 2**63 - 1
_INTEGER = re.compile(r"\s*-?[0-9]{1,19}\s*", re.ASCII)
_TEXT = re.compile(r"(?!\s)[^\0\r\n]{1,256}(?<!\s)")  # an array of ids takes 4 bytes a letter of the longest
# An entry of a list as Python or NumPy prints it: quoted or not, alone or as in np.int64(5); then what parts entries.
_ENTRY = re.compile(
    r"""(np\.\w+\()?("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[^\s,'"()\[\]]+)(?(1)\))(\s*,\s*|\s+|$)""", re.DOTALL
)
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]*)?", re.ASCII)

AnyId = int | str
ItemId = Annotated[int, Field(strict=True, ge=_LEAST, le=_MOST)]  # in JSON that pydantic reads
TextId = Annotated[str, BeforeValidator(lambda value: str(value) if type(value) is int else value)]


def item_id_of(value: object) -> int:
    """The item id that a text or a number of a file stands for, an integer of 64 bits."""
    if type(value) is int or (isinstance(value, str) and _INTEGER.fullmatch(value)):
        item_id = int(value)
        if _LEAST <= item_id <= _MOST:
            return item_id
    raise GenrecError(f"item {value!r:.60} is not an integer id")


def text_id_of(value: object) -> str:
    """The item id that a value of a file stands for in a catalogue of text ids; an integer is its digits."""
    if type(value) is int or (isinstance(value, str) and value):
        return str(value)
    raise GenrecError(f"item {value!r:.60} is neither text nor an integer")


def item_ids_of(values: str | Iterable[object], text_ids: bool = False) -> list[Any]:
    """The item ids of a list, or of a text: words such as ``5 6 7``, or a list in brackets.

    Lists are read as JSON, Python, pandas and NumPy write them: ``[5, 6]``, ``["a", "b, c"]``, ``['a' 'b']``, ``(1,)``.
    ``text_ids`` says whether the ids of the catalogue are text; then the answer holds str, otherwise int.
    """
    read = text_id_of if text_ids else item_id_of
    return [read(value) for value in (_entries(values, text_ids) if isinstance(values, str) else values)]


def id_array(ids: Iterable[AnyId], source: object = "the item ids") -> "np.ndarray":
    """Item ids as an array: int64 [n] if all are integers, text ``<U`` [n] if all are text; errors name ``source``."""
    import numpy as np

    values: list[Any] = ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
    kinds = set(map(type, values))
    if kinds <= {int}:
        with suppress(OverflowError):
            return np.array(values, dtype=np.int64)
    if kinds != {str}:
        raise GenrecError(f"{source}: ids are neither all integers of 64 bits nor all text; rebuild the catalogue")
    wrong = [value for value in values if not _TEXT.fullmatch(value)]
    if wrong:
        raise GenrecError(
            f"{source}: {wrong[0]!r:.60} is no item id; ids have 1 to 256 letters, without a line end, a NUL or white "
            "space around them"
        )
    return np.array(values, dtype=np.str_)


def are_text(item_ids: "np.ndarray") -> bool:
    """Whether an array of :func:`id_array` holds text."""
    return bool(item_ids.dtype.kind == "U")


def _entries(text: str, text_ids: bool) -> list[Any]:
    """The words of a text, or the entries of a list in brackets, still as text."""
    text = text.strip()
    if text[:1] not in ("[", "("):
        if "," in text or ";" in text:  # may part ids, or belong to one
            raise _unread_list(text)
        return text.split()
    with suppress(ValueError, RecursionError):
        listed = json.loads(text, parse_int=str, parse_float=str if text_ids else _whole)
        if isinstance(listed, list):
            return listed
    last = "]" if text[0] == "[" else ")"
    if text[-1] != last:
        raise GenrecError(f"the list of items begins with {text[0]} but does not end with {last}; close it")
    return _printed_entries(text[1:-1].strip(), text_ids)


def _printed_entries(text: str, text_ids: bool) -> list[str]:
    """The entries of a list as Python or NumPy prints it, all parted by commas or all by white space."""
    entries, with_comma, place = [], set(), 0
    while place < len(text):
        entry = _ENTRY.match(text, place)
        if entry is None:
            raise _unread_list(text)
        place = entry.end()
        entries.append(_unquoted(entry[2], text_ids))
        if place < len(text):
            with_comma.add("," in entry[3])
    if len(with_comma) > 1:
        raise _unread_list(text)
    return entries


def _unquoted(word: str, text_ids: bool) -> str:
    """The value of a quoted text or of a number; where ids are text, another word is none: NumPy quotes all text."""
    if word[0] not in "'\"":
        if text_ids and not _NUMBER.fullmatch(word):
            raise _unread_list(word)
        return word if text_ids else _whole(word)
    try:
        return str(ast.literal_eval(word))
    except (ValueError, SyntaxError) as error:
        raise _unread_list(word) from error


def _whole(number: str) -> str:
    """``5`` for ``5.0``, as pandas writes a column of integers that once lacked one; another text as it is."""
    whole, _, rest = number.partition(".")
    return number if rest.strip("0") else whole


def _unread_list(text: str) -> GenrecError:
    return GenrecError(
        f'{text!r:.60} is no list of items that can be read; write a JSON array, [5, 6] or ["a", "b, c"]'
    )


def user_id_of(text: str) -> str:
    """A user's id without the white space around it; a line end in it, which would divide a row, is an error."""
    user_id = text.strip()
    if not user_id:
        raise GenrecError("user_id is empty")
    if "\n" in user_id or "\r" in user_id:
        raise GenrecError("user_id holds a line end")
    return user_id
