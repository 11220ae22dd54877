"""Request files: each becomes a partition, is kept as received, and is served once by the release that is served.

A separate asset from ``batch_predictions``, which is everyone's predictions and has to be built without naming a
partition. The graph has these only where ``GENREC_INBOX`` names an inbox.
"""

from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import polars as pl

from genrec_core.errors import GenrecError
from genrec_core.monitoring.answers import exposure_of
from genrec_core.recommend.prediction_files import is_parquet
from genrec_core.storage.artifacts import write_json
from genrec_core.storage.inbox import Inbox, find_file
from genrec_core.storage.redact import without_secrets
from genrec_dagster.assets.serving import OWNERS, REPORT, pointed_model
from genrec_dagster.checks.answers import misses_are_few, shows_enough
from genrec_dagster.checks.requests import lists_valid, readable, requests_answered
from genrec_dagster.config import Monitoring, RequestPredictionForm
from genrec_dagster.engine import ComputeEngine
from genrec_dagster.failures import PlainFailureError, plain_failures
from genrec_dagster.metadata import content_version
from genrec_dagster.pages.serving import SHOWN_USERS, predictions_page, rejected_lines, request_page
from genrec_dagster.resources import WorkFolders

if TYPE_CHECKING:
    from genrec_core.recommend.predict import PredictionReport

REQUEST_FILES = dg.DynamicPartitionsDefinition(name="request_files")
GROUP = "requests"
REQUESTS, PREDICTIONS = "requests", "predictions"
_FEW_REJECTED = 0.1  # share of a file's lines: a file of new users may hold some bad ones
_SHOWN_REASONS = 3
ANSWERED, VALID, SHOWN, AS_ASKED = "requests_answered", "lists_valid", "catalogue_shown", "served_as_asked"
CHECKS = [
    dg.AssetCheckSpec(name, asset="request_predictions", description=(check.__doc__ or "").strip(), blocking=True)
    for name, check in ((ANSWERED, requests_answered), (VALID, lists_valid))
] + [
    dg.AssetCheckSpec(name, asset="request_predictions", description=(check.__doc__ or "").strip())
    for name, check in ((SHOWN, shows_enough), (AS_ASKED, misses_are_few))
]


class RequestInbox(dg.ConfigurableResource[None]):
    """Where request files arrive."""

    location: str

    def open(self) -> Inbox:
        """The inbox.

        Raises:
            GenrecError: the location is of a kind that cannot be listed.
        """
        return open_inbox(self.location)


