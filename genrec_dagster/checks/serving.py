"""Does the prediction file hold what was asked for, and nothing that it must not."""

from pathlib import Path

import dagster as dg
import polars as pl

from genrec_core.bundle.model_folder import ModelFolder
from genrec_core.recommend.prediction_files import is_parquet
from genrec_dagster.assets.serving import PREDICTIONS, batch_predictions, pointed_model
from genrec_dagster.checks.verdict import verdict
from genrec_dagster.failures import reasons_in_results
from genrec_dagster.resources import WorkFolders

_HISTORIES = {"user_histories": dg.AssetIn("user_histories")}


@dg.asset_check(asset=batch_predictions, blocking=True, additional_ins=_HISTORIES)
@reasons_in_results
def predictions_for_everyone(batch_predictions: Path, user_histories: pl.DataFrame) -> dg.AssetCheckResult:
    """One row a request, in the order of the requests."""
    users = pl.read_csv(batch_predictions / PREDICTIONS, columns=["user_id"], infer_schema=False)["user_id"]
    same = users.to_list() == user_histories["user_id"].to_list()
    measured = f"{len(users)} rows, users {'' if same else 'not '}those asked for"
    return verdict(same, measured, f"{user_histories.height} rows, users those asked for")


@dg.asset_check(
    asset=batch_predictions,
    blocking=True,
    additional_ins={**_HISTORIES, **{name: dg.AssetIn(name) for name in ("item_catalog", "served_release")}},
)
@reasons_in_results
def predictions_valid(
    batch_predictions: Path,
    user_histories: pl.DataFrame,
    item_catalog: pl.DataFrame,
    served_release: Path,
    work: WorkFolders,
) -> dg.AssetCheckResult:
    """Every list holds known items, those added to the release too, each once, none of the user's history."""
    listed = listed_items(batch_predictions / PREDICTIONS)
    served = ModelFolder(pointed_model(served_release, work)).item_ids
    known = pl.concat([item_catalog["item_id"], pl.Series("item_id", served)]).to_frame()
    history = user_histories.select("user_id", pl.col("item_ids").alias("item_id")).explode("item_id")
    counts = {
        "unknown": listed.join(known, on="item_id", how="anti").height,
        "repeated": listed.height - listed.unique(["row", "item_id"]).height,
        "seen": listed.join(history, on=["user_id", "item_id"], how="semi").height,
    }
    measured = f"{listed.height} items, of which {', '.join(f'{count} {kind}' for kind, count in counts.items())}"
    return verdict(listed.height > 0 and not any(counts.values()), measured, "0 unknown, 0 repeated, 0 seen")


def listed_items(predictions: Path) -> pl.DataFrame:
    """One row a predicted item: ``row``, ``user_id``, ``item_id``; -1 where a cell is no number."""
    frame = predicted(predictions).with_row_index("row")
    cells = frame.unpivot(index=["row", "user_id"], value_name="cell").drop_nulls("cell")
    return cells.select("row", "user_id", pl.col("cell").cast(pl.Int64, strict=False).fill_null(-1).alias("item_id"))


def predicted(predictions: Path) -> pl.DataFrame:
    """A file of predictions; cells of CSV as text."""
    return pl.read_parquet(predictions) if is_parquet(predictions) else pl.read_csv(predictions, infer_schema=False)


CHECKS = [predictions_for_everyone, predictions_valid]
