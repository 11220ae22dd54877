"""Writes into a model folder what the training part says of its items, beside what ranks them.

:mod:`genrec_core.bundle.item_details` reads it. Histories are written without the ids of their users.
"""

import numpy as np

from genrec_core.bundle.item_details import NEVER
from genrec_core.bundle.model_folder import (
    EXAMPLE_HISTORIES,
    FIRST_SEEN,
    PARTNER_COUNTS,
    PARTNERS,
    RECENT,
    ModelFolder,
)
from genrec_core.data.histories import Histories
from genrec_core.data.pairs import pair_counts
from genrec_core.search.beams import places_by_user
from genrec_core.search.neighbors import WINDOW
from genrec_core.settings import ExportSettings

_PARTNERS = 20  # of an item
_EXAMPLE_ITEMS = 20  # of a history
_LEAST_EXAMPLE_ITEMS = 2
_DAY = 86_400  # seconds


def save_item_details(folder: ModelFolder, trained: Histories, n_items: int, settings: ExportSettings) -> None:
    """Write what ``trained`` says of a catalogue of ``n_items``: the training part, rows in the order of the model.

    Times of first purchases and recent counts are written where the data has times.
    """
    partners, counts = partners_of(trained, n_items)
    folder.save_array(PARTNERS, partners)
    folder.save_array(PARTNER_COUNTS, counts)
    if settings.example_histories:
        folder.save_array(EXAMPLE_HISTORIES, drawn_histories(trained, settings.example_histories))
    if trained.times is not None and len(trained.times):
        folder.save_array(RECENT, recent_counts(trained, n_items, settings.recent_days))
        folder.save_array(FIRST_SEEN, first_seen(trained, n_items))


def partners_of(trained: Histories, n_items: int, most: int = _PARTNERS) -> tuple[np.ndarray, np.ndarray]:
    """Each item's most frequent partners, and how often both were bought: see ``BoughtTogether``.

    Returns:
        Catalogue rows and counts, int32 [n_items, at most ``most``], the most frequent first, padded with 0.
    """
    pairs, times = pair_counts(trained, n_items, WINDOW, by_distance=False)
    owner, partner = np.divmod(pairs, n_items)
    order = np.lexsort((-times, owner))
    place, widest = places_by_user(owner, n_items)  # the owner's pairs stand together in both orders
    kept = place < most
    rows = np.zeros((n_items, min(widest, most)), dtype=np.int32)
    counts = np.zeros_like(rows)
    rows[owner[kept], place[kept]] = partner[order][kept]
    counts[owner[kept], place[kept]] = times[order][kept]
    return rows, counts


def drawn_histories(trained: Histories, most: int) -> np.ndarray:
    """The newest 20 items of at most ``most`` users drawn by chance, int32 [histories, 20], -1 on the right.

    Users with a single item are left out.
    """
    users = np.flatnonzero(trained.lengths >= _LEAST_EXAMPLE_ITEMS)
    drawn = np.random.default_rng(0).permutation(users)[:most]
    rows = np.full((len(drawn), _EXAMPLE_ITEMS), -1, dtype=np.int32)
    for row, user in zip(rows, drawn.tolist(), strict=True):
        newest = trained.of(user)[-_EXAMPLE_ITEMS:]
        row[: len(newest)] = newest
    return rows


def recent_counts(trained: Histories, n_items: int, days: int) -> np.ndarray:
    """Interactions of each item in the last ``days`` before the newest one, int64 [n_items]."""
    assert trained.times is not None
    recent = trained.times > trained.times.max() - days * _DAY
    return np.bincount(trained.rows[recent], minlength=n_items).astype(np.int64)


def first_seen(trained: Histories, n_items: int) -> np.ndarray:
    """When each item was first bought, in seconds since 1970, int64 [n_items]; ``NEVER`` for one that nobody bought."""
    assert trained.times is not None
    times = np.full(n_items, NEVER, dtype=np.int64)
    latest_first = np.argsort(-trained.times, kind="stable")
    times[trained.rows[latest_first]] = trained.times[latest_first]  # of an item's times the last one stays
    return times