@dg.asset(group_name=GROUP, owners=OWNERS, kinds={"file"}, code_version="1", partitions_def=REQUEST_FILES)
@plain_failures
def request_file(
    context: dg.AssetExecutionContext, inbox: RequestInbox, work: WorkFolders
) -> dg.MaterializeResult[Path]:
    """A request file as received, so that it can be served again when the inbox has lost it."""
    try:
        place = inbox.open()
        file = find_file(place, context.partition_key)
        with work.new(context) as folder:
            received = folder / f"{REQUESTS}{'.parquet' if is_parquet(Path(file.name)) else '.txt'}"
            place.fetch(file, received)
            metadata = request_page(file.name, received)
            return dg.MaterializeResult(value=folder, metadata=metadata, data_version=content_version(folder))
    except GenrecError as error:
        raise _refused(context.partition_key, error) from None


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"onnx", "csv"},
    code_version="1",
    partitions_def=REQUEST_FILES,
    pool="inference",
    check_specs=CHECKS,
    dagster_type=dg.Any,  # with check results, Dagster would take the annotation below for "no value"
)
@plain_failures
def request_predictions(
    context: dg.AssetExecutionContext,
    request_file: Path,
    served_release: Path,
    config: RequestPredictionForm,
    monitoring: Monitoring,
    work: WorkFolders,
    engine: ComputeEngine,
) -> dg.MaterializeResult:  # type: ignore[type-arg]  # beside check results Dagster reads no other annotation
    """The lists for one request file, by the release that is served; Parquet for Parquet, else CSV."""
    from genrec_core.recommend.predict import predict_file, rejected_path
    from genrec_core.recommend.recommender import Recommender
    from genrec_core.recommend.remote_ranking import RemoteRanking

    source, model = requests_in(request_file), pointed_model(served_release, work)
    with work.new(context) as folder, engine.open(context) as computed_by:
        output = folder / f"{PREDICTIONS}{'.parquet' if is_parquet(source) else '.csv'}"
        recommender, remote = Recommender.from_folder(model, threads=1), RemoteRanking.of(computed_by, model)
        try:
            report = predict_file(recommender, source, output, config, show_progress=False, remote=remote)
            _require_requests(report, rejected_path(output), config.max_rejected)
        except GenrecError as error:
            raise _refused(context.partition_key, error) from None
        write_json(folder / REPORT, asdict(report))
        exposure = exposure_of(output, recommender.item_ids)
        some = [(request.user_id, request.item_ids) for request in islice(readable(source), SHOWN_USERS)]
        metadata = predictions_page(report, exposure, served_release, model, output, some)
        metadata["dagster/partition_row_count"] = dg.MetadataValue.int(report.rows)
        metadata["rejected_lines"] = dg.MetadataValue.int(report.rejected)
        if report.rejected:
            metadata["rejected"] = rejected_lines(rejected_path(output))
        checks = [
            requests_answered(output, source)._replace(check_name=ANSWERED),
            lists_valid(output, model)._replace(check_name=VALID),
            shows_enough(exposure, monitoring)._replace(check_name=SHOWN),
            misses_are_few(report, monitoring)._replace(check_name=AS_ASKED),
        ]
        version = content_version(folder)
        return dg.MaterializeResult(value=folder, metadata=metadata, data_version=version, check_results=checks)


def _require_requests(report: "PredictionReport", rejected: Path, most: float) -> None:
    """Refuse a file of another kind: a page, a picture, a letter.

    A line with a user id alone is a new user's request, but it is no sign of a request file either: words stand alone
    in any text. So the rejected lines are compared with those that hold a known item.

    Raises:
        GenrecError: more than ``most`` of these lines were rejected, and they are a tenth of the file.
    """
    known, lines = report.users - report.empty_histories, report.users + report.rejected
    if report.rejected <= most * (report.rejected + known) or report.rejected < _FEW_REJECTED * lines:
        return
    first = pl.read_csv(rejected, n_rows=_SHOWN_REASONS, infer_schema=False)
    reasons = "; ".join(f"line {line}: {reason}" for line, reason in first.select("line", "reason").iter_rows())
    raise GenrecError(
        f"{report.rejected} of its {lines} lines are no requests and {known} hold a known item, so nothing is served; "
        f"the first: {reasons}; send lines `user item item ...`, CSV or Parquet, or raise "
        "request_predictions.max_rejected"
    )


def requests_in(request_file: Path) -> Path:
    """The file of requests in a version of ``request_file``."""
    return next(path for path in sorted(request_file.iterdir()) if path.stem == REQUESTS)


def open_inbox(location: str) -> Inbox:
    """The inbox that ``GENREC_INBOX`` names.

    Raises:
        GenrecError: it is neither a folder nor an ``s3://`` prefix.
    """
    from genrec_core.storage.inbox import FolderInbox, ObjectInbox
    from genrec_core.storage.object_store import SCHEME, ObjectStore

    if location.startswith(SCHEME):
        return ObjectInbox(ObjectStore(location))
    if "://" in location:
        shown = without_secrets(location)
        raise GenrecError(f"GENREC_INBOX={shown}: neither a folder nor an s3:// prefix; set it to one of them")
    return FolderInbox(Path(location).expanduser().absolute())


def _refused(key: str, error: GenrecError) -> PlainFailureError:
    """The failure of one file, which another attempt would not mend."""
    return PlainFailureError(f"{key}: {error}", {"file": key, "reason": str(error)})
