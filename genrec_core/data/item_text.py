"""The fields of an item, cleaned, as one line of text by a template. Needs no polars."""

import html
import math
import re
import string
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from genrec_core.data.text_files import without_halves
from genrec_core.errors import GenrecError
from genrec_core.settings import DEFAULT_TEXT_TEMPLATE, Settings

if TYPE_CHECKING:  # inference does without polars, which is large
    import polars as pl

TEXT_FIELDS = ("title", "brand", "categories", "price", "description")
TEMPLATE = "text_template"  # a column of item_catalog, the same in each row: what ``text`` was made by
_NO_FIELDS = ("item_id", "text", TEMPLATE)  # the other columns of item_catalog
_CURRENCY = r"(?:[A-Z]{3}|[$£¤¥\u20a0-\u20cf])?"  # a code, or a sign
_PRICE = re.compile(rf"\s*{_CURRENCY}\s*([+-]?[\d.,]+)\s*{_CURRENCY}\s*")
_RANGE = re.compile(r"(?<=\d)\s*[-\u2013]\s*(?=\D?\d)")  # "$9.99 - $14.99"
_NUMBERS = (  # how a number is written, what parts its thousands, and its decimal point
    (re.compile(r"[+-]?\d*\.?\d*"), "", "."),
    (re.compile(r"[+-]?\d*,\d{1,2}"), "", ","),
    (re.compile(r"[+-]?\d{1,3}(,\d{2,3})*,\d{3}(\.\d*)?"), ",", "."),
    (re.compile(r"[+-]?\d{1,3}(\.\d{3})+,\d*"), ".", ","),
    (re.compile(r"[+-]?\d{1,3}(\.\d{3}){2,}"), ".", ","),
)
_VALUES = re.compile(r"(?<=\S)\|(?=\S)")
_ENTITY = re.compile(r"&(?:#[0-9]+|#[xX][0-9a-fA-F]+|[a-zA-Z][a-zA-Z0-9]*);")  # "Arts&notes" is none
_INLINE = "a|abbr|b|big|em|font|i|mark|s|small|span|strike|strong|sub|sup|tt|u"  # they stand within words
_BLOCKS = (
    "blockquote|body|br|caption|center|code|col|dd|div|dl|dt|h[1-6]|head|hr|html|img|li|meta|ol|p|pre|script|style|"
    "table|tbody|td|tfoot|th|thead|tr|ul"
)
_TAG = re.compile(  # of known names alone: "5 <6> 3" and "<new>" are texts
    rf"</?(?:(?P<inline>{_INLINE})|{_BLOCKS})"
    r"""(?:\s+[\w:-]+\s*=\s*(?:"[^"<>]*"|'[^'<>]*'|[^\s"'<>]+))*\s*/?>|<!--[^<>]*-->""",
    re.IGNORECASE,
)


class ItemFields(Settings):
    """The fields that the items of a catalogue have, and the template of their texts. They travel with the vectors."""

    text_template: str = DEFAULT_TEXT_TEMPLATE
    texts: tuple[str, ...] = tuple(name for name in TEXT_FIELDS if name != "price")
    numbers: tuple[str, ...] = ("price",)

    @classmethod
    def of_catalog(cls, catalog: "pl.DataFrame") -> "ItemFields":
        """From the frame of ``item_catalog``; a frame that does not name its template has the default one."""
        columns = {name: dtype for name, dtype in catalog.schema.items() if name not in _NO_FIELDS}
        numbers = [name for name, dtype in columns.items() if name == "price" or dtype.is_numeric()]
        texts = [name for name, dtype in columns.items() if name not in numbers and not dtype.is_nested()]
        template = catalog[TEMPLATE][0] if TEMPLATE in catalog.columns and catalog.height else DEFAULT_TEXT_TEMPLATE
        return cls(text_template=template, texts=tuple(texts), numbers=tuple(numbers))

    def with_template(self, text_template: str | None) -> "ItemFields":
        """The same fields with another template, if there is one."""
        return self.model_copy(update={TEMPLATE: text_template}) if text_template else self

    def parts(self) -> list[tuple[str, str]]:
        """The parts of the template; see :func:`template_parts`."""
        return template_parts(self.text_template, (*self.texts, *self.numbers))


