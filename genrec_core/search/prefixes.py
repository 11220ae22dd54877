"""Where the beams of a decode come from: a hash of each one's prefix, and its ancestor at every level."""

import numpy as np

PREFIX_FACTOR = 257


class Lineage:
    """Follows the beams of one batch down the levels; the same for every scorer.

    Args:
        batch: users decoded together.
        buckets: range of the hash of a prefix.

    Attributes:
        prefix: hash of each beam's prefix, int64 [beams]; 0 before the first token.
        ancestors: for each position before the newest token, which of its beams each beam descends from, int64 [beams];
            the first is the start of a code, which has a beam a user.
        places: the beams of each user in a row, int64 [batch, most of a user]; any beam where a user has fewer.
        own: where in ``places``, read flat, each beam is, int64 [beams].
    """

    def __init__(self, batch: int, buckets: int) -> None:
        self.batch, self.buckets = batch, buckets
        self.prefix = np.zeros(batch, dtype=np.int64)
        self.ancestors: list[np.ndarray] = []

    def descend(self, rows: np.ndarray, parents: np.ndarray, users: np.ndarray) -> None:
        """Go one level down.

        Args:
            rows: the chosen tokens as rows of the token embedding, int64 [beams].
            parents: which of the beams before each comes from, int64 [beams].
            users: whose each is, int64 [beams], ascending.
        """
        self.prefix = (self.prefix.take(parents) * PREFIX_FACTOR + rows) % self.buckets
        self.ancestors = [above.take(parents) for above in self.ancestors]
        self.ancestors.append(parents)
        self.own = beams = np.arange(len(users))
        if self.batch == 1:
            self.places = beams[None]
            return
        counts = np.bincount(users, minlength=self.batch)
        widest = counts.max()
        self.own = beams + (np.arange(self.batch) * widest - (counts.cumsum() - counts)).take(users)
        self.places = np.zeros((self.batch, widest), dtype=np.int64)
        self.places.reshape(-1)[self.own] = beams
