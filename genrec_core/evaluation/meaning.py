"""How much text vectors and semantic IDs say about what an item is, judged by its department or by its text."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from genrec_core.evaluation.pages.catalog import UNKNOWN, departments, spread

NEAREST = 5  # neighbours by text that are compared with an item
_COMPARED_ITEMS, _MOST_COSINES = 2000, 200_000_000  # items whose neighbours are searched, and cosines in all
_COSINES_AT_ONCE = 5_000_000
_SHUFFLES = 5
# How far a share must lie between chance (0) and always (1) for each judgement.
_MUCH, _LITTLE = 0.2, 0.05


@dataclass(frozen=True)
class Share:
    """How often two things agree, and how often they would by chance; both from 0 to 1."""

    measured: float
    chance: float

    @property
    def gain(self) -> float:
        """Where the measured share lies between chance, 0, and always, 1."""
        return (self.measured - self.chance) / (1 - self.chance) if self.chance < 1 else 0.0

    @property
    def words(self) -> str:
        """For example "2.3 times as often as chance (62 % against 27 %)"."""
        against = f"({self.measured:.0%} against {self.chance:.0%})".replace("%", " %")
        return f"{self.measured / self.chance:.1f} times as often as chance {against}"


@dataclass(frozen=True)
class CodeMeaning:
    """What the first number of semantic IDs says about items."""

    department: Share | None  # pairs of items with the same first number that share their department; None: not judged
    purity: Share | None  # share of items in the largest department of their first number; chance: shuffled codes
    text: Share | None  # pairs of nearest texts with the same first number; None where departments judge

    @property
    def verdict(self) -> str:
        """One sentence that judges the codes."""
        if self.department:
            what = "items with the same first number share their department"
            return f"{_judged(self.department, 'what an item is')}: {what} {self.department.words}."
        if self.text:
            what = "an item and its nearest text have the same first number"
            return f"{_judged(self.text, 'what a text is about')}: {what} {self.text.words}."
        return "Nothing judges these codes: the catalogue has too few categories and too few items."


def _judged(share: Share, what: str) -> str:
    if share.gain >= _MUCH:
        return f"Codes say {what}"
    return f"Codes say a little of {what}" if share.gain >= _LITTLE else f"Codes hardly say {what}"


def department_numbers(catalog: pl.DataFrame) -> tuple[NDArray[np.int64], list[str]]:
    """The department of each item as a number, int64 [n], -1 where it is unknown, and the names by number."""
    named = departments(catalog["categories"])
    names = named.filter(named != UNKNOWN).unique().sort().to_list()
    numbers = named.replace_strict(names, range(len(names)), default=-1, return_dtype=pl.Int64)
    return numbers.to_numpy().astype(np.int64), names


def code_meaning(
    codes: NDArray[np.int32], numbers: NDArray[np.int64], l2norm: NDArray[np.float32], seed: int = 0
) -> CodeMeaning:
    """Judge codes int32 [n, levels + 1] by departments; where the catalogue has none, by nearest texts.

    Args:
        numbers: of :func:`department_numbers`, [n].
        l2norm: text vectors of length 1 or 0, float32 [n, dim].
    """
    known = numbers >= 0
    first, of = codes[known, 0].astype(np.int64), numbers[known]
    measured, chance = alike_share(of, first), alike_share(of)
    if measured is not None and chance and chance < 1:
        return CodeMeaning(Share(measured, chance), purity_share(first, of, seed), None)
    sizes = np.bincount(codes[:, 0]) / max(len(codes), 1)
    rows, near = nearest_of_some(l2norm, 1)
    if not near.size:
        return CodeMeaning(None, None, None)
    same = codes[rows, 0] == codes[near[:, 0], 0]
    return CodeMeaning(None, None, Share(float(same.mean()), float(np.square(sizes).sum())))


def alike_share(numbers: NDArray[np.int64], within: NDArray[np.int64] | None = None) -> float | None:
    """The share of pairs of items with the same number, of all pairs or of those in the same group.

    Args:
        numbers: int64 [n].
        within: the group of each item, int64 [n]; None: one group.

    Returns:
        None where there is no pair.
    """
    groups = np.zeros(len(numbers), dtype=np.int64) if within is None else within
    pairs = _pairs(np.unique(groups, return_counts=True)[1])
    alike = _pairs(_joint(groups, numbers)[1])
    return alike / pairs if pairs else None


def _joint(groups: NDArray[np.int64], numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The group of each pair of group and number that occurs, and how often it does, int64 [m] each."""
    width = int(numbers.max(initial=0)) + 1
    pairs, counts = np.unique(groups * width + numbers, return_counts=True)
    return pairs // width, counts


def _pairs(sizes: NDArray[Any]) -> int:
    return int((sizes * (sizes - 1) // 2).sum())


def purity_share(first: NDArray[np.int64], numbers: NDArray[np.int64], seed: int = 0) -> Share:
    """The share of items that belong to the largest department of their first number; chance is of shuffled codes.

    Args:
        first, numbers: first number and department of each item, int64 [n] each.
    """
    random = np.random.default_rng(seed)
    shuffled = [_purity(random.permutation(first), numbers) for _ in range(_SHUFFLES)]
    return Share(_purity(first, numbers), float(np.mean(shuffled)))


def _purity(groups: NDArray[np.int64], numbers: NDArray[np.int64]) -> float:
    group, counts = _joint(groups, numbers)
    largest = np.zeros(int(groups.max()) + 1, dtype=np.int64)
    np.maximum.at(largest, group, counts)
    return int(largest.sum()) / len(groups)


def alike_nearest(l2norm: NDArray[np.float32], numbers: NDArray[np.int64]) -> Share | None:
    """How often one of the five nearest items by text is of the item's own department; chance: of any two items.

    Args:
        l2norm: text vectors of length 1 or 0, float32 [n, dim].
        numbers: of :func:`department_numbers`, [n]; items and neighbours of unknown department do not count.

    Returns:
        None where the departments tell no items apart.
    """
    chance = alike_share(numbers[numbers >= 0])
    if not chance or chance == 1:
        return None
    rows, near = nearest_of_some(l2norm, NEAREST)
    counted = (numbers[rows] >= 0)[:, None] & (numbers[near] >= 0)  # [m, 5]
    alike = counted & (numbers[near] == numbers[rows][:, None])
    return Share(int(alike.sum()) / int(counted.sum()), chance) if counted.any() else None


def nearest_of_some(l2norm: NDArray[np.float32], count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Some rows, evenly apart, and their nearest other rows by cosine, in no particular order.

    Args:
        l2norm: vectors of length 1 or 0, float32 [n, dim].
        count: neighbours of each; fewer where there are not as many.

    Returns:
        Rows int64 [m] and neighbours int64 [m, count].
    """
    items = len(l2norm)
    count = min(count, items - 1)
    rows = np.array(spread(items, min(_COMPARED_ITEMS, max(_MOST_COSINES // max(items, 1), 1))), dtype=np.int64)
    if count < 1:
        return rows[:0], np.empty((0, 0), dtype=np.int64)
    near = np.empty((len(rows), count), dtype=np.int64)
    step = max(_COSINES_AT_ONCE // items, 1)
    for begin in range(0, len(rows), step):
        chunk = rows[begin : begin + step]
        cosines = l2norm[chunk] @ l2norm.T  # [chunk, n]
        cosines[np.arange(len(chunk)), chunk] = -np.inf
        near[begin : begin + step] = np.argpartition(cosines, items - count, axis=1)[:, items - count :]
    return rows, near
