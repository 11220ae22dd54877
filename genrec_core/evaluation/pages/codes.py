"""The page ``codes.html``: an explorer of the semantic IDs, a tree of prefixes with the items below each."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from numpy.typing import NDArray

from genrec_core.evaluation.meaning import CodeMeaning, department_numbers
from genrec_core.evaluation.pages.catalog import spread
from genrec_core.evaluation.reading import item_names
from genrec_core.quantization.semantic_ids import SemanticIds

CODES_FILE = "codes.html"
_MOST_ITEMS = 25_000  # of a page that holds every item; about 4 MB
_CUT_LEVELS, _CUT_PREFIXES = 2, 6000  # of a page that does not
_SAMPLES = 3  # titles shown beside a prefix
_LONGEST_TITLE = 90  # characters
_CROWDED, _LEAST_CROWDED = 4.0, 5  # times the mean of prefixes as long, and items
_FULLEST = 10  # codes in the list of the fullest ones


@dataclass(frozen=True)
class CodeTree:
    """Prefixes with the items below them, as the page reads it.

    A prefix is ``[number, items, department, purity, crowded, samples, prefixes below, items below]``: the department
    that most items belong to (-1: unknown) and the share of items in it, in percent; then three lists, of rows of
    ``items``, of prefixes and of rows again. A prefix of one item has no prefixes below it.
    """

    prefixes: list[Any]
    items: list[list[Any]]  # semantic ID, name, id and department of each item that is shown, in the order of codes
    left_out: int  # items that are not shown
    prefixes_left_out: int


def write_codes_page(folder: Path, catalog: pl.DataFrame, meaning: CodeMeaning) -> CodeTree:
    """Write ``codes.html`` into ``folder``, which holds semantic IDs, and return the tree that it shows.

    Args:
        catalog: the frame of ``item_catalog``, with a row for each item.
    """
    text, tree = codes_page(SemanticIds.load(folder), catalog, meaning)
    (folder / CODES_FILE).write_text(text, encoding="utf-8")
    return tree


def codes_page(ids: SemanticIds, catalog: pl.DataFrame, meaning: CodeMeaning) -> tuple[str, CodeTree]:
    """The page as one file of HTML that loads nothing else, and its tree; see :func:`write_codes_page`."""
    items = aligned(catalog, ids.item_ids)
    numbers, departments = department_numbers(items)
    names = [_cut(name) for name in item_names(items)]
    groups = prefix_groups(ids)
    tree = code_tree(ids, names, numbers, [row["mean"] for row in levels_of(groups)])
    data = {"departments": departments, "prefixes": tree.prefixes, "items": tree.items, "levels": ids.codes.shape[1]}
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    text = templates.get_template("codes.html.jinja").render(
        meaning=meaning,
        levels=levels_of(groups),
        sizes=ids.level_sizes,
        items=len(ids.codes),
        tree=tree,
        fullest=fullest_codes(ids, groups[-1], names),
        crowded=f"{_CROWDED:.0f}",
        data=data,
    )
    return text, tree


def aligned(catalog: pl.DataFrame, item_ids: NDArray[Any]) -> pl.DataFrame:
    """The rows of ``catalog`` in the order of ``item_ids`` [n]; an item that it lacks has empty fields."""
    items = pl.DataFrame({"item_id": item_ids.tolist()})
    catalog = catalog.with_columns(pl.col("item_id").cast(items.schema["item_id"]))
    return items.join(catalog, on="item_id", how="left", maintain_order="left")


def prefix_groups(ids: SemanticIds) -> list[NDArray[np.int64]]:
    """For each length of a prefix, without the suffix: the number of each item's prefix in their order, int64 [n]."""
    groups, group = [], np.zeros(len(ids.codes), dtype=np.int64)
    for level, size in enumerate(ids.level_sizes[:-1]):
        group = np.unique(group * size + ids.codes[:, level], return_inverse=True)[1].reshape(-1)
        groups.append(group)
    return groups


def levels_of(groups: Sequence[NDArray[np.int64]]) -> list[dict[str, Any]]:
    """For each length of a prefix: how many are in use, and items of the mean and of the largest one."""
    rows: list[dict[str, Any]] = []
    for length, group in enumerate(groups, 1):
        counts = np.bincount(group)
        rows.append(
            {
                "numbers": length,
                "prefixes": len(counts),
                "mean": float(counts.mean()),
                "largest": int(counts.max()),
                "alone": int((counts == 1).sum()),
            }
        )
    return rows


