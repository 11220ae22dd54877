"""Divides a request file among independent runs."""

import math
import re
from dataclasses import dataclass

from genrec_core.errors import GenrecError

MOST_SHARDS = 100_000


@dataclass(frozen=True)
class Shard:
    """One part of a request file: consecutive lines, so that the parts' outputs in order are the whole file's.

    Args:
        number: from 1 to ``count``.
        count: parts in all.
    """

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Read ``i/n``, for example ``2/8``.

        Raises:
            GenrecError: the text is not such a pair, i is not in 1..n, or n is above 100,000.
        """
        match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text.strip(), re.ASCII)
        if match is None:
            raise GenrecError(f"shard {text!r:.60}: write i/n, for example 2/8 for the second of eight parts")
        number, count = int(match[1]), int(match[2])
        if not 1 <= number <= count <= MOST_SHARDS:
            raise GenrecError(f"shard {text!r:.60}: i counts from 1 to n, and n is {MOST_SHARDS} at most")
        return cls(number, count)

    def lines(self, total: int, block: int) -> range:
        """The line numbers of this part, from 1.

        Args:
            total: lines of the file.
            block: lines that are decoded together and never divided, so that no row depends on the parts.
        """
        blocks = math.ceil(total / block)
        first, end = (math.ceil(blocks * part / self.count) * block for part in (self.number - 1, self.number))
        return range(1 + min(first, total), 1 + min(end, total))
