"""Which items may be recommended: allow and deny lists and a rule, as masks on the catalogue."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, TypeVar

import numpy as np

from genrec_core.bundle.item_attributes import ItemAttributes
from genrec_core.errors import GenrecError
from genrec_core.recommend.rules import Rule

_MASK_BYTES = 64 << 20
Value = TypeVar("Value")


@dataclass(frozen=True)
class Constraints:
    """What restricts the list of a request, or all lists of a run; build one with :meth:`of`.

    Args:
        allow: the only items, distinct ids in ascending order; None for all.
        deny: items that are left out, distinct ids in ascending order; None for none.
        rule: see :mod:`genrec_core.recommend.rules`; None for none.
    """

    allow: tuple[int, ...] | None = None
    deny: tuple[int, ...] | None = None
    rule: str | None = None

    @classmethod
    def of(
        cls, allow: Iterable[int] | None = None, deny: Iterable[int] | None = None, rule: str | None = None
    ) -> "Constraints":
        """Constraints that are equal if their lists hold the same ids; an id that does not fit int64 is an error."""
        return cls(_distinct(allow), _distinct(deny) or None, rule)

    def __bool__(self) -> bool:
        """Whether they restrict anything."""
        return self != Constraints()

    @cached_property
    def key(self) -> str:
        """A digest of the content, so that caches need not keep the lists."""
        digest = hashlib.sha256()
        for items in (self.allow, self.deny):
            digest.update(b"-" if items is None else b"%d " % len(items) + np.array(items, dtype=np.int64).tobytes())
        digest.update(b"-" if self.rule is None else b"=" + self.rule.encode("utf-8", errors="surrogatepass"))
        return digest.hexdigest()


def _distinct(items: Iterable[int] | None) -> tuple[int, ...] | None:
    if items is None:
        return None
    try:
        return tuple(np.unique(np.fromiter(items, dtype=np.int64)).tolist())
    except (OverflowError, TypeError, ValueError) as error:
        raise GenrecError(f"a list of items holds no integer id of 64 bits ({error}); give item ids") from error


class RecentValues(Generic[Value]):
    """A cache for several threads, which keeps the ``capacity`` values that were used last."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._values: OrderedDict[Hashable, Value] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value of ``key``; two threads that miss it at once both make one, and both get the one that is kept."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        made = make()
        with self._lock:
            value = self._values.setdefault(key, made)
            if len(self._values) > self.capacity:
                self._values.popitem(last=False)
            return value


@dataclass(frozen=True)
class Selection:
    """The items that constraints leave.

    Args:
        mask: catalogue rows that may be recommended, bool [n_items], read-only; None where all may.
        count: how many they are.
        warnings: values of a rule that no item has.
    """

    mask: np.ndarray | None
    count: int
    warnings: tuple[str, ...] = ()


class CatalogueMasks:
    """Makes and keeps the masks of constraints over one catalogue.

    Args:
        n_items: catalogue rows.
        rows_of: the rows of the ids that the catalogue holds; it skips other ids.
        attributes: reads what rules compare; called for the first rule.
        withdrawn: rows of items that are never recommended, int [n]; None for none.

    Raises:
        GenrecError: every item is withdrawn.
    """

    def __init__(
        self,
        n_items: int,
        rows_of: Callable[[tuple[int, ...]], np.ndarray],
        attributes: Callable[[], ItemAttributes],
        withdrawn: np.ndarray | None = None,
    ) -> None:
        self.n_items, self._rows_of, self._read_attributes = n_items, rows_of, attributes
        self.available: np.ndarray | None = None
        if withdrawn is not None and len(withdrawn):
            self.available = np.ones(n_items, dtype=bool)
            self.available[withdrawn] = False
            self.available.flags.writeable = False
            if not self.available.any():
                raise GenrecError("every item of the model is withdrawn; restore some with genrec withdraw --restore")
        self._selections = RecentValues[Selection](max(1, _MASK_BYTES // n_items))

    @cached_property
    def attributes(self) -> ItemAttributes:
        return self._read_attributes()

    def selection(self, *constraints: Constraints) -> Selection:
        """The items that all the constraints leave, without those withdrawn.

        Raises:
            GenrecError: a rule cannot be read, or the model holds no attributes for it, or no item is left.
        """
        restricting = [each for each in constraints if each]
        if not restricting:
            return Selection(self.available, self.n_items if self.available is None else int(self.available.sum()))
        return self._selections.get(tuple(each.key for each in restricting), lambda: self._made(restricting))

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
                rule = Rule.parse(each.rule)
                mask &= rule.holds(self.attributes)
                warnings += rule.unmatched(self.attributes)
        if not mask.any():
            why = f" ({'; '.join(warnings)})" if warnings else ""
            raise GenrecError(f"the allow list, deny list and rule leave no item of the catalogue{why}; widen them")
        mask.flags.writeable = False
        return Selection(mask, int(mask.sum()), tuple(dict.fromkeys(warnings)))

    def without_withdrawn(self, mask: np.ndarray | None) -> np.ndarray | None:
        """``mask`` without the withdrawn items; a mask of :meth:`selection` is given back as it is."""
        if self.available is None or mask is None:
            return self.available if mask is None else mask
        return mask & self.available if (mask & ~self.available).any() else mask
