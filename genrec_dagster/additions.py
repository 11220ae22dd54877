"""Items that came to the catalogue after training, into the release that is served: no training, no export."""

from pathlib import Path
from typing import TYPE_CHECKING

from genrec_core.errors import GenrecError
from genrec_core.releases.pointer import served_model
from genrec_core.storage.artifacts import read_json
from genrec_core.storage.folders import latest
from genrec_dagster.io_manager import FRAME

if TYPE_CHECKING:
    import numpy as np

    from genrec_core.bundle.new_items import NewItems


def new_in_catalog(root: Path) -> "tuple[NewItems, np.ndarray]":
    """The items of the newest catalogue that the served release does not hold.

    Args:
        root: the storage.

    Returns:
        The items, and their text vectors float32 [n, dim], not normalised; none where all are known.

    Raises:
        GenrecError: nothing is served, the newest embeddings lack one of the items, or are of another embedding model
            than the release's.
    """
    import numpy as np
    import polars as pl

    from genrec_core.bundle.item_additions import AdditionSettings
    from genrec_core.bundle.model_folder import ModelFolder
    from genrec_core.bundle.new_items import NewItems
    from genrec_core.embedding.item_embeddings import STATS, ItemEmbeddings

    model = served_model(root)
    known = ModelFolder(model).item_ids
    catalog = pl.read_parquet(latest("item_catalog", root) / FRAME).filter(~pl.col("item_id").is_in(known))
    ids = catalog["item_id"].to_numpy().astype(np.int64)
    folder = latest("item_embeddings", root)
    embeddings = ItemEmbeddings.load(folder)
    place = np.searchsorted(embeddings.item_ids, ids).clip(max=len(embeddings.item_ids) - 1)
    missing = ids[embeddings.item_ids[place] != ids]
    if len(missing):
        raise GenrecError(
            f"item {missing[0]} of the catalogue has no text vector yet ({len(missing)} such items); materialise "
            "item_embeddings first"
        )
    wanted, found = AdditionSettings.load(model).embedding_model, read_json(folder / STATS)["model"]
    if wanted != found:
        raise GenrecError(f"the release reads texts by {wanted}, but {folder} is of {found}; train and release anew")
    rows = catalog.drop("item_id", "text").to_dicts()
    return NewItems(ids, catalog["text"].to_list(), rows), np.asarray(embeddings.raw[place], dtype=np.float32)
