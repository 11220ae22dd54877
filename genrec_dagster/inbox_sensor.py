"""Watches the inbox: a new request file becomes a partition, and then, at the next look, a run.

A look adds partitions or requests runs, never both, so that no run can be asked for a partition that is not there yet.
What has to be done follows from what is there, and a run's key from its file, so that a look that dies half-way loses
nothing and serves nothing twice. A run that failed in none of its steps says nothing of its file: it never started, or
its process was killed or interrupted. Its file is tried again, with the run keys ``key#2`` and ``key#3``.
"""

import json
import os
from collections.abc import Collection
from datetime import UTC, datetime, timedelta

import dagster as dg

from genrec_core.storage.inbox import RequestFile
from genrec_dagster.assets.requests import REQUEST_FILES, RequestInbox, request_file, request_predictions
from genrec_dagster.failures import INTERRUPTED, failure_reason

INBOX_VARIABLE = "GENREC_INBOX"
_EVERY_SECONDS = 30
_RUNS_A_LOOK = 100
_TRIES = 3  # of one file whose runs fail in none of their steps
_LOOKED_BACK = timedelta(days=1)
_PARTITION, _RUN_KEY = "dagster/partition", "dagster/run_key"

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
    """Request runs for the partitions that no run has tried yet, else add partitions for the files that have none."""
    files = {file.key: file for file in inbox.open().files()}
    partitions = set(context.instance.get_dynamic_partitions(str(REQUEST_FILES.name)))
    asked = [key for key in json.loads(context.cursor or "[]") if _file_key(key) in files]
    known = [key for key in files if key in partitions]
    wanted = [*known, *_tries_again(context.instance, known)]
    waiting = [key for key in wanted if key not in set(asked)][:_RUNS_A_LOOK]
    new = [key for key in files if key not in partitions]
    if waiting:
        requests = [_request(files[_file_key(key)], key) for key in waiting]
        return dg.SensorResult(run_requests=requests, cursor=json.dumps([*asked, *waiting]))
    if new:
        return dg.SensorResult(
            dynamic_partitions_requests=[REQUEST_FILES.build_add_request(new)], cursor=json.dumps(asked)
        )
    return dg.SkipReason(f"no new file among {len(files)}")


def _tries_again(instance: dg.DagsterInstance, keys: Collection[str]) -> list[str]:
    """Run keys for the files of ``keys`` whose newest run of the last day failed, but none of its steps did."""
    failed = dg.RunsFilter(
        job_name=serve_requests.name,
        statuses=[dg.DagsterRunStatus.FAILURE],
        updated_after=datetime.now(UTC) - _LOOKED_BACK,
    )
    again = []
    for run in instance.get_runs(failed):
        key, number = run.tags.get(_PARTITION, ""), _try_number(run.tags.get(_RUN_KEY, ""))
        if key in keys and number < _TRIES and _is_newest(instance, run) and not _failed_in_a_step(instance, run):
            again.append(f"{key}#{number + 1}")
    return again


def _is_newest(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    of_file = dg.RunsFilter(tags={_PARTITION: run.tags[_PARTITION]})
    return [found.run_id for found in instance.get_runs(of_file, limit=1)] == [run.run_id]


def _failed_in_a_step(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether a step failed by itself; an interrupt of the whole run says nothing of its file."""
    failures = instance.get_records_for_run(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE).records
    events = [record.event_log_entry.dagster_event for record in failures]
    return any(event is not None and failure_reason(event) != INTERRUPTED for event in events)


def _file_key(run_key: str) -> str:
    return run_key.partition("#")[0]


def _try_number(run_key: str) -> int:
    return int(run_key.partition("#")[2] or 1)


def _request(file: RequestFile, run_key: str) -> dg.RunRequest:
    return dg.RunRequest(run_key=run_key, partition_key=file.key, tags={"genrec/request_file": file.name})


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
