"""Which histories are decoded together. Needs no NumPy, as the server's own process has none."""

import math

_SHORT = 64  # items; more users a batch save more than less padding does, until about here


def length_class(length: int, max_history: int) -> int:
    """Histories of the same class should be decoded together, as each pads the others: 0 above half of ``max_history``.

    Each further class has half the length, but the shortest class is not divided.
    """
    return int(math.log2(max_history / min(max(length, _SHORT), max_history)))
