"""Checks of predictions for all users and for request files: they are complete, valid and varied.

`request_predictions` calls some of these functions itself, as Dagster's checks of single partitions are not yet stable.
"""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl

from genrec_core.bundle.model_folder import ModelFolder
from genrec_core.data.ids import id_array
from genrec_core.monitoring.answers import Exposure, count_listed_items, exposure_of, miss_shares, scan_predictions
from genrec_core.recommend.predict import PredictionReport, rejected_path
from genrec_core.recommend.request_files import Request, read_requests
from genrec_core.storage.artifacts import read_json
from genrec_dagster.assets.serving import PREDICTIONS, REPORT, batch_predictions, pointed_model
from genrec_dagster.checks.check import check_result, gate, warning
from genrec_dagster.checks.drift import severity_of
from genrec_dagster.config import Monitoring
from genrec_dagster.resources import WorkFolders


@gate(batch_predictions, "user_histories")
def predictions_for_everyone(batch_predictions: Path, user_histories: pl.DataFrame) -> dg.AssetCheckResult:
    """The prediction file holds one row for each user, in the order of the histories."""
    users = scan_predictions(batch_predictions / PREDICTIONS).select("user_id").collect()
    return _same_users(users["user_id"].to_list(), user_histories["user_id"].to_list())


@gate(batch_predictions, "user_histories", "item_catalog", "served_release")
def predictions_valid(
    batch_predictions: Path,
    user_histories: pl.DataFrame,
    item_catalog: pl.DataFrame,
    served_release: Path,
    work: WorkFolders,
) -> dg.AssetCheckResult:
    """Every list holds items of the catalogue or the release, each once, and none that is to be left out as seen."""
    known = np.union1d(id_array(item_catalog["item_id"]), ModelFolder(pointed_model(served_release, work)).item_ids)
    lists = count_listed_items(batch_predictions / PREDICTIONS, known, user_histories)
    measured = f"{lists.items} items, of which {lists.unknown} unknown, {lists.repeated} repeated, {lists.seen} seen"
    passed = lists.items > 0 and lists.unknown == lists.repeated == 0
    if not PredictionReport(**read_json(batch_predictions / REPORT)).exclude_seen:
        return check_result(passed, measured, "0 unknown, 0 repeated; lists may hold seen items")
    return check_result(passed and lists.seen == 0, measured, "0 unknown, 0 repeated, 0 seen")


@warning(batch_predictions, "served_release")
def catalogue_shown(
    batch_predictions: Path, served_release: Path, monitoring: Monitoring, work: WorkFolders
) -> dg.AssetCheckResult:
    """The lists show a large part of the catalogue, and not mostly the same few items."""
    item_ids = ModelFolder(pointed_model(served_release, work)).item_ids
    return shows_enough(exposure_of(batch_predictions / PREDICTIONS, item_ids), monitoring)


@warning(batch_predictions)
def served_as_asked(batch_predictions: Path, monitoring: Monitoring) -> dg.AssetCheckResult:
    """Few history items are unknown, and few users get the popular items or a short list."""
    return misses_are_few(PredictionReport(**read_json(batch_predictions / REPORT)), monitoring)


def requests_answered(predictions: Path, requests: Path, text_ids: bool) -> dg.AssetCheckResult:
    """The answer holds one row for each request, in their order. Rejected lines are left out."""
    rejected_file = rejected_path(predictions)
    rejected = set(pl.read_csv(rejected_file, columns=["line"])["line"]) if rejected_file.is_file() else set()
    wanted = [request.user_id for request in readable_requests(requests, text_ids) if request.line not in rejected]
    users = scan_predictions(predictions).select(pl.col("user_id").cast(pl.String)).collect()
    return _same_users(users["user_id"].to_list(), wanted)


def lists_valid(predictions: Path, model_dir: Path) -> dg.AssetCheckResult:
    """Every list holds items of the model, each once."""
    lists = count_listed_items(predictions, ModelFolder(model_dir).item_ids)
    measured = f"{lists.items} items, of which {lists.unknown} unknown, {lists.repeated} repeated"
    return check_result(lists.unknown == lists.repeated == 0, measured, "0 unknown, 0 repeated")


def shows_enough(exposure: Exposure, monitoring: Monitoring) -> dg.AssetCheckResult:
    """The lists show a large part of the catalogue, and not mostly the same few items.

    The Gini coefficient counts only where the lists have a place for every item.
    """
    for_all = exposure.places >= len(exposure.counts)
    passed = exposure.reachable_coverage >= monitoring.min_coverage
    passed &= not for_all or exposure.gini <= monitoring.max_gini
    measured = f"a coverage of {exposure.reachable_coverage:.4g}, a Gini coefficient of {exposure.gini:.4g}"
    wanted = f"a coverage of at least {monitoring.min_coverage:g}"
    wanted += f", a Gini coefficient of at most {monitoring.max_gini:g}" if for_all else ""
    names = ("coverage", "reachable_coverage", "gini", "places")
    numbers = {name: getattr(exposure, name) for name in names}
    return check_result(passed, measured, wanted, severity=severity_of(monitoring), metadata=numbers)


def misses_are_few(report: PredictionReport, monitoring: Monitoring) -> dg.AssetCheckResult:
    """Few history items are unknown, few users get the popular items or a short list, and few lines are rejected."""
    shares = miss_shares(report)
    bounds = {name: getattr(monitoring, f"max_{name}") for name in shares}
    over = [_words(name) for name, share in shares.items() if share > bounds[name]]
    measured = ", ".join(f"{_words(name)} {share:.4g}" for name, share in shares.items())
    wanted = "at most " + ", ".join(f"{_words(name)} {bound:g}" for name, bound in bounds.items())
    detail = f"too many: {', '.join(over)}" if over else None
    return check_result(not over, measured, wanted, severity=severity_of(monitoring), detail=detail, metadata=shares)


def readable_requests(requests: Path, text_ids: bool) -> Iterator[Request]:
    """The requests of a file that can be read, whether or not their constraints can be met."""
    return (outcome for outcome in read_requests(requests, text_ids=text_ids) if isinstance(outcome, Request))


def _same_users(users: list[str], wanted: list[str]) -> dg.AssetCheckResult:
    measured = f"{len(users)} rows, users {'' if users == wanted else 'not '}as requested"
    return check_result(users == wanted, measured, f"{len(wanted)} rows, users as requested")


def _words(name: str) -> str:
    return name.replace("_", " ")
