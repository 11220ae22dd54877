"""How far today's data have moved from the data that a release was trained on."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from genrec_core.bundle.model_folder import ModelFolder
from genrec_core.data.histories import Histories
from genrec_core.data.split import training_counts
from genrec_core.errors import GenrecError
from genrec_core.releases.pointer import MODEL, PROFILE
from genrec_core.storage.artifacts import read_json, write_json

_LENGTH_BINS = 10
_PRIOR = 0.5  # users added to each bin, so that an empty bin gives no infinity


@dataclass(frozen=True)
class Profile:
    """The data that a release was trained on: items, their popularity, and the lengths of histories."""

    item_ids: np.ndarray  # the data set's own ids, ascending, int64 [n]
    popularity: np.ndarray  # interactions of each in the training part, int64 [n]
    lengths: np.ndarray  # users by length of their history, int64 [longest + 1]

    @classmethod
    def of(cls, histories: pl.DataFrame) -> "Profile":
        items = histories["item_ids"].explode(empty_as_null=False).to_numpy().astype(np.int64)
        item_ids = np.unique(items)
        popularity = training_counts(Histories.from_frame(histories, item_ids), len(item_ids))
        return cls(item_ids, popularity, _lengths(histories))


def write_profile(folder: Path, histories: pl.DataFrame) -> None:
    """Write the lengths of the histories into the folder of a release; its model's files hold the rest of a profile."""
    counts = _lengths(histories)
    by_length = {str(length): int(users) for length, users in enumerate(counts) if users}
    write_json(folder / PROFILE, {"users": histories.height, "history_lengths": by_length})


def read_profile(release: Path) -> Profile:
    """The profile of the data that a release was trained on; it is an error if the release keeps none."""
    if not (release / PROFILE).is_file():
        raise GenrecError(f"{release}: made before releases kept a profile; materialise model_release again")
    by_length = read_json(release / PROFILE)["history_lengths"]
    try:
        counts = {int(length): int(users) for length, users in by_length.items()}
    except (AttributeError, ValueError) as error:
        raise GenrecError(f"{release / PROFILE}: no profile ({error}); materialise model_release again") from error
    lengths = np.zeros(max(counts, default=0) + 1, np.int64)
    lengths[list(counts)] = list(counts.values())
    model = ModelFolder(release / MODEL)
    ids, popularity = model.item_ids, model.popularity
    order = np.argsort(ids)  # items that were added later come last
    return Profile(ids[order], popularity[order], lengths)


def _lengths(histories: pl.DataFrame) -> np.ndarray:
    return np.bincount(histories["item_ids"].list.len().to_numpy()).astype(np.int64)


@dataclass(frozen=True)
class CatalogDrift:
    """Items that were added to the catalogue and removed from it since the training."""

    items: int  # in the catalogue now
    trained: int  # in the release
    new: int  # in the catalogue, but not in the release
    gone: int  # in the release, but not in the catalogue; the release still recommends them

    @property
    def new_share(self) -> float:
        return self.new / max(self.items, 1)

    @property
    def gone_share(self) -> float:
        return self.gone / max(self.trained, 1)


class PopularityShift(NamedTuple):
    """How much the popularity of the items changed.

    Histories that only grew share most of their interactions, so that ``distance`` stays well below ``noise``.
    """

    distance: float  # Jensen-Shannon distance of the items' shares of all training interactions, 0 to 1
    noise: float  # the distance of two independent draws of these sizes from one distribution


def catalog_drift(trained: Profile, item_ids: np.ndarray) -> CatalogDrift:
    """Compare the items of a release with those of the catalogue, int64 [n]."""
    new = int((~np.isin(item_ids, trained.item_ids)).sum())
    gone = int((~np.isin(trained.item_ids, item_ids)).sum())
    return CatalogDrift(len(item_ids), len(trained.item_ids), new, gone)


def unknown_share(trained: Profile, histories: pl.DataFrame) -> float:
    """Share of the entries of all histories whose item the release does not know; serving drops them."""
    items = histories["item_ids"].explode(empty_as_null=False).to_numpy()
    return float((~np.isin(items, trained.item_ids)).mean()) if len(items) else 0.0


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


def popularity_shift(trained: Profile, present: Profile, seed: int = 0) -> PopularityShift:
    """Compare the popularity of items at the training and today, over the items of both."""
    item_ids = np.union1d(trained.item_ids, present.item_ids)
    first, second = (_aligned(profile, item_ids) for profile in (trained, present))
    if not first.sum() or not second.sum():
        return PopularityShift(float(first.sum() != second.sum()), 0.0)
    random, pooled = np.random.default_rng(seed), (first + second) / (first + second).sum()
    noise = shannon_distance(*(random.multinomial(counts.sum(), pooled) for counts in (first, second)))
    return PopularityShift(shannon_distance(first, second), noise)


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


def _aligned(profile: Profile, item_ids: np.ndarray) -> np.ndarray:
    """Popularity of each item, int64 [n]; ``item_ids`` is sorted and contains the profile's items."""
    counts = np.zeros(len(item_ids), np.int64)
    counts[np.searchsorted(item_ids, profile.item_ids)] = profile.popularity
    return counts
