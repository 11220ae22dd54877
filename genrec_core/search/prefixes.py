"""The beams of a batch during decoding: a hash of each beam's prefix, and its ancestor at each level."""

import numpy as np

PREFIX_FACTOR = 257


class BeamAncestry:
    """Follows the beams of one batch down the levels, for any scorer.

    Args:
        batch: number of users decoded together.
        buckets: number of values of the prefix hash.

    Attributes:
        prefix: hash of each beam's prefix, int64 [beams]; 0 before the first token.
        ancestors: for each position before the newest token, the index of each beam's ancestor among the beams of that
            position, int64 [beams]. Position 0 is the start of a code and has one beam a user.
        places: the beams of each user, int64 [batch, most beams of a user]; padded with any beam.
        own: index of each beam in ``places`` read flat, int64 [beams].
    """

    def __init__(self, batch: int, buckets: int) -> None:
        self.batch, self.buckets = batch, buckets
        self.prefix = np.zeros(batch, dtype=np.int64)
        self.ancestors: list[np.ndarray] = []

    def descend(self, rows: np.ndarray, parents: np.ndarray, users: np.ndarray) -> None:
        """Go one level down.

        Args:
            rows: rows of the chosen tokens in the token embedding, int64 [beams].
            parents: index of each beam's parent among the beams before, int64 [beams].
            users: user of each beam, int64 [beams], ascending.
        """
        self.prefix = (self.prefix.take(parents) * PREFIX_FACTOR + rows) % self.buckets
        self.ancestors = [above.take(parents) for above in self.ancestors]
        self.ancestors.append(parents)
        counts = np.bincount(users, minlength=self.batch)
        widest = counts.max()
        shift = np.arange(self.batch) * widest - (counts.cumsum() - counts)
        self.own = np.arange(len(users)) + shift.take(users)
        self.places = np.zeros((self.batch, widest), dtype=np.int64)
        self.places.reshape(-1)[self.own] = np.arange(len(users))