def fullest_codes(ids: SemanticIds, group: NDArray[np.int64], names: Sequence[str]) -> list[dict[str, Any]]:
    """The codes, without the suffix, that most items share, each with some of these; none that a single item has.

    ``group`` is the last of :func:`prefix_groups`.
    """
    counts = np.bincount(group)
    rows: list[dict[str, Any]] = []
    for number in np.argsort(-counts, kind="stable")[:_FULLEST].tolist():
        if counts[number] > 1:
            members = np.flatnonzero(group == number)
            shown = [names[row] for row in members[spread(len(members), _SAMPLES)].tolist()]
            code = written(ids.codes[members[0], :-1])
            rows.append({"code": code, "items": len(members), "names": shown})
    return rows


def written(code: NDArray[np.int32]) -> str:
    """A code as text: "12-5-0"."""
    return "-".join(map(str, code.tolist()))


def code_tree(
    ids: SemanticIds, names: Sequence[str], departments: NDArray[np.int64], means: Sequence[float]
) -> CodeTree:
    """The tree of all items, or of a large catalogue its first two levels with samples alone.

    Args:
        names: the name of each item, in the order of ``ids``.
        departments: the number of each item's department, int64 [n], -1 where it is unknown.
        means: items of the mean prefix, by its length.
    """
    whole = len(ids.codes) <= _MOST_ITEMS
    levels = ids.codes.shape[1] - 1 if whole else min(_CUT_LEVELS, ids.codes.shape[1] - 1)
    growing = _Growing(ids, names, departments, levels, whole, [max(_CROWDED * mean, _LEAST_CROWDED) for mean in means])
    prefixes = growing.below(np.lexsort(ids.codes.T[::-1]), 0, _CUT_PREFIXES)
    left_out = len(ids.codes) - len(growing.items)
    return CodeTree(prefixes, growing.items, left_out, growing.prefixes_left_out)


@dataclass
class _Growing:
    """The lists of a tree while it grows."""

    ids: SemanticIds
    names: Sequence[str]
    departments: NDArray[np.int64]
    levels: int
    whole: bool
    crowds: Sequence[float]  # from how many items on a prefix of each length is crowded
    items: list[list[Any]] = field(default_factory=list)
    places: dict[int, int] = field(default_factory=dict)  # row of ids -> row of items
    prefixes_left_out: int = 0

    def below(self, rows: NDArray[np.int64], level: int, room: int) -> list[Any]:
        """The prefixes of items ``rows``, sorted by code, that differ in the number of ``level``.

        ``room`` is how many prefixes may be shown where not all items are; the largest ones are.
        """
        numbers = self.ids.codes[rows, level]
        groups = np.split(rows, np.flatnonzero(np.diff(numbers)) + 1) if len(rows) else []
        if not self.whole and len(groups) > room:
            self.prefixes_left_out += len(groups) - room
            largest = sorted(range(len(groups)), key=lambda number: -len(groups[number]))[:room]
            groups = [groups[number] for number in sorted(largest)]
        share = max(room // max(len(groups), 1), 1)
        return [self._prefix(group, level, share) for group in groups]

    def _prefix(self, rows: NDArray[np.int64], level: int, room: int) -> list[Any]:
        known = self.departments[rows][self.departments[rows] >= 0]
        counts = np.bincount(known) if len(known) else np.zeros(1, dtype=np.int64)
        department = int(counts.argmax()) if len(known) else -1
        purity = round(100 * int(counts.max()) / len(rows))
        prefixes: list[Any] = []
        alone: list[int] = []
        if level + 1 < self.levels and len(rows) > 1:
            prefixes = self.below(rows, level + 1, room)
        elif self.whole:
            alone = [self._place(row) for row in rows.tolist()]
        samples = [self._place(row) for row in rows[spread(len(rows), _SAMPLES)].tolist()]
        crowded = int(len(rows) >= self.crowds[level])
        number = int(self.ids.codes[rows[0], level])
        return [number, len(rows), department, purity, crowded, samples, prefixes, alone]

    def _place(self, row: int) -> int:
        """The row of ``items`` that shows an item; it is added where it is not there yet."""
        if row not in self.places:
            self.places[row] = len(self.items)
            code, department = written(self.ids.codes[row]), int(self.departments[row])
            self.items.append([code, self.names[row], str(self.ids.item_ids[row]), department])
        return self.places[row]


def _cut(name: str) -> str:
    name = " ".join(name.split())
    return name if len(name) <= _LONGEST_TITLE else f"{name[: _LONGEST_TITLE - 1]}…"


def example_prefixes(tree: CodeTree, departments: Sequence[str], count: int) -> list[dict[str, Any]]:
    """Some first numbers, evenly apart: items, the department that most belong to, its share, and names of some."""
    chosen = [tree.prefixes[number] for number in spread(len(tree.prefixes), count)]
    return [
        {
            "code": f"{number}-…",
            "items": items,
            "mostly": f"{departments[department]}, {purity} %" if department >= 0 else "unknown",
            "such as": "; ".join(tree.items[place][1] for place in samples),
        }
        for number, items, department, purity, _, samples, _, _ in chosen
    ]
