"""What the columns of a table mean, by their usual names or by a setting."""

import re
from collections.abc import Mapping, Sequence

from genrec_core.errors import GenrecError

_ITEM = (
    "itemid", "item", "movieid", "productid", "product", "parentasin", "asin", "articleid", "article", "sku", "isbn",
    "bookid", "songid", "trackid", "businessid", "gameid", "videoid", "newsid", "recipeid", "productcode", "stockcode",
)  # fmt: skip
INTERACTION_COLUMNS: dict[str, tuple[str, ...]] = {
    "user": (
        "userid", "user", "reviewerid", "customerid", "customer", "visitorid", "memberid", "accountid", "buyerid",
        "uid", "clientid", "sessionid", "session",
    ),
    "item": _ITEM,
    "time": (
        "timestamp", "time", "datetime", "date", "unixreviewtime", "eventtime", "createdat", "ts", "tdat", "orderdate",
        "purchasedate", "invoicedate",
    ),
    "event": ("event", "eventtype", "behavior", "behaviour", "behaviortype", "action", "feedbacktype"),
    "weight": ("rating", "overall", "score", "stars", "weight"),
}  # fmt: skip
ITEM_COLUMNS: dict[str, tuple[str, ...]] = {
    "item": (*_ITEM, "id"),
    "title": ("title", "name", "itemname", "productname", "prodname", "movietitle", "itemtitle", "producttitle"),
    "brand": ("brand", "store", "manufacturer", "artist", "author"),
    "categories": ("categories", "category", "genres", "genre", "class"),
    "price": ("price",),
    "description": ("description", "desc", "detaildesc"),
    "vector": ("vector", "embedding"),
}
_NEEDED = {"user", "item"}
_DECISIVE = {"user", "item", "time"}  # two columns that could both be meant are an error; else the likelier is taken


def meanings(
    columns: Sequence[str],
    usual: Mapping[str, tuple[str, ...]],
    chosen: Mapping[str, str],
    layout: Mapping[str, str],
    place: str,
) -> dict[str, str]:
    """The column of each meaning that the table has.

    Args:
        columns: the table's own names.
        usual: the names by which a meaning is known, such as ``INTERACTION_COLUMNS``, the likeliest first.
        chosen: meaning -> column by the user's setting; it wins, and a column that is not there is an error.
        layout: meaning -> column of a known layout; left alone where the table has no such column.
        place: the file, for errors.

    Raises:
        GenrecError: the user or the item is not found, or two columns could both be meant.
    """
    found = {meaning: column for meaning, column in layout.items() if column in columns and meaning in usual}
    for meaning, names in usual.items():
        if (named := chosen.get(meaning)) is not None and named in columns:
            found[meaning] = named
        elif meaning not in found:
            candidates = sorted(
                (c for c in columns if column_key(c) in names), key=lambda c: names.index(column_key(c))
            )
            if len(candidates) > 1 and meaning in _DECISIVE:
                both = " and ".join(candidates[:2])
                raise GenrecError(
                    f"{place}: the columns {both} could both be the {meaning}; say which in the setting columns, "
                    f"as {{{meaning}: {candidates[0]}}}"
                )
            if candidates:
                found[meaning] = candidates[0]
    missing = [meaning for meaning in usual if meaning in _NEEDED and meaning not in found]
    if missing:
        named = ", ".join(columns[:20])
        raise GenrecError(
            f"{place}: no column is known as the {' or the '.join(missing)}; name it in the setting columns, as "
            f"{{{missing[0]}: {columns[0] if columns else 'name'}}}; the columns are {named}"
        )
    return found


def require_meanings(chosen: Mapping[str, str], tables: Sequence[Sequence[str]]) -> None:
    """Refuse a setting that names a meaning that there is not, or a column that no table has."""
    known = {**INTERACTION_COLUMNS, **ITEM_COLUMNS}
    for meaning, column in chosen.items():
        if meaning not in known:
            raise GenrecError(f"columns: {meaning} is no meaning of a column; the meanings are {', '.join(known)}")
        if not any(column in columns for columns in tables):
            there = "; ".join(", ".join(columns) for columns in tables)
            raise GenrecError(f"columns: no table has the column {column} ({meaning}); the columns are {there}")


def identifier(column: str) -> str:
    """A column's name as templates and rules write it: lower case, ``_`` for all that is no letter or digit."""
    name = re.sub(r"\W+", "_", column.partition(":")[0].lower()).strip("_")
    return name if name and not name[0].isdigit() else f"column_{name}".rstrip("_")


def label(column: str) -> str:
    """A column's name as a sentence begins: ``main_category:token`` is ``Main category``."""
    words = re.sub(r"[\W_]+", " ", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", column.partition(":")[0])).strip().lower()
    return words[:1].upper() + words[1:]


def column_key(column: str) -> str:
    """A column's name as the usual names are written: ``User_ID`` is ``userid``."""
    return re.sub(r"[\W_]+", "", column.partition(":")[0].lower())
