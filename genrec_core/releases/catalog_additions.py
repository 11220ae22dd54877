"""Items that came to the catalogue after the training of the served release."""

from pathlib import Path

import numpy as np
import polars as pl

from genrec_core.bundle.item_additions import AdditionSettings
from genrec_core.bundle.model_folder import ModelFolder
from genrec_core.bundle.new_items import NewItems
from genrec_core.embedding.item_embeddings import STATS, ItemEmbeddings
from genrec_core.errors import GenrecError
from genrec_core.storage.artifacts import read_json


def new_in_catalog(model: Path, catalog: Path, embeddings: Path) -> tuple[NewItems, np.ndarray]:
    """The items of a catalogue that a release does not hold, and their text vectors float32 [n, dim], not normalised.

    ``model`` is the exported model of the release, ``catalog`` a Parquet file, ``embeddings`` a folder of text vectors.
    """
    known = ModelFolder(model).item_ids
    new = pl.read_parquet(catalog).filter(~pl.col("item_id").is_in(known))
    ids = new["item_id"].to_numpy().astype(np.int64)
    vectors = ItemEmbeddings.load(embeddings)
    rows = np.searchsorted(vectors.item_ids, ids).clip(max=len(vectors.item_ids) - 1)
    missing = ids[vectors.item_ids[rows] != ids]
    if len(missing):
        raise GenrecError(
            f"item {missing[0]} of the catalogue has no text vector yet ({len(missing)} such items); materialise "
            "item_embeddings first"
        )
    needed, present = AdditionSettings.load(model).embedding_model, read_json(embeddings / STATS)["model"]
    if needed != present:
        raise GenrecError(
            f"the release reads texts by {needed}, but {embeddings} is of {present}; train and release anew"
        )
    fields = new.drop("item_id", "text").to_dicts()
    return NewItems(ids, new["text"].to_list(), fields), np.asarray(vectors.raw[rows], dtype=np.float32)
