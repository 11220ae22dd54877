"""Watches the inbox: a new request file becomes a partition, and then, at the next look, a run.

A look adds partitions or requests runs, never both, so that no run can be asked for a partition that is not there yet.
What has to be done follows from what is there, and a run's key from its file, so that a look that dies half-way loses
nothing and serves nothing twice.
"""

import json
import os

import dagster as dg

from genrec_core.inbox import RequestFile
from genrec_dagster.assets.requests import REQUEST_FILES, RequestInbox, request_file, request_predictions

INBOX_VARIABLE = "GENREC_INBOX"
_EVERY_SECONDS = 30
_RUNS_A_LOOK = 100

serve_requests = dg.define_asset_job(
    "serve_requests",
    selection=dg.AssetSelection.assets("request_file", "request_predictions"),
    description="Serve one request file.",
)

# The file is kept in the storage, so the inbox may have lost it.
serve_again = dg.define_asset_job(
    "serve_again",
    selection=dg.AssetSelection.assets("request_predictions"),
    description="Serve a request file again, by the release that is served now.",
)


@dg.sensor(
    job=serve_requests,
    minimum_interval_seconds=_EVERY_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Serves every new file of the inbox once.",
)
def request_files(context: dg.SensorEvaluationContext, inbox: RequestInbox) -> dg.SensorResult | dg.SkipReason:
    """Request runs for the partitions that have had none, else add partitions for the files that have none."""
    files = {file.key: file for file in inbox.open().files()}
    partitions = set(context.instance.get_dynamic_partitions(str(REQUEST_FILES.name)))
    asked = [key for key in json.loads(context.cursor or "[]") if key in files]
    waiting = [key for key in files if key in partitions and key not in set(asked)][:_RUNS_A_LOOK]
    new = [key for key in files if key not in partitions]
    if waiting:
        requests = [_request(files[key]) for key in waiting]
        return dg.SensorResult(run_requests=requests, cursor=json.dumps([*asked, *waiting]))
    if new:
        return dg.SensorResult(
            dynamic_partitions_requests=[REQUEST_FILES.build_add_request(new)], cursor=json.dumps(asked)
        )
    return dg.SkipReason(f"no new file among {len(files)}")


def _request(file: RequestFile) -> dg.RunRequest:
    return dg.RunRequest(run_key=file.key, partition_key=file.key, tags={"genrec/request_file": file.name})


def request_definitions() -> dg.Definitions:
    """What serves the request files of ``GENREC_INBOX``; nothing where it is unset."""
    location = os.environ.get(INBOX_VARIABLE)
    if not location:
        return dg.Definitions()
    return definitions_for(RequestInbox(location=location))


def definitions_for(inbox: RequestInbox) -> dg.Definitions:
    """The assets, checks, job and sensor of one inbox."""
    return dg.Definitions(
        assets=[request_file, request_predictions],
        jobs=[serve_requests, serve_again],
        sensors=[request_files],
        resources={"inbox": inbox},
    )
