"""Rules over the catalogue, such as ``brand = OPI and not category = Nails``: grammar, and the items they hold for.

    rule       = part { "or" part }             part  = term { "and" term }
    term       = "not" term | "(" rule ")" | comparison
    comparison = field ("=" | "!=" | "<" | "<=" | ">" | ">=" | "contains") value
               | field "in" "(" value { "," value } ")"

A value is a quoted string, or words up to the next operator, bracket, comma or keyword. Case and repeated white space
do not matter anywhere. The parser is hand-made: the grammar fits a page, and every error names the place and the word
at fault, which parser generators leave to their users.
"""

import difflib
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np

from genrec_core.bundle.item_attributes import ItemAttributes, NumberAttribute, TextAttribute, folded
from genrec_core.errors import GenrecError

LONGEST_RULE, DEEPEST_NESTING = 10_000, 50  # characters; brackets and nots inside one another
TEXT_FIELDS, NUMBER_FIELDS = ("brand", "category", "title"), ("price", "item_id")
FIELDS = (*TEXT_FIELDS, *NUMBER_FIELDS)
_KEYWORDS = ("and", "or", "not", "in", "contains")
_ORDERS: dict[str, Callable[[np.ndarray, Any], np.ndarray]] = {
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
}
_OPERATORS = ("=", "!=", *_ORDERS)
_TOKEN = re.compile(
    r"""(?P<quoted>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(?P<open>["'])|(?P<operator>[=!<>]+)|(?P<mark>[(),])"""
    r"""|(?P<word>[^\s=!<>(),]+)""",
    re.DOTALL,
)
_INT64 = np.iinfo(np.int64)
_SHOWN = 60  # characters of a rule's word that an error quotes
_CANDIDATES = 2000  # values compared for likeness with one that no item has
Value = str | int | float


@dataclass(frozen=True)
class Comparison:
    """One field against one value, or several after ``in``.

    Args:
        field: one of :data:`FIELDS`.
        operator: ``=`` (which ``in`` becomes), ``!=``, ``<``, ``<=``, ``>``, ``>=`` or ``contains``.
        values: folded text, or numbers; one but for ``in``.
    """

    field: str
    operator: str
    values: tuple[Value, ...]

    def holds(self, items: ItemAttributes) -> np.ndarray:
        """See :meth:`Rule.holds`."""
        attribute = items.attribute(self.field)
        if isinstance(attribute, TextAttribute):
            found = attribute.where(self._hit(attribute))
        elif self.operator in _ORDERS:
            found = attribute.present & _ORDERS[self.operator](attribute.values, self.values[0])
        else:
            found = attribute.present & np.isin(attribute.values, np.array(self.values))
        return attribute.present & ~found if self.operator == "!=" else found

    def _hit(self, attribute: TextAttribute) -> np.ndarray:
        """Which of the field's distinct values are meant, bool."""
        if self.operator == "contains":
            return attribute.containing(str(self.values[0]))
        return attribute.among(tuple(map(str, self.values)))

    def comparisons(self) -> Iterator["Comparison"]:
        """Itself."""
        yield self


@dataclass(frozen=True)
class Not:
    """Holds where its part does not."""

    part: "Condition"

    def holds(self, items: ItemAttributes) -> np.ndarray:
        """See :meth:`Rule.holds`."""
        return ~self.part.holds(items)

    def comparisons(self) -> Iterator[Comparison]:
        """Those below."""
        yield from self.part.comparisons()


@dataclass(frozen=True)
class Joined:
    """Parts of which all must hold (``every``), or one at least."""

    parts: tuple["Condition", ...]
    every: bool

    def holds(self, items: ItemAttributes) -> np.ndarray:
        """See :meth:`Rule.holds`."""
        join = np.logical_and if self.every else np.logical_or
        found = self.parts[0].holds(items)
        for part in self.parts[1:]:
            found = join(found, part.holds(items))
        return found

    def comparisons(self) -> Iterator[Comparison]:
        """Those below."""
        for part in self.parts:
            yield from part.comparisons()


Condition = Comparison | Not | Joined


