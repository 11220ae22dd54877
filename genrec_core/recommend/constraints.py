"""Which items may be recommended: allow and deny lists and a rule, as masks on the catalogue."""

import csv
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np

from genrec_core.bundle.item_attributes import ItemAttributes
from genrec_core.data.ids import AnyId, id_array, item_ids_of
from genrec_core.data.text_files import csv_row, utf8_lines
from genrec_core.errors import GenrecError
from genrec_core.recommend.rules import Rule

_MASK_BYTES = 64 << 20  # of all masks that are kept


@dataclass(frozen=True)
class Constraints:
    """What restricts the list of a request, or all lists of a run; build one with :meth:`of`."""

    allow: tuple[AnyId, ...] | None = None  # the only items, distinct ids in ascending order; None for all
    deny: tuple[AnyId, ...] | None = None  # items that are left out, distinct ids in ascending order
    rule: str | None = None  # see genrec_core.recommend.rules

    @classmethod
    def of(
        cls, allow: Iterable[AnyId] | None = None, deny: Iterable[AnyId] | None = None, rule: str | None = None
    ) -> "Constraints":
        """Constraints that are equal if their lists hold the same ids."""
        return cls(_distinct(allow), _distinct(deny) or None, rule)

    def __bool__(self) -> bool:
        return self != Constraints()

    @cached_property
    def key(self) -> str:
        """A digest of the content, so that caches need not keep the lists."""
        digest = hashlib.sha256()
        for items in (self.allow, self.deny):
            digest.update(b"-" if items is None else b"%d " % len(items) + _content(items))
        digest.update(b"-" if self.rule is None else b"=" + _encoded(self.rule))
        return digest.hexdigest()


def _content(items: tuple[AnyId, ...]) -> bytes:
    texts = [_encoded(item) for item in items if isinstance(item, str)]
    return b"".join(b"%d " % len(text) + text for text in texts) or np.array(items, dtype=np.int64).tobytes()


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", errors="surrogatepass")


def _distinct(items: Iterable[AnyId] | None) -> tuple[AnyId, ...] | None:
    if items is None:
        return None
    chosen = list(items)
    if chosen and all(isinstance(item, str) for item in chosen):
        return tuple(sorted(set(map(str, chosen))))
    try:
        return tuple(np.unique(np.fromiter(chosen, dtype=np.int64)).tolist())
    except (OverflowError, TypeError, ValueError) as error:
        raise GenrecError(f"a list of items holds no integer id of 64 bits ({error}); give item ids") from error


def read_item_list(path: Path, text_ids: bool) -> np.ndarray:
    """Item ids of a file, int64 or text [n].

    Integers are separated by spaces or line ends. Where the ids of the catalogue are text (``text_ids``), a line is one
    id, without the white space around it. A file that begins with the header ``item_id`` is CSV: ids may be quoted.
    """
    items: list[AnyId] = []
    csv_rows = False
    try:
        for number, line in utf8_lines(path):
            if number == 1 and line.strip().strip('"').lower() == "item_id":
                csv_rows = True
                continue
            try:
                items += item_ids_of(_words(line.strip(), csv_rows) if text_ids else line.split(), text_ids)
            except GenrecError as error:
                raise GenrecError(f"{path}, line {number}: {error}; write one id a line") from error
    except OSError as error:
        raise GenrecError(f"{path}: cannot be read ({error}); give a text file with one item id a line") from error
    if not items:
        raise GenrecError(f"{path}: no item id in it; write one a line, or leave the option out")
    return id_array(items, path)


def _words(line: str, csv_rows: bool) -> list[str]:
    """The text id of a line, if it holds one."""
    if not csv_rows or not line:
        return [line] if line else []
    try:
        cells = csv_row(line, ",")
    except csv.Error as error:
        raise GenrecError(f"{line!r:.60} is not a CSV row ({error})") from error
    if len(cells) != 1:
        raise GenrecError(f"{line!r:.60} holds {len(cells)} values; put quotes around an id that holds a comma")
    return cells


@dataclass(frozen=True)
class Selection:
    """The items that constraints leave."""

    mask: np.ndarray | None  # catalogue rows that may be recommended, bool [n_items], read-only; None where all may
    count: int  # how many they are
    warnings: tuple[str, ...] = ()  # values of a rule that no item has


class CatalogueMasks:
    """Makes the masks of constraints over one catalogue, and keeps those that were used last.

    Args:
        n_items: catalogue rows.
        rows_of: the rows of the ids that the catalogue holds; it skips other ids.
        attributes: reads what rules compare; called for the first rule.
        withdrawn: ids of items that are never recommended.
    """

    def __init__(
        self,
        n_items: int,
        rows_of: Callable[[Sequence[AnyId]], np.ndarray],
        attributes: Callable[[], ItemAttributes],
        withdrawn: Sequence[AnyId] = (),
    ) -> None:
        self.n_items, self._rows_of, self._attributes = n_items, rows_of, cache(attributes)
        self.available: np.ndarray | None = None
        if withdrawn:
            self.available = np.ones(n_items, dtype=bool)
            self.available[rows_of(withdrawn)] = False
            self.available.flags.writeable = False
            if not self.available.any():
                raise GenrecError("every item of the model is withdrawn; restore some with genrec withdraw --restore")
        self._capacity = max(1, _MASK_BYTES // n_items)
        self._selections: OrderedDict[tuple[str, ...], Selection] = OrderedDict()
        self._lock = threading.Lock()

    def selection(self, *constraints: Constraints) -> Selection:
        """The items that all the constraints leave, without those withdrawn; it is an error if no item is left."""
        restricting = [each for each in constraints if each]
        if not restricting:
            return Selection(self.available, self.n_items if self.available is None else int(self.available.sum()))
        key = tuple(each.key for each in restricting)
        with self._lock:
            if key in self._selections:
                self._selections.move_to_end(key)
                return self._selections[key]
        made = self._made(restricting)
        with self._lock:
            selection = self._selections.setdefault(key, made)  # another thread may have made it meanwhile
            if len(self._selections) > self._capacity:
                self._selections.popitem(last=False)
            return selection

    def _made(self, constraints: list[Constraints]) -> Selection:
        mask = np.ones(self.n_items, dtype=bool) if self.available is None else self.available.copy()
        warnings: list[str] = []
        for each in constraints:
            if each.allow is not None:
                allowed = np.zeros(self.n_items, dtype=bool)
                allowed[self._rows_of(each.allow)] = True
                mask &= allowed
            if each.deny is not None:
                mask[self._rows_of(each.deny)] = False
            if each.rule is not None:
                attributes = self._attributes()
                rule = Rule.parse(each.rule, attributes.fields)
                mask &= rule.holds(attributes)
                warnings += rule.unmatched(attributes)
        if not mask.any():
            why = f" ({'; '.join(warnings)})" if warnings else ""
            raise GenrecError(f"the allow list, deny list and rule leave no item of the catalogue{why}; widen them")
        mask.flags.writeable = False
        return Selection(mask, int(mask.sum()), tuple(dict.fromkeys(warnings)))

    def without_withdrawn(self, mask: np.ndarray | None) -> np.ndarray | None:
        """``mask`` without the withdrawn items; None where all items may be recommended."""
        if mask is not None and self.available is not None:
            mask = mask & self.available  # a new mask: the given one belongs to its owner
        return self.available if mask is None else mask
