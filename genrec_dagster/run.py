"""``python -m genrec_dagster.run`` runs the whole graph in this process and prints its progress.

It writes a summary to ``last_run.json`` in the storage. The run is stored in ``DAGSTER_HOME``, so the UI shows it.
"""

import logging
import os
import sys
import threading
import time
import uuid
import warnings
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import dagster as dg
import psutil
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.definitions.reconstruct import ReconstructableRepository
from dagster._core.definitions.repository_definition import SINGLETON_REPOSITORY_NAME
from dagster._core.execution.api import execute_run
from dagster._core.remote_origin import RemoteRepositoryOrigin
from dagster._core.workspace.load import location_origin_from_module_name

from genrec_core.evaluation.evaluate import METRICS_FILE, RANKINGS
from genrec_core.storage.artifacts import read_json, write_json
from genrec_core.storage.folders import latest, storage_root
from genrec_dagster.assets.serving import PREDICTIONS
from genrec_dagster.failures import INTERRUPTED, failure_reason, is_failed_gate
from genrec_dagster.instance import prepare_home
from genrec_dagster.metadata import markdown_table
from genrec_dagster.training import code_revision
from genrec_dagster.ui import address_list

CODE, LOCATION = "genrec_dagster.definitions", "genrec"  # as in workspace.yaml
LAST_RUN = "last_run.json"
_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
_SAMPLE_SECONDS = 0.5
_MEGABYTE = 1 << 20
say = partial(print, flush=True)


class PeakMemory:
    """The largest resident memory of this process and its children together, sampled while the block runs.

    Pages that processes share are counted once for each process, so the figure is too high rather than too low.
    """

    def __enter__(self) -> "PeakMemory":
        self.megabytes, self._done = 0.0, threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self._sampler.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._sampler.join()

    def _sample(self) -> None:
        this = psutil.Process()
        while not self._done.wait(_SAMPLE_SECONDS):
            processes = [this, *this.children(recursive=True)]
            self.megabytes = max(self.megabytes, sum(map(_resident_bytes, processes)) / _MEGABYTE)


def _resident_bytes(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:  # it has ended since it was listed
        return 0


@dataclass
class RunReport:
    """Listens to the events of a run: prints a line for each important one, and keeps times and failures."""

    assets: set[str]  # the other steps are checks
    asset_seconds: dict[str, float] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)  # a sentence for each failed step or gate
    _started: dict[str, float] = field(default_factory=dict)

    def __call__(self, entry: dg.EventLogEntry) -> None:
        """Handle one event."""
        event = entry.dagster_event
        if event is None:
            self._message(entry)
        elif event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            self._check(event.asset_check_evaluation_data)
        elif event.step_key in self.assets:
            self._asset(event, event.step_key, entry.timestamp)
        elif event.event_type == dg.DagsterEventType.STEP_FAILURE and not is_failed_gate(event):
            self._fail(f"{event.step_key}: {failure_reason(event)}")

    def _message(self, entry: dg.EventLogEntry) -> None:
        """Print the log lines of steps, and the assets that do not run because of a failure before them."""
        if "Not executing." in entry.user_message:
            if entry.step_key in self.assets:
                say(f"{entry.step_key} not run")
        elif entry.step_key and isinstance(entry.level, int) and entry.level >= logging.INFO:
            say(f"    {entry.user_message}")

    def _asset(self, event: dg.DagsterEvent, name: str, timestamp: float) -> None:
        kind = event.event_type
        if kind == dg.DagsterEventType.STEP_START:
            self._started[name] = timestamp
            say(f"{name} ...")
        elif kind == dg.DagsterEventType.STEP_SUCCESS:
            self.asset_seconds[name] = round(timestamp - self._started[name], 2)
            say(f"{name} done in {self.asset_seconds[name]:.1f} s")
        elif kind == dg.DagsterEventType.STEP_UP_FOR_RETRY:
            say(f"{name} failed and is retried")
        elif kind == dg.DagsterEventType.STEP_FAILURE:
            self._fail(f"{name}: {failure_reason(event)}")

    def _check(self, evaluation: Any) -> None:
        name = f"{evaluation.asset_key.to_user_string()} {evaluation.check_name}"
        mark = "pass" if evaluation.passed else evaluation.severity.value
        say(f"    {mark:5} {name}: {evaluation.description}")
        if not evaluation.passed and evaluation.blocking:
            self.failures.append(f"gate {name}: {evaluation.description}")

    def _fail(self, failure: str) -> None:
        say(f"FAILED {failure}")
        self.failures.append(failure)


