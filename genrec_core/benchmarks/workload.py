"""Random histories of real lengths: speed depends on how long they are, not on what is in them."""

import numpy as np

from genrec_core.data.histories import Histories

# Amazon Beauty 5-core: 22,363 users have 5 to 204 items, 8.9 on average.
_SHORTEST, _MEAN_LENGTH, _LONGEST = 5, 8.9, 204


def random_histories(users: int, n_items: int, seed: int) -> Histories:
    """Histories of distinct rows, their lengths drawn around Beauty's mean.

    Args:
        users: how many.
        n_items: items in the catalogue.
        seed: seed of lengths and items.
    """
    random = np.random.default_rng(seed)
    drawn = _SHORTEST - 1 + random.geometric(1 / (_MEAN_LENGTH - _SHORTEST + 1), users)
    lengths = drawn.clip(max=min(_LONGEST, n_items))
    rows = [random.choice(n_items, length, replace=False) for length in lengths]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Histories([str(user) for user in range(users)], np.concatenate(rows).astype(np.int32), offsets)
