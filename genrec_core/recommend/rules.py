"""Rules over the catalogue, such as ``brand = OPI and not category = Nails``: grammar, and the items they hold for.

    rule       = part { "or" part }             part  = term { "and" term }
    term       = "not" term | "(" rule ")" | comparison
    comparison = field ("=" | "!=" | "<" | "<=" | ">" | ">=" | "contains") value
               | field "in" "(" value { "," value } ")"

A value is a quoted string, or words up to the next operator, bracket, comma or keyword. Case and repeated white space
do not matter anywhere. The parser is written by hand: the grammar is small, and each error names the place and the word
at fault, which parser generators do not do by themselves.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

import numpy as np

from genrec_core.bundle.item_attributes import FIELDS, ItemAttributes, TextAttribute, folded
from genrec_core.data.ids import item_id_of
from genrec_core.errors import GenrecError

LONGEST_RULE, DEEPEST_NESTING = 10_000, 50  # characters; brackets and nots inside one another
_KEYWORDS = ("and", "or", "not", "in", "contains")
_OPERATORS = ("=", "!=", "<", "<=", ">", ">=", "in", "contains")
_TEXT_OPERATORS, _NUMBER_OPERATORS = ("=", "!=", "in", "contains"), ("=", "!=", "<", "<=", ">", ">=", "in")
_ORDERS = {"<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal}
_TOKEN = re.compile(
    r"""(?P<quoted>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(?P<open>["'])|(?P<operator>[=!<>]+)|(?P<mark>[(),])"""
    r"""|(?P<word>[^\s=!<>(),]+)""",
    re.DOTALL,
)
_NUMBER = re.compile(r"\$?(-?[0-9]{1,300}(?:\.[0-9]{1,300})?)", re.ASCII)  # a dollar sign may stand before it
Value = str | int | float
Condition = Callable[[ItemAttributes], np.ndarray]  # the items that it holds for, bool [n_items]


@dataclass(frozen=True)
class Comparison:
    """One field against one value, or against several after ``in``."""

    field: str
    operator: str  # one of _OPERATORS; ``in`` becomes ``=``
    values: tuple[Value, ...]  # folded text, or numbers; several only for ``in``

    def holds(self, items: ItemAttributes) -> np.ndarray:
        attribute = items.attribute(self.field)
        if isinstance(attribute, TextAttribute):
            texts = tuple(map(str, self.values))
            if self.operator == "contains":
                matches = attribute.where([index for text, index in attribute.place.items() if texts[0] in text])
            else:
                matches = attribute.where([attribute.place[text] for text in texts if text in attribute.place])
        elif self.operator in _ORDERS:
            matches = attribute.present & _ORDERS[self.operator](attribute.values, self.values[0])
        else:
            matches = attribute.present & np.isin(attribute.values, np.array(self.values))
        return attribute.present & ~matches if self.operator == "!=" else matches

    def unmatched(self, items: ItemAttributes) -> Iterator[str]:
        attribute, field = items.attribute(self.field), self.field
        if not attribute.present.any():
            yield f"no item of this model has a {field}: a comparison with it is never true"
        elif self.operator == "contains" and not self.holds(items).any():
            yield f"no item has a {field} that contains {self.values[0]!r:.60}"
        elif self.operator in ("=", "!="):
            known = attribute.place if isinstance(attribute, TextAttribute) else attribute.values
            yield from (f"no item has the {field} {value!r:.60}" for value in self.values if value not in known)


@dataclass(frozen=True)
class Rule:
    """A parsed rule: its condition, and the comparisons in it."""

    condition: Condition
    comparisons: tuple[Comparison, ...]

    @classmethod
    def parse(cls, text: str, fields: Mapping[str, type] = FIELDS) -> "Rule":
        """Read a rule over ``fields``, those of :class:`ItemAttributes`; an error names the place of the fault."""
        if len(text) > LONGEST_RULE:
            raise GenrecError(
                f"the rule has {len(text)} characters, but {LONGEST_RULE} are the most; list items by allow or deny"
            )
        parser = _Parser(text, fields)
        return cls(parser.rule(), tuple(parser.comparisons))

    def holds(self, items: ItemAttributes) -> np.ndarray:
        """Which items the rule holds for, bool [n_items].

        If an item lacks a field, a comparison with that field is false, ``!=`` too, and its ``not`` is true. An item of
        several categories is ``= X`` if one of them is, and ``!= X`` if none is.
        """
        return self.condition(items)

    def unmatched(self, items: ItemAttributes) -> list[str]:
        """A note for each value of the rule that no item has, most often misspelt."""
        notes = [note for comparison in self.comparisons for note in comparison.unmatched(items)]
        return list(dict.fromkeys(notes))


class _Token(NamedTuple):
    kind: str  # word, keyword, quoted, operator, mark or end
    text: str
    position: int  # of its first character in the rule, from 1

    def __str__(self) -> str:
        return "its end" if self.kind == "end" else f"{self.text!r:.60}"


def _tokens(text: str) -> Iterator[_Token]:
    for match in _TOKEN.finditer(text):
        kind, word, position = str(match.lastgroup), match.group(), match.start() + 1
        if kind == "open":
            raise GenrecError(f"rule, character {position}: the quote {word} is never closed; close it")
        yield _Token("keyword" if kind == "word" and word.lower() in _KEYWORDS else kind, word, position)
    yield _Token("end", "", len(text) + 1)


class _Parser:
    """Reads a rule by recursive descent, and notes the comparisons in it."""

    def __init__(self, text: str, fields: Mapping[str, type]) -> None:
        self.fields, self.tokens, self.place, self.depth = fields, list(_tokens(text)), 0, 0
        self.comparisons: list[Comparison] = []

    @property
    def next(self) -> _Token:
        return self.tokens[self.place]

    def accepts(self, sign: str) -> bool:
        accepted = self.next.kind in ("keyword", "mark") and self.next.text.lower() == sign
        self.place += accepted
        return accepted

    def require(self, sign: str) -> None:
        if not self.accepts(sign):
            raise self.fault(f"'{sign}'")

    def fault(self, wanted: str) -> GenrecError:
        remedy = "; put a value that holds such a word or sign in quotes" if self.next.kind != "end" else ""
        return GenrecError(f"rule, character {self.next.position}: expected {wanted}, found {self.next}{remedy}")

    def rule(self) -> Condition:
        if self.next.kind == "end":
            raise GenrecError("the rule is empty; write one such as brand = OPI, or leave it out")
        condition = self.either()
        if self.next.kind != "end":
            raise self.fault("'and', 'or' or the end of the rule")
        return condition

    def either(self) -> Condition:
        return self.joined(self.both, "or", np.logical_or)

    def both(self) -> Condition:
        return self.joined(self.term, "and", np.logical_and)

    def joined(self, part: Callable[[], Condition], keyword: str, join: np.ufunc) -> Condition:
        parts = [part()]
        while self.accepts(keyword):
            parts.append(part())
        return lambda items: reduce(join, (part(items) for part in parts))

    def term(self) -> Condition:
        start = self.next
        negated = self.accepts("not")
        if not negated and not self.accepts("("):
            return self.comparison()
        self.depth += 1
        if self.depth > DEEPEST_NESTING:
            raise GenrecError(f"rule, character {start.position}: nested deeper than {DEEPEST_NESTING}; flatten it")
        condition = self.term() if negated else self.either()
        if not negated:
            self.require(")")
        self.depth -= 1
        return (lambda items: ~condition(items)) if negated else condition

    def comparison(self) -> Condition:
        field = self.field()
        operator = self.operator(field)
        if operator != "in":
            comparison = Comparison(field, operator, (self.value(field),))
        else:
            self.require("(")
            values = [self.value(field)]
            while self.accepts(","):
                values.append(self.value(field))
            self.require(")")
            comparison = Comparison(field, "=", tuple(values))
        self.comparisons.append(comparison)
        return comparison.holds

    def field(self) -> str:
        token = self.next
        if token.kind != "word":
            raise self.fault("a field")
        if token.text.lower() not in self.fields:
            raise GenrecError(
                f"rule, character {token.position}: {token} is no field; the fields are {', '.join(self.fields)}"
                " (a value of several words that holds 'and', 'or', 'not', 'in' or 'contains' needs quotes)"
            )
        self.place += 1
        return token.text.lower()

    def operator(self, field: str) -> str:
        token, name = self.next, self.next.text.lower()
        if token.kind not in ("operator", "keyword") or name not in _OPERATORS:
            raise self.fault(f"one of {' '.join(_OPERATORS)} after {field}")
        is_text = self.fields[field] is str
        kind, takes = ("text", _TEXT_OPERATORS) if is_text else ("a number", _NUMBER_OPERATORS)
        if name not in takes:
            raise GenrecError(
                f"rule, character {token.position}: {token}, but {field} is {kind} and takes {' '.join(takes)}"
            )
        self.place += 1
        return name

    def value(self, field: str) -> Value:
        """A quoted string, or words up to what cannot be one."""
        first = self.next
        if first.kind == "quoted":
            self.place += 1
            text = re.sub(r"\\(.)", r"\1", first.text[1:-1], flags=re.DOTALL)
        else:
            begin = self.place
            while self.next.kind == "word":
                self.place += 1
            text = " ".join(token.text for token in self.tokens[begin : self.place])
            if not text:
                raise self.fault(f"a value of {field}")
        kind = self.fields[field]
        value = folded(text) if kind is str else _number(kind, text)
        if value is None or value == "":
            wanted = {int: "an integer id", float: "a number such as 19.99"}.get(kind, "a text")
            raise GenrecError(f"rule, character {first.position}: {first} is not {wanted}; give {field} another value")
        return value


def _number(kind: type, text: str) -> int | float | None:
    if kind is float:
        number = _NUMBER.fullmatch(text.strip())
        return float(number[1]) if number else None
    with suppress(GenrecError):
        return item_id_of(text)
    return None
