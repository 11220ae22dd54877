"""The metadata of predictions and request files."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from genrec_core.recommend.prediction_files import is_parquet
from genrec_core.releases.pointer import read_pointer
from genrec_core.storage.artifacts import sha256_of
from genrec_dagster.metadata import Page, Row, markdown, picture, table

if TYPE_CHECKING:
    from genrec_core.monitoring.answers import Exposure
    from genrec_core.recommend.predict import PredictionReport

SHOWN_USERS = 5
_SHOWN_ITEMS = 3


def predictions_page(
    report: "PredictionReport",
    exposure: "Exposure",
    served_release: Path,
    model: Path,
    output: Path,
    examples: Sequence[tuple[str, Sequence[int]]],
) -> Page:
    """The lists of some users, the share of items that appear in lists, and the counts of served requests.

    Args:
        report: what became of the requests.
        exposure: how the places of the lists are shared among the items.
        served_release: the version of the pointer that was followed.
        model: the exported model that it points to.
        output: the prediction file.
        examples: some of the users, each with the history.
    """
    from genrec_core.evaluation.pages.predictions import Shop, exposure_picture, lists_by_title, shown_counts
    from genrec_core.monitoring.answers import miss_shares

    shop = Shop.of_model(model)
    lists = lists_by_title(shop, examples, output, _SHOWN_ITEMS)
    return {
        "release": read_pointer(served_release).version,
        "users_per_second": report.users_per_second,
        "request_counts": table(_counts(report)),
        "coverage": exposure.coverage,
        "gini": exposure.gini,
        **{f"{name}_share": share for name, share in miss_shares(report).items()},
        "some_users": markdown(lists, longest=220),
        "plots": picture(exposure_picture(shop, shown_counts(shop, output)), "recommended items beside bought items"),
    }


def request_page(name: str, received: Path) -> Page:
    """A request file as received, with its first lines."""
    if is_parquet(received):
        rows = pl.read_parquet(received, n_rows=SHOWN_USERS).to_dicts()
    else:
        with received.open(encoding="utf-8", errors="replace") as lines:
            rows = [{"line": number, "text": line} for number, line in enumerate(islice(lines, SHOWN_USERS), 1)]
    return {
        "file": name,
        "bytes": received.stat().st_size,
        "sha256": sha256_of(received),
        "first_lines": markdown(rows),
    }


def _counts(report: "PredictionReport") -> list[Row]:
    counts = {
        "users served": report.users,
        "history items that are not in the catalogue and were dropped": report.unknown_items,
        "users without a known item, who got the popular items": report.empty_histories,
        f"users with fewer than {report.top_k} items": report.short_rows,
        "malformed lines that were not served": report.rejected,
    }
    return [{"count of": name, "number": number} for name, number in counts.items()]
