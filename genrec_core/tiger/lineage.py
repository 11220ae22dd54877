"""Where the beams of a decode come from: a hash of each one's prefix, and its ancestor at every level."""

import numpy as np

PREFIX_FACTOR = 257


class Lineage:
    """Follows the beams of one batch down the levels; the same for every scorer.

    Args:
        batch: users decoded together.
        buckets: range of the hash of a prefix.

    Attributes:
        prefix: hash of each beam's prefix, int64 [batch, width]; 0 before the first token.
        ancestors: for each level scored so far but the first and the newest, the beam's ancestor there as
            ``user * width + beam`` with that level's own width, int64 [batch x width].
    """

    def __init__(self, batch: int, buckets: int) -> None:
        self.buckets, self.level, self.first = buckets, 0, np.arange(batch)[:, None]
        self.prefix = np.zeros((batch, 1), dtype=np.int64)
        self.ancestors: list[np.ndarray] = []

    def descend(self, rows: np.ndarray, parents: np.ndarray) -> None:
        """Go one level down.

        Args:
            rows: the chosen tokens as rows of the token embedding, int64 [batch, width].
            parents: index of each beam's parent in the width so far, int64 [batch, width].
        """
        places = self.first * self.prefix.shape[1] + parents
        self.prefix = (self.prefix.reshape(-1)[places] * PREFIX_FACTOR + rows) % self.buckets
        places = places.reshape(-1)
        self.ancestors = [above[places] for above in self.ancestors]
        if self.level > 0:
            self.ancestors.append(places)
        self.level += 1
