"""Which histories are decoded together. Needs no NumPy, as the server's own process has none."""

import math

_SHORT = 64  # items; more users a batch save more than less padding does, until about here


def length_class(length: int, max_history: int) -> int:
    """The class of a history: 0 above half of ``max_history``, 1 above half of that, and so on down to ``_SHORT``.

    Histories of one class are decoded together, as each pads the others.
    """
    return int(math.log2(max_history / min(max(length, _SHORT), max_history)))
