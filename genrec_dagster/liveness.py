"""Fails the runs whose process was killed, in Dagster and in MLflow, and removes their unfinished files.

A killed process reports nothing, and Dagster's local run launcher does not watch it, so the run would stay "started".
Each run notes its process in a tag. A sensor, and the next ``make run``, check whether that process is alive.
"""

import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import psutil

from genrec_dagster.resources import ExperimentTracker, WorkFolders, discard_run

WORKER_TAG, CLOSED_TAG = "genrec/worker", "genrec/closed"
_EVERY_SECONDS = 10
_LOOKED_BACK = timedelta(days=1)


def this_worker() -> str:
    """This process as ``host:process id:start time``. The start time, in seconds since 1970, makes it unique."""
    process = psutil.Process()
    return f"{socket.gethostname()}:{process.pid}:{process.create_time():.2f}"


def note_worker(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    """Tag ``run`` with this process."""
    worker = this_worker()
    if run.tags.get(WORKER_TAG) != worker and instance.has_run(run.run_id):
        instance.add_run_tags(run.run_id, {WORKER_TAG: worker})


def is_gone(worker: str) -> bool:
    """Whether a process of this machine has ended. A process of another machine counts as alive."""
    host, number, started = worker.rsplit(":", 2)
    if host != socket.gethostname():
        return False
    try:
        process = psutil.Process(int(number))
        return f"{process.create_time():.2f}" != started or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def fail_lost_runs(instance: dg.DagsterInstance, tracker: ExperimentTracker, storage: Path) -> list[str]:
    """End the runs whose process is gone, and their MLflow runs; remove their unfinished files from ``storage``.

    Dagster's run monitoring may fail such a run first, but it knows nothing of MLflow and the storage. So the runs of
    the last day that ended badly are cleaned up too, once each. Returns the runs that Dagster still took for alive.
    """
    in_progress = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.CANCELING]
    lost = [run for run in instance.get_runs(dg.RunsFilter(statuses=in_progress)) if _is_lost(run)]
    for run in lost:
        message = f"its process, {run.tags[WORKER_TAG]}, is gone: it was killed, or its machine went down"
        if run.status == dg.DagsterRunStatus.CANCELING:
            instance.report_run_canceled(run, message)
        else:
            instance.report_run_failed(run, message)
    ended_badly = [dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
    for run in instance.get_runs(dg.RunsFilter(statuses=ended_badly, updated_after=datetime.now(UTC) - _LOOKED_BACK)):
        if _is_lost(run) and CLOSED_TAG not in run.tags:
            status = "KILLED" if run.status == dg.DagsterRunStatus.CANCELED else "FAILED"
            tracker.end_runs_of(run.run_id, status, trained=_stored_checkpoint(instance, run.run_id))
            discard_run(storage, run.run_id)
            instance.add_run_tags(run.run_id, {CLOSED_TAG: "true"})
    return [run.run_id for run in lost]


def _is_lost(run: dg.DagsterRun) -> bool:
    return WORKER_TAG in run.tags and is_gone(run.tags[WORKER_TAG])


def _stored_checkpoint(instance: dg.DagsterInstance, run: str) -> bool:
    """Whether the run stored its checkpoint. If it did not, its training has failed, even if MLflow says FINISHED."""
    records = instance.get_records_for_run(run, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION).records
    return any(record.asset_key == dg.AssetKey("tiger_checkpoint") for record in records)


@dg.sensor(
    minimum_interval_seconds=_EVERY_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Fails the runs whose process was killed, in Dagster and in MLflow.",
)
def lost_runs(context: dg.SensorEvaluationContext, tracker: ExperimentTracker, work: WorkFolders) -> dg.SkipReason:
    """Call :func:`fail_lost_runs`."""
    lost = fail_lost_runs(context.instance, tracker, work.storage)
    return dg.SkipReason(f"failed {', '.join(lost)}: their processes are gone" if lost else "all runs are alive")
