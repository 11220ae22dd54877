"""How far today's data have moved from the data that a release was trained on."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from genrec_core.bundle.model_folder import ModelFolder
from genrec_core.data.histories import Histories, items_of
from genrec_core.data.ids import are_text
from genrec_core.data.split import training_counts
from genrec_core.releases.pointer import PROFILE, measured_in
from genrec_core.storage.artifacts import read_fields, write_json

_LENGTH_BINS = 10
_PRIOR = 0.5  # users added to each bin, so that an empty bin gives no infinity


@dataclass(frozen=True)
class Profile:
    """The data that a release was trained on: items, their popularity, and the lengths of histories."""

    item_ids: np.ndarray  # the data set's own ids, ascending, int64 or text [n]
    popularity: np.ndarray  # interactions of each in the training part, int64 [n]
    lengths: np.ndarray  # users by length of their history, int64 [longest + 1]

    @classmethod
    def of(cls, histories: pl.DataFrame) -> "Profile":
        item_ids = items_of(histories)
        popularity = training_counts(Histories.from_frame(histories, item_ids), len(item_ids))
        return cls(item_ids, popularity, _lengths(histories))


def write_profile(folder: Path, histories: pl.DataFrame) -> None:
    """Write the lengths of the histories into the folder of a release; its model's files hold the rest of a profile."""
    counts = _lengths(histories)
    by_length = {str(length): int(users) for length, users in enumerate(counts) if users}
    write_json(folder / PROFILE, {"users": histories.height, "history_lengths": by_length})


def read_profile(release: Path) -> Profile:
    """The profile of the data that a release was trained on; it is an error if the release keeps none."""
    (by_length,) = read_fields(release / PROFILE, "history_lengths")
    counts = {int(length): users for length, users in by_length.items()}
    lengths = np.zeros(max(counts, default=0) + 1, np.int64)
    lengths[list(counts)] = list(counts.values())
    model = ModelFolder(measured_in(release))
    ids, popularity = model.item_ids, model.popularity
    order = np.argsort(ids)  # items that were added later come last
    return Profile(ids[order], popularity[order], lengths)


def _lengths(histories: pl.DataFrame) -> np.ndarray:
    return np.bincount(histories["item_ids"].list.len().to_numpy()).astype(np.int64)


def unknown_entries(entries: pl.Series, known: pl.Series) -> tuple[int, float]:
    """How many of the item ids ``entries`` are not among ``known``, and their share; no integer is among text."""
    alike = entries.dtype == known.dtype
    unknown = len(entries) - int(entries.is_in(known.implode()).sum() if alike else 0)
    return unknown, unknown / max(len(entries), 1)


def length_shift(trained: np.ndarray, present: np.ndarray) -> float:
    """Population stability index of the lengths of histories, over ten bins with equally many trained users.

    Both count users by length, int64 [longest + 1]. There are fewer bins if one length is very common.
    """
    size = max(len(trained), len(present))
    padded = [np.pad(counts, (0, size - len(counts))) for counts in (trained, present)]
    reached = np.cumsum(padded[0]) / max(trained.sum(), 1)
    inner = np.searchsorted(reached, np.arange(1, _LENGTH_BINS) / _LENGTH_BINS) + 1
    edges = np.unique([0, *inner[inner < size]])  # the first length of each bin
    return stability_index(*(np.add.reduceat(counts, edges) for counts in padded))


def stability_index(expected: np.ndarray, actual: np.ndarray) -> float:
    """Population stability index of two histograms over the same bins: below 0.1 is little change, above 0.25 much.

    Source: Siddiqi 2006, "Credit Risk Scorecards", chapter 9.
    """
    p, q = ((counts + _PRIOR) / (counts + _PRIOR).sum() for counts in (expected, actual))
    return float(((q - p) * np.log(q / p)).sum())


def popularity_shift(trained: Profile, present: Profile) -> float:
    """Jensen-Shannon distance of the items' shares of all training interactions, over the items of both."""
    if are_text(trained.item_ids) != are_text(present.item_ids):
        return 1.0
    item_ids = np.union1d(trained.item_ids, present.item_ids)
    first, second = np.zeros((2, len(item_ids)), np.int64)
    first[np.searchsorted(item_ids, trained.item_ids)] = trained.popularity
    second[np.searchsorted(item_ids, present.item_ids)] = present.popularity
    if not first.sum() or not second.sum():
        return float(first.sum() != second.sum())
    return shannon_distance(first, second)


def shannon_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Jensen-Shannon distance of two histograms over the same bins, 0 (alike) to 1 (nothing in common).

    Source: Endres & Schindelin 2003, "A new metric for probability distributions", with logarithms to base 2.
    """
    p, q = first / first.sum(), second / second.sum()
    middle = (p + q) / 2
    divergence = (_relative_entropy(p, middle) + _relative_entropy(q, middle)) / 2
    return float(np.sqrt(max(divergence, 0.0)))


def _relative_entropy(p: np.ndarray, q: np.ndarray) -> float:
    positive = p > 0
    return float((p[positive] * np.log2(p[positive] / q[positive])).sum())
