"""Does the answer to a request file hold what was asked for, and nothing that it must not.

These are run by the asset itself: checks of their own for a partition are not yet a settled part of Dagster.
"""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl

from genrec_core.bundle.model_folder import ModelFolder
from genrec_core.recommend.predict import rejected_path
from genrec_core.recommend.requests import Request, read_requests
from genrec_dagster.checks.serving import listed_items, predicted
from genrec_dagster.checks.verdict import verdict


def requests_answered(predictions: Path, requests: Path) -> dg.AssetCheckResult:
    """One row a request, in their order, those left out that are among the rejected lines with a reason."""
    rejected = _rejected_lines(rejected_path(predictions))
    asked = [request.user_id for request in readable(requests) if request.line not in rejected]
    users = predicted(predictions)["user_id"].cast(pl.String).to_list()
    measured = f"{len(users)} rows, users {'' if users == asked else 'not '}those asked for"
    return verdict(users == asked, measured, f"{len(asked)} rows, users those asked for")


def lists_valid(predictions: Path, model_dir: Path) -> dg.AssetCheckResult:
    """Every list holds items of the model, each once."""
    known = ModelFolder(model_dir).item_ids
    listed = listed_items(predictions)
    unknown = listed.height - int(np.isin(listed["item_id"].to_numpy(), known).sum())
    repeated = listed.height - listed.unique(["row", "item_id"]).height
    measured = f"{listed.height} items, of which {unknown} unknown, {repeated} repeated"
    return verdict(unknown == repeated == 0, measured, "0 unknown, 0 repeated")


def readable(requests: Path) -> Iterator[Request]:
    """The requests of a file that can be read; whether their constraints can be met is not looked at."""
    return (outcome for outcome in read_requests(requests) if isinstance(outcome, Request))


def _rejected_lines(path: Path) -> set[int]:
    return set(pl.read_csv(path, columns=["line"])["line"].to_list()) if path.is_file() else set()
