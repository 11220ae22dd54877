"""The data that a release was trained on, in a form small enough to be kept with it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from genrec_core.bundle.model_folder import ModelFolder
from genrec_core.data.histories import Histories
from genrec_core.data.popularity import training_counts
from genrec_core.errors import GenrecError
from genrec_core.releases.pointer import MODEL, PROFILE
from genrec_core.storage.artifacts import read_json, write_json


@dataclass(frozen=True)
class Profile:
    """Items, their popularity, and the lengths of histories."""

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
