"""Watches the inbox: a new request file becomes a partition, and at the next tick a run.

A tick adds partitions or requests runs, never both, so no run starts before its partition exists. The cursor keeps the
run keys that were requested, and a key comes from its file. So a tick that dies loses no file and serves none twice.

If a run failed but none of its steps did, the file is not at fault: the run never started, was killed or interrupted.
Then the file is served again, with the run keys ``key#2`` and ``key#3``.
"""

import json
import os
import warnings
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg

from genrec_dagster.assets.requests import REQUEST_FILES, RequestInbox, request_file, request_predictions
from genrec_dagster.failures import INTERRUPTED, failure_reason

_EVERY_SECONDS = 30
_RUNS_A_TICK = 100
_TRIES = 3  # runs of one file that fail in none of their steps
_LOOKED_BACK = timedelta(days=1)
_PARTITION, _RUN_KEY = "dagster/partition", "dagster/run_key"

serve_requests = dg.define_asset_job(
    "serve_requests",
    selection=dg.AssetSelection.assets("request_file", "request_predictions"),
    description="Serve one request file of the inbox.",
)

# The storage keeps the file, so it need not be in the inbox any more.
serve_again = dg.define_asset_job(
    "serve_again",
    selection=dg.AssetSelection.assets("request_predictions"),
    description="Serve a request file again, by the served release.",
)


@dg.sensor(
    job=serve_requests,
    minimum_interval_seconds=_EVERY_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Serves each new file of the inbox once.",
)
def request_files(context: dg.SensorEvaluationContext, inbox: RequestInbox) -> dg.SensorResult | dg.SkipReason:
    """Request runs for the partitions without one, or else add partitions for new files."""
    files = {file.key: file for file in inbox.open().files()}
    partitions = set(context.instance.get_dynamic_partitions(str(REQUEST_FILES.name)))
    requested = [key for key in json.loads(context.cursor or "[]") if _file_key(key) in files]
    known = [key for key in files if key in partitions]
    wanted = [*known, *_retries(context.instance, known)]
    if waiting := [key for key in wanted if key not in set(requested)][:_RUNS_A_TICK]:
        requests = [
            dg.RunRequest(key, partition_key=_file_key(key), tags={"genrec/request_file": files[_file_key(key)].name})
            for key in waiting
        ]
        return dg.SensorResult(run_requests=requests, cursor=json.dumps([*requested, *waiting]))
    if new := [key for key in files if key not in partitions]:
        additions = [REQUEST_FILES.build_add_request(new)]
        return dg.SensorResult(dynamic_partitions_requests=additions, cursor=json.dumps(requested))
    return dg.SkipReason(f"no new file among {len(files)}")


def _retries(instance: dg.DagsterInstance, keys: Collection[str]) -> list[str]:
    """Run keys for the files whose newest run of the last day failed although none of its steps did."""
    failed = dg.RunsFilter(
        job_name=serve_requests.name,
        statuses=[dg.DagsterRunStatus.FAILURE],
        updated_after=datetime.now(UTC) - _LOOKED_BACK,
    )
    retries = []
    for run in instance.get_runs(failed):
        key, number = run.tags.get(_PARTITION, ""), int(run.tags.get(_RUN_KEY, "").partition("#")[2] or 1)
        if key in keys and number < _TRIES and _is_newest(instance, run) and not _failed_in_a_step(instance, run):
            retries.append(f"{key}#{number + 1}")
    return retries


def _is_newest(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    same_file = dg.RunsFilter(tags={_PARTITION: run.tags[_PARTITION]})
    return instance.get_runs(same_file, limit=1)[0].run_id == run.run_id


def _failed_in_a_step(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether a step failed other than by an interrupt of the run."""
    failures = instance.get_records_for_run(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE).records
    events = [record.event_log_entry.dagster_event for record in failures]
    return any(event is not None and failure_reason(event) != INTERRUPTED for event in events)


def _file_key(run_key: str) -> str:
    return run_key.partition("#")[0]


def request_definitions(location: str | None = None) -> dg.Definitions:
    """The assets, jobs and sensor of the inbox at ``location`` or ``GENREC_INBOX``; none if both are unset."""
    location = location or os.environ.get("GENREC_INBOX")
    if not location:
        return dg.Definitions()
    return dg.Definitions(
        assets=[request_file, request_predictions],
        jobs=[serve_requests, serve_again],
        sensors=[request_files],
        resources={"inbox": RequestInbox(location=location)},
    )


def built_by_their_jobs(partitioned: dg.Definitions, *graph: dg.Definitions) -> dg.Definitions:
    """Merge all definitions so that only the jobs and sensors of ``partitioned`` build its assets.

    "Materialize all" covers all assets that the page can build. If one of them has partitions, it asks for partitions
    and launches nothing without. So the graph shows these assets as external ones, with their partitions and checks.
    """
    if not partitioned.assets:
        return dg.Definitions.merge(*graph)
    whole = dg.Definitions.merge(*graph, partitioned)
    jobs = {job.name: whole.resolve_job_def(job.name) for job in partitioned.jobs or []}
    assets = [asset for asset in partitioned.assets if isinstance(asset, dg.AssetsDefinition)]
    external = dg.Definitions(
        assets=[spec for asset in assets for spec in asset.specs],
        asset_checks=[_external_checks([spec for asset in assets for spec in asset.check_specs])],
        jobs=list(jobs.values()),
        sensors=[_sensor_of(sensor, jobs) for sensor in partitioned.sensors or []],
        resources=partitioned.resources,
    )
    return dg.Definitions.merge(*graph, external)


def _external_checks(specs: Sequence[dg.AssetCheckSpec]) -> dg.AssetChecksDefinition:
    """The checks as the assets' pages show them; the jobs evaluate them with each partition."""

    @dg.multi_asset_check(specs=specs)
    def evaluated_with_each_partition() -> dg.AssetCheckResult:
        raise dg.Failure("these checks run with each partition; run the job serve_again for it", allow_retries=False)

    return evaluated_with_each_partition


def _sensor_of(sensor: dg.SensorDefinition, jobs: Mapping[str, dg.JobDefinition]) -> dg.SensorDefinition:
    """The sensor with its resolved job. Dagster would look for the job's assets in the graph, which only shows them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)  # this call passes on a beta argument
        return sensor.with_updated_job(jobs[str(sensor.job_name)])
