"""User histories from a parquet file, or from a folder of raw files."""

from pathlib import Path

import polars as pl

from genrec_core.data.p5 import SEQUENCES, read_histories
from genrec_core.errors import GenrecError


def read_user_histories(path: Path) -> pl.DataFrame:
    """Read ``user_id`` and ``item_ids`` from a parquet file, a folder with one, or a folder of raw files."""
    if (path / SEQUENCES).is_file():
        return read_histories(path)
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if len(files) != 1 or not files[0].is_file():
        raise GenrecError(f"{path}: no user histories; give a parquet file, its folder, or a folder with {SEQUENCES}")
    columns = pl.col("user_id").cast(pl.String), pl.col("item_ids").cast(pl.List(pl.Int64))
    try:
        return pl.read_parquet(files[0]).select(*columns)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise GenrecError(f"{files[0]}: not parquet with user_id and lists of integer item_ids ({error})") from error
