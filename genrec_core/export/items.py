"""The attributes that a model folder holds of its items, from the item catalogue."""

import numpy as np
import polars as pl

from genrec_core.bundle.item_attributes import ItemTable
from genrec_core.errors import GenrecError

SCHEMA = {
    "item_id": pl.Int64(), "title": pl.String(), "brand": pl.String(), "categories": pl.String(), "price": pl.Float64()
}  # fmt: skip


def item_table(catalog: pl.DataFrame, item_ids: np.ndarray) -> ItemTable:
    """The attributes of ``item_ids`` int64 [n_items], one row each in that order, from the frame of ``item_catalog``.

    An item that the catalogue lacks has no attributes.
    """
    missing = [name for name in SCHEMA if name not in catalog.columns]
    if missing:
        raise GenrecError(f"the item catalogue has no column {missing[0]}; give the frame of item_catalog")
    try:
        table = catalog.select(pl.col(name).cast(dtype) for name, dtype in SCHEMA.items())
    except pl.exceptions.PolarsError as error:
        raise GenrecError(f"the item catalogue cannot be read ({error}); give the frame of item_catalog") from error
    repeated = table["item_id"].filter(table["item_id"].is_duplicated())
    if len(repeated):
        raise GenrecError(f"the item catalogue holds item {repeated[0]} twice; keep one row an item")
    items = pl.DataFrame({"item_id": item_ids.astype(np.int64)})
    if items.join(table, on="item_id", how="semi").is_empty():
        raise GenrecError("the item catalogue holds no item of the model; give the catalogue it was trained on")
    rows = items.join(table, on="item_id", how="left", maintain_order="left")
    finite = pl.when(pl.col("price").is_finite()).then(pl.col("price"))
    return ItemTable.model_validate(rows.with_columns(finite).to_dict(as_series=False))
