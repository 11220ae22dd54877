"""Predictions for all users, by the served release, and what their page shows."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import numpy as np
import polars as pl

from genrec_core.bundle.model_folder import ModelFolder
from genrec_core.data.ids import AnyId
from genrec_core.monitoring.answers import Exposure, exposure_of, miss_shares
from genrec_core.recommend.predict import PredictionReport, predict_file
from genrec_core.releases.pointer import MODEL, RELEASES, read_pointer
from genrec_core.settings import PredictionSettings
from genrec_core.storage.artifacts import write_json
from genrec_core.storage.folders import version_folder
from genrec_dagster.automation import FRESHNESS, fresh_within, rebuilt_asset
from genrec_dagster.config import ComputeEngine, PredictionForm
from genrec_dagster.failures import plain_failures
from genrec_dagster.metadata import Page, Row, content_version, page, percent, picture, table
from genrec_dagster.resources import WorkFolders

if TYPE_CHECKING:
    from genrec_core.engines.engine import Engine
    from genrec_core.recommend.recommender import Recommender

PREDICTIONS, REPORT = "predictions.csv", "report.json"
EXPLAINED_USERS = 20
_REQUESTS = "requests.parquet"  # holds ids of any letters
_SHOWN_ITEMS = 3
_EXPLAINED_SECONDS = 30.0  # users whose turn comes later get no reason


@rebuilt_asset(
    "serving",
    "served_release",
    kinds={"onnx", "csv"},
    code_version="4",
    pool="inference",
    freshness_policy=fresh_within(FRESHNESS.predictions_hours),
)
@plain_failures
def batch_predictions(
    context: dg.AssetExecutionContext,
    served_release: Path,
    user_histories: pl.DataFrame,
    config: PredictionForm,
    work: WorkFolders,
    engine: ComputeEngine,
) -> dg.MaterializeResult[Path]:
    """The recommended items of every user, computed by the served release from the whole history.

    `predictions.csv` holds one row for each user, `user_id,pred_1..pred_K`, the best item first. `some_users` says for
    some of them why the first item is recommended: which item of the history made it likelier, and by how much.
    """
    model = pointed_model(served_release, work)
    with work.new(context) as folder, engine.open(context) as computed_by:
        requests, output = folder / _REQUESTS, folder / PREDICTIONS
        user_histories.select("user_id", "item_ids").write_parquet(requests)
        report, recommender = predict(requests, output, model, config, computed_by)
        requests.unlink()
        shown = user_histories.select("user_id", "item_ids").head(EXPLAINED_USERS)
        examples = [(str(user), items) for user, items in shown.iter_rows()]
        lists = explained(recommender, examples, output, config)
        exposure = exposure_of(output, recommender.item_ids)
        release, popularity = read_pointer(served_release).version, ModelFolder(model).popularity
        metadata = predictions_page(report, exposure, release, popularity, lists)
        metadata["dagster/row_count"] = report.users
        return dg.MaterializeResult(value=folder, metadata=metadata, data_version=content_version(folder))


def pointed_model(served_release: Path, work: WorkFolders) -> Path:
    """The exported model of the release that a version of ``served_release`` points to."""
    version = read_pointer(served_release).version
    return version_folder(RELEASES, version, work.storage) / MODEL


def predict(
    requests: Path, output: Path, model: Path, settings: PredictionSettings, computed_by: "Engine | None"
) -> tuple[PredictionReport, "Recommender"]:
    """Serve a request file with an exported model, and write ``report.json`` beside the answer."""
    from genrec_core.recommend.recommender import Recommender
    from genrec_core.recommend.remote_ranking import RemoteRanking

    recommender, remote = Recommender.open(model), RemoteRanking.of(computed_by, model)
    report = predict_file(recommender, requests, output, settings, show_progress=False, remote=remote)
    write_json(output.with_name(REPORT), asdict(report))
    return report, recommender


def explained(
    recommender: "Recommender",
    examples: Sequence[tuple[str, Sequence[AnyId]]],
    output: Path,
    settings: PredictionSettings,
) -> list[dict[str, str]]:
    """The histories and lists of some users by title, with why; ``output`` is the prediction file."""
    from genrec_core.monitoring.answers import lists_with_reasons

    return lists_with_reasons(
        recommender, examples, output, _SHOWN_ITEMS, ranking=settings.ranking, seconds=_EXPLAINED_SECONDS
    )


def predictions_page(
    report: PredictionReport,
    exposure: Exposure,
    release: str,
    popularity: np.ndarray,
    lists: list[dict[str, str]],
) -> Page:
    """The lists of some users, the share of items that appear in lists, and the counts of served requests.

    ``popularity`` are the training interactions of each item, int64 [n_items]; ``lists`` is what :func:`explained`
    gives.
    """
    from genrec_core.evaluation.pages.metrics import exposure_picture

    plot = exposure_picture(popularity, exposure.counts)
    return page(
        _verdict(report, exposure),
        {
            **({"some_users": table(lists, longest=220)} if lists else {}),
            "request_counts": table(_counts(report)),
            "plots": picture(plot, "recommended items beside bought items"),
        },
        {
            "coverage": exposure.coverage,
            "gini": exposure.gini,
            **{f"{name}_share": share for name, share in miss_shares(report).items()},
            "users_per_second": report.users_per_second,
        },
        {"release": release},
    )


def _verdict(report: PredictionReport, exposure: Exposure) -> str:
    short = f", {report.short_rows:,} of them with fewer items" if report.short_rows else ""
    popular = f"; {report.empty_histories:,} got the popular items" if report.empty_histories else ""
    rejected = f"; {report.rejected:,} lines could not be read" if report.rejected else ""
    return (
        f"{report.users:,} users have a list of {report.top_k} items{short}{popular}{rejected}; the lists show "
        f"{percent(exposure.coverage)} of the catalogue."
    )


def _counts(report: PredictionReport) -> list[Row]:
    counts = {
        "users served": report.users,
        "history items that are not in the catalogue and were dropped": report.unknown_items,
        "users without a known item, who got the popular items": report.empty_histories,
        f"users with fewer than {report.top_k} items": report.short_rows,
        "malformed lines that were not served": report.rejected,
    }
    return [{"count of": name, "number": number} for name, number in counts.items()]