def main() -> int:
    """Run the whole graph. The exit code is 0 only if all assets were built and all gates passed."""
    from genrec_dagster.config import PRESET_NAME
    from genrec_dagster.definitions import TRACKER, defs
    from genrec_dagster.liveness import fail_lost_runs

    _quieten()
    home = prepare_home()
    job = defs.resolve_job_def("full_graph")
    report = RunReport({key.to_python_identifier() for key in job.asset_layer.executable_asset_keys})
    run_id, began = str(uuid.uuid4()), time.monotonic()
    say(f"preset {PRESET_NAME}, storage {storage_root()}, Dagster home {home}, run {run_id}")
    status = "CANCELED"
    with dg.DagsterInstance.get() as instance, PeakMemory() as memory:
        for lost in fail_lost_runs(instance, TRACKER, storage_root()):
            say(f"run {lost} is marked as failed: its process is gone")
        instance.add_event_listener(run_id, report)
        try:
            execute(job, instance, run_id, tags={"preset": PRESET_NAME})
            run = instance.get_run_by_id(run_id)
            # Dagster's in-process executor calls an interrupted run a failed one.
            interrupted = any(failure.endswith(f": {INTERRUPTED}") for failure in report.failures)
            status = "CANCELED" if not run or interrupted else run.status.value
        finally:
            record = {
                "run_id": run_id,
                "status": status,
                "preset": PRESET_NAME,
                "asset_seconds": report.asset_seconds,
                "total_seconds": round(time.monotonic() - began, 2),
                "peak_mb": round(memory.megabytes, 1),
                "commit": code_revision(),
                "failures": report.failures,
            }
            write_json(storage_root() / LAST_RUN, record)
    return _conclude(record)


def execute(job: dg.JobDefinition, instance: dg.DagsterInstance, run_id: str, tags: dict[str, str]) -> None:
    """Execute ``job`` in this process, as a run of the code location in ``workspace.yaml``.

    ``execute_in_process`` names no code location, so the UI would not show the run on its job's page and timeline.
    """
    repository = ReconstructableRepository.for_module(CODE, "defs")
    location = location_origin_from_module_name(CODE, None, None, LOCATION)
    run = instance.create_run_for_job(
        job,
        run_id=run_id,
        run_config=_QUIET,
        tags=tags,
        remote_job_origin=RemoteRepositoryOrigin(location, SINGLETON_REPOSITORY_NAME).get_job_origin(job.name),
        job_code_origin=repository.get_reconstructable_job(job.name).get_python_origin(),
    )
    execute_run(InMemoryJob(job), run, instance)


def _quieten() -> None:
    """Hide the progress bars and notices of other libraries, here and in the ranks of the training."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    for category in (dg.PreviewWarning, dg.BetaWarning):
        warnings.simplefilter("ignore", category)


def _conclude(record: dict[str, Any]) -> int:
    """Print how the run ended, and return the exit code."""
    say(f"\n{record['status']} after {record['total_seconds']:.0f} s, peak memory {record['peak_mb']:.0f} MB")
    if record["status"] != "SUCCESS":
        for failure in record["failures"]:
            say(f"  {failure}")
        return 1
    metrics = read_json(latest("recall_metrics") / METRICS_FILE)
    rankings = [ranking for ranking in RANKINGS if ranking in metrics]
    names = [name for name, value in metrics["popularity"].items() if isinstance(value, float)]
    rows = [{"test": name, **{ranking: metrics[ranking][name] for ranking in rankings}} for name in names]
    say(markdown_table(rows))
    say(f"\npredictions: {latest('batch_predictions') / PREDICTIONS}")
    say(f"after `make ui`:\n{address_list(storage_root())}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
