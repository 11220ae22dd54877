"""The pages of predictions: what is recommended to whom, by which release, how fast."""

from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import polars as pl

from genrec_core.recommend.prediction_files import is_parquet
from genrec_core.releases.pointer import read_pointer
from genrec_core.storage.artifacts import sha256_of
from genrec_dagster.metadata import Page, Row, markdown_table, picture, table

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
    histories: Sequence[tuple[str, Sequence[int]]],
) -> Page:
    """What is recommended to some users, and how widely the catalogue is shown.

    Args:
        report: what became of the requests.
        exposure: how the places of the lists are shared among the items.
        served_release: the pointer that was followed.
        model: the exported model that it points to.
        output: the predictions.
        histories: some of those users and what they bought.
    """
    from genrec_core.evaluation.pages.predictions import Shop, exposure_picture, lists_by_title, shown_counts
    from genrec_core.monitoring.answers import miss_shares

    shop = Shop.of_model(model)
    lists = lists_by_title(shop, histories, output, _SHOWN_ITEMS)
    return {
        "release": dg.MetadataValue.text(read_pointer(served_release).version),
        "users_per_second": dg.MetadataValue.float(report.users_per_second),
        "what_became_of_them": table(_counts(report)),
        "coverage": dg.MetadataValue.float(exposure.coverage),
        "gini": dg.MetadataValue.float(exposure.gini),
        **{f"{name}_share": dg.MetadataValue.float(share) for name, share in miss_shares(report).items()},
        "some_users": dg.MetadataValue.md(markdown_table(lists, longest=220)),
        "plots": picture(exposure_picture(shop, shown_counts(shop, output)), "who is shown, beside what was bought"),
        "report": dg.MetadataValue.json(asdict(report)),
    }


def request_page(name: str, received: Path) -> Page:
    """A request file as received, and how it begins."""
    if is_parquet(received):
        rows = pl.read_parquet(received, n_rows=SHOWN_USERS).to_dicts()
    else:
        with received.open(encoding="utf-8", errors="replace") as lines:
            rows = [{"line": number, "text": line} for number, line in enumerate(islice(lines, SHOWN_USERS), 1)]
    return {
        "file": dg.MetadataValue.text(name),
        "bytes": dg.MetadataValue.int(received.stat().st_size),
        "sha256": dg.MetadataValue.text(sha256_of(received)),
        "begins_with": dg.MetadataValue.md(markdown_table(rows)),
    }


def rejected_lines(path: Path, shown: int = 10) -> dg.MetadataValue:
    """The first lines that were not served, each with its reason."""
    return dg.MetadataValue.md(markdown_table(pl.read_csv(path, n_rows=shown, infer_schema=False).to_dicts()))


def _counts(report: "PredictionReport") -> list[Row]:
    named = {
        "users served": report.users,
        "history items not in the catalogue, dropped": report.unknown_items,
        "users without a known item, who get the popular ones": report.empty_histories,
        f"users with fewer than {report.top_k} items": report.short_rows,
        "malformed lines, not served": report.rejected,
    }
    return [{"what": what, "how many": count} for what, count in named.items()]