@dataclass(frozen=True)
class Rule:
    """A parsed rule.

    Args:
        text: as it was written.
        condition: what it says.
    """

    text: str
    condition: Condition

    @classmethod
    def parse(cls, text: str) -> "Rule":
        """Read a rule.

        Raises:
            GenrecError: it is no rule, is longer than 10,000 characters, or nests deeper than 50; names the place.
        """
        if len(text) > LONGEST_RULE:
            raise GenrecError(
                f"the rule has {len(text)} characters, but {LONGEST_RULE} are the most; give long lists of items as "
                "allow or deny lists"
            )
        return cls(text, _Parser(text).rule())

    def holds(self, items: ItemAttributes) -> np.ndarray:
        """Which items the rule holds for, bool [n_items].

        A comparison with a field that an item lacks is false, ``!=`` too, and its ``not`` therefore true. An item of
        several categories is ``= X`` if one of them is, and ``!= X`` if none is.
        """
        return self.condition.holds(items)

    def unmatched(self, items: ItemAttributes) -> list[str]:
        """What the rule compares with that no item has: misspelt, most often; close values are named."""
        notes = [note for each in self.condition.comparisons() for note in _unmatched(each, items)]
        return list(dict.fromkeys(notes))


def _unmatched(comparison: Comparison, items: ItemAttributes) -> Iterator[str]:
    attribute, field = items.attribute(comparison.field), comparison.field
    if not attribute.present.any():
        yield f"no item of this model has a {field}: a comparison with it is never true"
    elif isinstance(attribute, NumberAttribute):
        if comparison.operator in ("=", "!="):
            missing = [value for value in comparison.values if not (attribute.values == value).any()]
            yield from (f"no item has the {field} {value}" for value in missing)
    elif comparison.operator == "contains":
        if not comparison.holds(items).any():
            yield f"no item has a {field} that contains {_quoted(str(comparison.values[0]))}"
    else:
        for value in comparison.values:
            if str(value) not in attribute.place:
                close = _close(str(value), attribute)
                yield f"no item has the {field} {_quoted(str(value))}" + (f"; close to it: {close}" if close else "")


def _close(value: str, attribute: TextAttribute) -> str:
    """Up to three values of the same first letter that look like ``value``, as the catalogue writes them."""
    alike = (
        name
        for name in attribute.place
        if name.startswith(value[:1]) and len(value) // 2 <= len(name) <= 2 * len(value)
    )
    candidates = list(islice(alike, _CANDIDATES))
    return ", ".join(attribute.shown(name) for name in difflib.get_close_matches(value, candidates))


@dataclass(frozen=True)
class _Token:
    """A piece of a rule: its kind (``word``, ``quoted``, ``operator``, ``mark``, ``keyword``, ``end``) and place."""

    kind: str
    text: str
    position: int

    @cached_property
    def keyword(self) -> str:
        """The keyword that it is, or ''."""
        word = self.text.lower()
        return word if self.kind == "word" and word in _KEYWORDS else ""

    def __str__(self) -> str:
        return "its end" if self.kind == "end" else _quoted(self.text)


