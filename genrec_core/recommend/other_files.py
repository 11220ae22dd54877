"""Refuses a file that is no request file, although some lines read like requests: a page, a picture, a letter."""

import csv
from itertools import islice
from pathlib import Path

from genrec_core.errors import GenrecError
from genrec_core.recommend.predict import PredictionReport

_FEW_REJECTED = 0.1  # share of a file's lines: a file of new users may hold some bad ones
_SHOWN_REASONS = 3


def require_request_file(report: PredictionReport, rejected: Path, largest_share: float) -> None:
    """Refuse the answer to a file with too many rejected lines.

    A line with a user id alone is a new user's request, but it is no sign of a request file: words stand alone in any
    text. So the rejected lines are compared with the lines that hold a known item.

    Args:
        report: what became of the file's lines.
        rejected: the file of the rejected lines.
        largest_share: share of rejected lines, among these and the lines with a known item.

    Raises:
        GenrecError: the share is larger, and at least a tenth of all lines were rejected.
    """
    known, lines = report.users - report.empty_histories, report.users + report.rejected
    if report.rejected <= largest_share * (report.rejected + known) or report.rejected < _FEW_REJECTED * lines:
        return
    with rejected.open(encoding="utf-8", newline="") as content:
        first = list(islice(csv.DictReader(content), _SHOWN_REASONS))
    reasons = "; ".join(f"line {row['line']}: {row['reason']}" for row in first)
    raise GenrecError(
        f"{report.rejected} of its {lines} lines are no requests and {known} hold a known item, so nothing is served; "
        f"the first: {reasons}; send lines `user item item ...`, CSV or Parquet, or raise "
        "request_predictions.max_rejected"
    )
