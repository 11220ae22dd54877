"""A cache that is bounded by the bytes of what it holds, for several threads."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class ByteCache(Generic[Value]):
    """Keeps what was used last; a value larger than the whole cache is not kept at all.

    Args:
        capacity: bytes.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity, self.bytes = capacity, 0
        self._kept: OrderedDict[Hashable, tuple[Value, int]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Hashable, make: Callable[[], Value], size: Callable[[Value], int]) -> Value:
        """The value of ``key``; ``make`` makes it where it is not kept, ``size`` tells its bytes.

        Two threads that miss the same key at once both make it; both get the one that is kept.
        """
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key][0]
        value = make()
        return self._keep(key, value, size(value))

    def _keep(self, key: Hashable, value: Value, size: int) -> Value:
        with self._lock:
            if key in self._kept:
                return self._kept[key][0]
            if size > self.capacity:
                return value
            self._kept[key] = (value, size)
            self.bytes += size
            while self.bytes > self.capacity:
                self.bytes -= self._kept.popitem(last=False)[1][1]
            return value