class _Parser:
    """Reads a rule by recursive descent."""

    def __init__(self, text: str) -> None:
        self.tokens, self.place, self.depth = list(_tokens(text)), 0, 0

    @property
    def next(self) -> _Token:
        """The token that is to be read."""
        return self.tokens[self.place]

    def take(self) -> _Token:
        """Read a token; the end is never passed."""
        token = self.next
        self.place += token.kind != "end"
        return token

    def rule(self) -> Condition:
        """The whole of it."""
        if self.next.kind == "end":
            raise GenrecError("the rule is empty; write one such as brand = OPI, or leave it out")
        condition = self.either()
        if self.next.kind != "end":
            raise self.fault("'and', 'or' or the end of the rule")
        return condition

    def either(self) -> Condition:
        """Parts joined by ``or``."""
        return self.joined(lambda: self.joined(self.term, "and"), "or")

    def joined(self, part: Callable[[], Condition], keyword: str) -> Condition:
        """Parts joined by one keyword."""
        parts = [part()]
        while self.next.keyword == keyword:
            self.take()
            parts.append(part())
        return parts[0] if len(parts) == 1 else Joined(tuple(parts), every=keyword == "and")

    def term(self) -> Condition:
        """A comparison, or something in brackets or after ``not``."""
        token = self.next
        if token.keyword != "not" and token.text != "(":
            return self.comparison()
        self.take()
        self.depth += 1
        if self.depth > DEEPEST_NESTING:
            raise GenrecError(
                f"rule, character {token.position}: nested deeper than {DEEPEST_NESTING}; write it flatter"
            )
        if token.keyword == "not":
            condition: Condition = Not(self.term())
        else:
            condition = self.either()
            self.mark(")")
        self.depth -= 1
        return condition

    def mark(self, mark: str) -> None:
        """Read a bracket."""
        if self.next.kind != "mark" or self.next.text != mark:
            raise self.fault(f"'{mark}'")
        self.take()

    def comparison(self) -> Comparison:
        """A field, an operator, and what is compared."""
        field = self.field()
        operator = self.operator(field)
        if operator != "in":
            return Comparison(field, operator, (self.value(field),))
        self.mark("(")
        values = [self.value(field)]
        while self.next.kind == "mark" and self.next.text == ",":
            self.take()
            values.append(self.value(field))
        self.mark(")")
        return Comparison(field, "=", tuple(values))

    def field(self) -> str:
        """The name of a field."""
        token = self.next
        if token.kind != "word" or token.keyword:
            raise self.fault("a field")
        name = token.text.lower()
        if name not in FIELDS:
            raise GenrecError(
                f"rule, character {token.position}: {token} is no field; the fields are {', '.join(FIELDS)}"
                " (a value of several words that holds 'and', 'or', 'not', 'in' or 'contains' needs quotes)"
            )
        self.take()
        return name

    def operator(self, field: str) -> str:
        """An operator that ``field`` takes."""
        token = self.next
        name = token.keyword or token.text
        if name not in (*_OPERATORS, "in", "contains") or token.kind not in ("operator", "word"):
            raise self.fault(f"one of {' '.join(_OPERATORS)} in contains after {field}")
        if (field in TEXT_FIELDS and name in _ORDERS) or (field in NUMBER_FIELDS and name == "contains"):
            kind, takes = ("text", "= != in contains") if field in TEXT_FIELDS else ("a number", "= != < <= > >= in")
            raise GenrecError(f"rule, character {token.position}: {token}, but {field} is {kind} and takes {takes}")
        self.take()
        return name

    def value(self, field: str) -> Value:
        """A quoted string, or words up to what cannot be one."""
        first = self.next
        if first.kind == "quoted":
            text = re.sub(r"\\(.)", r"\1", self.take().text[1:-1], flags=re.DOTALL)
        else:
            words = []
            while self.next.kind == "word" and not self.next.keyword:
                words.append(self.take().text)
            text = " ".join(words)
        if not text.strip():
            raise self.fault(f"a value of {field}") if first is self.next else _no_value(field, first, "is empty")
        return folded(text) if field in TEXT_FIELDS else _number(field, text.strip(), first)

    def fault(self, wanted: str) -> GenrecError:
        """The error of a token that cannot stand here."""
        remedy = "; put a value that holds such a word or sign in quotes" if self.next.kind != "end" else ""
        return GenrecError(f"rule, character {self.next.position}: expected {wanted}, found {self.next}{remedy}")


def _tokens(text: str) -> Iterator[_Token]:
    for found in _TOKEN.finditer(text):
        kind, position = str(found.lastgroup), found.start() + 1
        if kind == "open":
            raise GenrecError(f"rule, character {position}: the quote {found.group()} is never closed; close it")
        yield _Token(kind, found.group(), position)
    yield _Token("end", "", len(text) + 1)


def _number(field: str, text: str, token: _Token) -> int | float:
    """An id, or a price with or without a dollar sign."""
    if field == "item_id":
        if re.fullmatch(r"-?[0-9]{1,19}", text, re.ASCII) and _INT64.min <= int(text) <= _INT64.max:
            return int(text)
        raise _no_value(field, token, "is not an integer id")
    if re.fullmatch(r"\$?-?[0-9]{1,300}(\.[0-9]{1,300})?", text, re.ASCII) and math.isfinite(float(text.lstrip("$"))):
        return float(text.lstrip("$"))
    raise _no_value(field, token, "is not a number such as 19.99")


def _no_value(field: str, token: _Token, fault: str) -> GenrecError:
    return GenrecError(f"rule, character {token.position}: {token} {fault}; give {field} another value")


def _quoted(text: str) -> str:
    return f"'{text[:_SHOWN]}'" if len(text) <= _SHOWN else f"'{text[:_SHOWN]}...'"
