"""Tells the truth about runs whose process died: failed in Dagster and in MLflow, and nothing of theirs left behind.

A process that is killed hard reports nothing, and Dagster's local run launcher does not look after it: the run would
stay "started" for ever. Every run notes which process works on it; a sensor and the next ``make run`` look whether it
still lives.
"""

import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import psutil

from genrec_dagster.resources import ExperimentTracker, discard_run

WORKER_TAG, CLOSED_TAG = "genrec/worker", "genrec/closed"
TRAINED = dg.AssetKey("tiger_checkpoint")
_EVERY_SECONDS = 10
_LOOKED_BACK = timedelta(days=1)
_LOST = "the process of this run, {worker}, is gone: it was killed, or its machine went down"


def this_worker() -> str:
    """This process as ``host:process id:seconds since 1970 at its start``, which no later process shares."""
    process = psutil.Process()
    return f"{socket.gethostname()}:{process.pid}:{process.create_time():.2f}"


def note_worker(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    """Tag ``run`` with this process, which works on it."""
    worker = this_worker()
    if run.tags.get(WORKER_TAG) != worker and instance.has_run(run.run_id):
        instance.add_run_tags(run.run_id, {WORKER_TAG: worker})


def is_gone(worker: str) -> bool:
    """Whether a process of this machine has ended; of another machine's nothing is known, and it counts as alive."""
    host, number, started = worker.rsplit(":", 2)
    if host != socket.gethostname():
        return False
    try:
        process = psutil.Process(int(number))
        return f"{process.create_time():.2f}" != started or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def fail_lost_runs(instance: dg.DagsterInstance, tracker: ExperimentTracker, storage: Path) -> list[str]:
    """End the runs whose process is gone, and their trainings in MLflow; remove what they left half-written.

    Dagster's own run monitoring may see first that a process is gone, and knows nothing of the rest: runs of the last
    day that ended badly are closed here too, once each. A training that came to its end, but not into the storage, has
    failed with its run.

    Args:
        instance: where the runs are recorded.
        tracker: where trainings are.
        storage: the root of the storage.

    Returns:
        The ids of the runs that were still in progress for Dagster.
    """
    in_progress = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.CANCELING]
    lost = []
    for run in instance.get_runs(dg.RunsFilter(statuses=in_progress)):
        worker = run.tags.get(WORKER_TAG)
        if worker is None or not is_gone(worker):
            continue
        if run.status == dg.DagsterRunStatus.CANCELING:
            instance.report_run_canceled(run, _LOST.format(worker=worker))
        else:
            instance.report_run_failed(run, _LOST.format(worker=worker))
        lost.append(run.run_id)
    ended_badly = [dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
    for run in instance.get_runs(dg.RunsFilter(statuses=ended_badly, updated_after=datetime.now(UTC) - _LOOKED_BACK)):
        worker = run.tags.get(WORKER_TAG)
        if worker is None or CLOSED_TAG in run.tags or not is_gone(worker):
            continue
        status = "KILLED" if run.status == dg.DagsterRunStatus.CANCELED else "FAILED"
        tracker.end_runs_of(run.run_id, status, trained=_built(instance, run.run_id, TRAINED))
        discard_run(storage, run.run_id)
        instance.add_run_tags(run.run_id, {CLOSED_TAG: "true"})
    return lost


def _built(instance: dg.DagsterInstance, run: str, asset: dg.AssetKey) -> bool:
    """Whether the run came as far as to store the asset."""
    made = instance.get_records_for_run(run, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION).records
    return any(record.asset_key == asset for record in made)


def lost_runs_sensor(tracker: ExperimentTracker, storage: Path) -> dg.SensorDefinition:
    """The sensor that looks for lost runs."""

    @dg.sensor(
        name="lost_runs",
        minimum_interval_seconds=_EVERY_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Fails the runs whose process was killed, in Dagster and in MLflow.",
    )
    def lost_runs(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        lost = fail_lost_runs(context.instance, tracker, storage)
        return dg.SkipReason(f"failed {', '.join(lost)}: their processes are gone" if lost else "every run is alive")

    return lost_runs
