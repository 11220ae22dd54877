"""Divides a request file among independent runs."""

import math
import re
from dataclasses import dataclass

from genrec_core.errors import GenrecError

MOST_SHARDS = 100_000


@dataclass(frozen=True)
class Shard:
    """Part ``number`` of ``count`` parts of a request file, from 1.

    A part is a range of lines, so that the outputs of all parts, joined in order, are the output of the whole file.
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
        """The line numbers of this part, from 1, of ``total`` lines.

        ``block`` lines are decoded together and never divided, so that no row depends on the number of parts.
        """
        blocks = math.ceil(total / block)
        first, end = (math.ceil(blocks * part / self.count) * block for part in (self.number - 1, self.number))
        return range(1 + min(first, total), 1 + min(end, total))
