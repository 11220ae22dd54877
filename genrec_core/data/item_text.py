"""The fields of an item, cleaned, as one line of text by a template. Needs no polars."""

import math
import re
import string
from typing import Any

from genrec_core.data.text_files import without_halves
from genrec_core.errors import GenrecError

TEXT_FIELDS = ("title", "brand", "categories", "price", "description")
_CURRENCY = r"(?:[A-Z]{3}|[$£¤¥\u20a0-\u20cf])?"  # a code, or a sign
_PRICE = re.compile(rf"\s*{_CURRENCY}\s*([+-]?[\d.,]+)\s*{_CURRENCY}\s*")
_NUMBERS = (  # how a number is written, what parts its thousands, and its decimal point
    (re.compile(r"[+-]?\d*\.?\d*"), "", "."),
    (re.compile(r"[+-]?\d*,\d{1,2}"), "", ","),
    (re.compile(r"[+-]?\d{1,3}(,\d{2,3})*,\d{3}(\.\d*)?"), ",", "."),
    (re.compile(r"[+-]?\d{1,3}(\.\d{3})+,\d*"), ".", ","),
    (re.compile(r"[+-]?\d{1,3}(\.\d{3}){2,}"), ".", ","),
)


def template_parts(template: str) -> list[tuple[str, str]]:
    """Split a text template at its ';' into parts with the one field of each ('' for a part without a field)."""
    parts = []
    for part in filter(str.strip, template.split(";")):
        try:
            fields = [name for _, name, _, _ in string.Formatter().parse(part) if name is not None]
        except ValueError as error:
            raise GenrecError(f"text_template part {part.strip()!r}: {error}") from error
        if len(fields) > 1 or any(name not in TEXT_FIELDS for name in fields):
            raise GenrecError(
                f"text_template part {part.strip()!r}: a part may hold one of the fields {', '.join(TEXT_FIELDS)}"
            )
        parts.append((part.strip() + ";", fields[0] if fields else ""))
    return parts


def render_text(parts: list[tuple[str, str]], fields: dict[str, Any]) -> str:
    """Fill the parts whose field is present; '' if no field is."""
    present = [(part, field) for part, field in parts if not field or fields[field] is not None]
    if not any(field for _, field in present):
        return ""
    return " ".join(part.format(**{field: _printed(fields[field])}) if field else part for part, field in present)


def _printed(value: str | float) -> str:
    return f"{value:.2f}" if isinstance(value, float) else value.replace(" > ", ", ")


def text_fields(entry: dict[str, Any]) -> dict[str, Any]:
    """The fields that item text is made of, cleaned; None for what ``entry`` lacks."""
    special = {"categories": _categories, "price": _price}
    return {name: special.get(name, _text)(entry.get(name)) for name in TEXT_FIELDS}


def _text(value: Any) -> str | None:
    """White space folded, halves of letters replaced; None where nothing is left. A list of strings is joined."""
    if isinstance(value, list):
        value = " ".join(map(str, value))
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    return without_halves(" ".join(str(value).split())) or None


def _categories(value: Any) -> str | None:
    """Category paths as "A > B > C", several joined by "; "; a flat list is one path."""
    if not isinstance(value, list):
        return _text(value)
    paths = value if any(isinstance(path, list) for path in value) else [value]
    lists = [path if isinstance(path, list) else [path] for path in paths]
    texts = [" > ".join(text for name in names if (text := _text(name))) for names in lists]
    return "; ".join(dict.fromkeys(filter(None, texts))) or None


def _price(value: Any) -> float | None:
    """A number, with or without a currency; None for anything else.

    A comma alone is the decimal point before one or two digits; before three it parts thousands, as several points do.
    """
    text = str(value)
    if match := _PRICE.fullmatch(text):
        text = _plain(match[1])
    try:
        price = float(text)
    except ValueError:
        return None
    return price if math.isfinite(price) else None


def _plain(number: str) -> str:
    """The number as ``float`` reads it; unchanged, so that ``float`` refuses it, if it is written in no known way."""
    for form, thousands, point in _NUMBERS:
        if form.fullmatch(number):
            return number.replace(thousands, "").replace(point, ".")
    return number