def template_of(labels: Mapping[str, str]) -> str:
    """The template of a text that names each field: ``{"main_category": "Genre"}`` is "Genre: {main_category};"."""
    return " ".join(f"{label}: {{{field}}};" for field, label in labels.items())


def template_parts(template: str, fields: Iterable[str]) -> list[tuple[str, str]]:
    """Split a text template at its ';' into parts with the one field of each ('' for a part without a field).

    ``fields`` are those that items have; a part with another field is an error.
    """
    parts, known = [], list(fields)
    for part in filter(str.strip, template.split(";")):
        try:
            names = [name for _, name, _, _ in string.Formatter().parse(part) if name is not None]
        except ValueError as error:
            raise GenrecError(f"text_template part {part.strip()!r}: {error}") from error
        if len(names) > 1 or any(name not in known for name in names):
            there = ", ".join(known) or "(there are none)"
            raise GenrecError(f"text_template part {part.strip()!r}: a part may hold one of the fields {there}")
        parts.append((part.strip() + ";", names[0] if names else ""))
    return parts


def render_text(parts: list[tuple[str, str]], fields: Mapping[str, Any]) -> str:
    """Fill the parts whose field is present; '' if no field is."""
    present = [(part, field) for part, field in parts if not field or fields[field] is not None]
    if not any(field for _, field in present):
        return ""
    return " ".join(
        part.format(**{field: _printed(field, fields[field])}) if field else part for part, field in present
    )


def _printed(field: str, value: str | float) -> str:
    if isinstance(value, str):
        return value.replace(" > ", ", ")
    if field == "price":
        return f"{value:.2f}"
    return f"{value:.0f}" if value == round(value) else f"{value:.6g}"


def text_fields(entry: Mapping[str, Any], fields: ItemFields | None = None) -> dict[str, Any]:
    """The fields of an item, cleaned: texts and numbers, None for what ``entry`` lacks.

    They are ``TEXT_FIELDS``, and those of ``fields``.
    """
    form = fields or ItemFields()
    cleaners: dict[str, Callable[[Any], str | float | None]] = dict.fromkeys(TEXT_FIELDS, clean_text)
    cleaners |= dict.fromkeys((name for name in form.texts if name not in TEXT_FIELDS), values_of)
    cleaners |= dict.fromkeys(form.numbers, price_of) | {"categories": categories_of, "price": price_of}
    return {name: clean(entry.get(name)) for name, clean in cleaners.items()}


def clean_text(value: Any) -> str | None:
    """A text without entities and tags of HTML; None where nothing is left. A list is joined by spaces.

    White space is folded, and halves of letters are replaced.
    """
    if isinstance(value, list):
        value = " ".join(map(str, value))
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    text = _ENTITY.sub(lambda entity: html.unescape(entity[0]), str(value))
    text = _TAG.sub(lambda tag: "" if tag["inline"] else " ", text)
    return without_halves(" ".join(text.split())) or None


def values_of(value: Any) -> str | None:
    """The different values of a list, or of a text as ``one|two``, cleaned and joined by "; "; "one | two" is one."""
    values = _VALUES.split(value) if isinstance(value, str) else value if isinstance(value, list) else [value]
    return "; ".join(dict.fromkeys(filter(None, map(clean_text, values)))) or None


def categories_of(value: Any) -> str | None:
    """Category paths as "A > B > C", joined by "; "; a flat list is one path, and ``|`` parts those of a text."""
    if not isinstance(value, list):
        return values_of(value.split("|") if isinstance(value, str) else value)
    paths = value if any(isinstance(path, list) for path in value) else [value]
    lists = [path if isinstance(path, list) else [path] for path in paths]
    texts = [" > ".join(text for name in names if (text := clean_text(name))) for names in lists]
    return "; ".join(dict.fromkeys(filter(None, texts))) or None


def price_of(value: Any) -> float | None:
    """A number, with or without a currency; None for anything else.

    A comma alone is the decimal point before one or two digits; before three it parts thousands, as several points do.
    Of a range, the lower end counts.
    """
    text = _RANGE.split(str(value))[0]
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
