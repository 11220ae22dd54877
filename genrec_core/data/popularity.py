"""How often items occur in the training part of histories."""

import numpy as np

from genrec_core.data.histories import Histories
from genrec_core.data.split import training_part


def training_counts(histories: Histories, n_items: int) -> np.ndarray:
    """Interactions of each item in the training part, int64 [n_items]."""
    return np.bincount(training_part(histories).rows, minlength=n_items).astype(np.int64)


def popularity_order(counts: np.ndarray) -> np.ndarray:
    """Catalogue rows from most to least popular, int64 [n_items]; of equals the lower row first."""
    return np.argsort(-counts, kind="stable")
