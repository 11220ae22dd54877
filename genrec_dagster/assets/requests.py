"""Request files: each file is a partition, is kept as received, and is served once by the served release.

These assets exist only if ``GENREC_INBOX`` names an inbox. They are apart from ``batch_predictions``, which holds the
lists of all users and has no partitions.
"""

from inspect import getdoc
from itertools import islice
from pathlib import Path

import dagster as dg
import polars as pl

from genrec_core.bundle.model_folder import ModelFolder
from genrec_core.data.ids import are_text
from genrec_core.errors import GenrecError
from genrec_core.monitoring.answers import exposure_of
from genrec_core.recommend.predict import rejected_path, require_request_file
from genrec_core.recommend.prediction_files import is_parquet
from genrec_core.releases.pointer import read_pointer
from genrec_core.storage.artifacts import sha256_of
from genrec_core.storage.inbox import FolderInbox, Inbox, ObjectInbox, find_file
from genrec_core.storage.object_store import SCHEME, ObjectStore
from genrec_core.storage.redact import without_secrets
from genrec_dagster.assets.serving import EXPLAINED_USERS, explained, pointed_model, predict, predictions_page
from genrec_dagster.checks.serving import (
    lists_valid,
    misses_are_few,
    readable_requests,
    requests_answered,
    shows_enough,
)
from genrec_dagster.config import ComputeEngine, Monitoring, RequestPredictionForm
from genrec_dagster.failures import PlainFailureError, plain_failures
from genrec_dagster.metadata import Page, content_version, hashes, page, table
from genrec_dagster.resources import WorkFolders

REQUEST_FILES = dg.DynamicPartitionsDefinition(name="request_files")
GROUP, OWNERS = "requests", ["team:recsys"]
REQUESTS, PREDICTIONS = "requests", "predictions"
_SHOWN_LINES, _SHOWN_REJECTED = 5, 10
_GATES = {"requests_answered": requests_answered, "lists_valid": lists_valid}
_WARNINGS = {"catalogue_shown": shows_enough, "served_as_asked": misses_are_few}
CHECKS = [
    dg.AssetCheckSpec(name, asset="request_predictions", description=getdoc(function), blocking=name in _GATES)
    for name, function in {**_GATES, **_WARNINGS}.items()
]


class RequestInbox(dg.ConfigurableResource[None]):
    """Where request files arrive."""

    location: str

    def open(self) -> Inbox:
        """The inbox, a folder or an ``s3://`` prefix."""
        if self.location.startswith(SCHEME):
            return ObjectInbox(ObjectStore(self.location))
        if "://" in self.location:
            shown = without_secrets(self.location)
            raise GenrecError(f"GENREC_INBOX={shown}: neither a folder nor an s3:// prefix; set it to one of them")
        return FolderInbox(Path(self.location).expanduser().absolute())


@dg.asset(group_name=GROUP, owners=OWNERS, kinds={"file"}, code_version="1", partitions_def=REQUEST_FILES)
@plain_failures
def request_file(
    context: dg.AssetExecutionContext, inbox: RequestInbox, work: WorkFolders
) -> dg.MaterializeResult[Path]:
    """A request file as received. It can be served again when it is no longer in the inbox."""
    try:
        place = inbox.open()
        file = find_file(place, context.partition_key)
        with work.new(context) as folder:
            received = folder / f"{REQUESTS}{'.parquet' if is_parquet(Path(file.name)) else '.txt'}"
            place.fetch(file, received)
            metadata = request_page(file.name, received)
            return dg.MaterializeResult(value=folder, metadata=metadata, data_version=content_version(folder))
    except GenrecError as error:
        raise _file_failure(context.partition_key, error) from None


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
    """The recommended items for one request file, by the served release: Parquet for Parquet, otherwise CSV."""
    requests = next(path for path in sorted(request_file.iterdir()) if path.stem == REQUESTS)
    model = pointed_model(served_release, work)
    with work.new(context) as folder, engine.open(context) as computed_by:
        output = folder / f"{PREDICTIONS}{'.parquet' if is_parquet(requests) else '.csv'}"
        try:
            report, recommender = predict(requests, output, model, config, computed_by)
            require_request_file(report, rejected_path(output), config.max_rejected)
        except GenrecError as error:
            raise _file_failure(context.partition_key, error) from None
        text_ids = are_text(ModelFolder(model).item_ids)
        examples = [
            (user.user_id, user.item_ids) for user in islice(readable_requests(requests, text_ids), EXPLAINED_USERS)
        ]
        exposure, lists = exposure_of(output, recommender.item_ids), explained(recommender, examples, output, config)
        release = read_pointer(served_release).version
        metadata = predictions_page(report, exposure, release, ModelFolder(model).popularity, lists)
        metadata["dagster/partition_row_count"] = report.users
        metadata["rejected_lines"] = report.rejected
        if report.rejected:
            first_rejected = pl.read_csv(rejected_path(output), n_rows=_SHOWN_REJECTED, infer_schema=False)
            metadata["rejected"] = table(first_rejected.to_dicts())
        results = {
            "requests_answered": requests_answered(output, requests, text_ids),
            "lists_valid": lists_valid(output, model),
            "catalogue_shown": shows_enough(exposure, monitoring),
            "served_as_asked": misses_are_few(report, monitoring),
        }
        return dg.MaterializeResult(
            value=folder,
            metadata=metadata,
            data_version=content_version(folder),
            check_results=[result._replace(check_name=name) for name, result in results.items()],
        )


def _file_failure(key: str, error: GenrecError) -> PlainFailureError:
    """The failure of one file. Another attempt would not help."""
    return PlainFailureError(f"{key}: {error}", {"file": key, "reason": str(error)})


def request_page(name: str, received: Path) -> Page:
    """A request file as received, with its first lines."""
    if is_parquet(received):
        rows = pl.read_parquet(received, n_rows=_SHOWN_LINES).to_dicts()
        lines = [{name: str(value) for name, value in row.items()} for row in rows]
    else:
        with received.open(encoding="utf-8", errors="replace") as text:
            lines = [{"line": str(number), "text": line} for number, line in enumerate(islice(text, _SHOWN_LINES), 1)]
    size = received.stat().st_size
    return page(
        f"{name} was received: {size:,} bytes, {'a Parquet table' if is_parquet(received) else 'text lines'}.",
        {"first_lines": table(lines)} if lines else {},
        {"bytes": size},
        {"file": name, "sha256": hashes({name: sha256_of(received)})},
    )
