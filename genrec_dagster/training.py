"""Training as a step: torchrun under Dagster Pipes, resumable, with its failures named."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import dagster as dg
from dagster._core.errors import DagsterExecutionInterruptedError, DagsterPipesExecutionError
from filelock import FileLock, Timeout
from pydantic import BaseModel

from genrec_core.artifacts import read_json
from genrec_core.settings import TrainingSettings
from genrec_dagster.io_manager import FRAME
from genrec_dagster.metadata import content_version
from genrec_dagster.resources import ExperimentTracker, WorkFolders

_RETRIES = 1


class TrainingJob(BaseModel):
    """What every rank reads: where the data lies, how to train, where to write and to report."""

    histories: Path
    semantic_ids: Path
    embeddings: Path
    settings: TrainingSettings
    folder: Path
    tracking_uri: str
    mlflow_run: str


def training_key(settings: TrainingSettings, data_versions: Mapping[str, str]) -> str:
    """A hash of settings and input data: the same key is the same training, so that a retry goes on with it."""
    content = json.dumps([settings.model_dump(mode="json"), dict(data_versions)], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def prepare_job(
    run: str, inputs: Mapping[str, Path], settings: TrainingSettings, work: WorkFolders, tracker: ExperimentTracker
) -> TrainingJob:
    """Find the work folder and the MLflow run of this training: the earlier attempt's, where there was one.

    Args:
        run: the Dagster run.
        inputs: folders of ``user_histories``, ``semantic_ids`` and ``item_embeddings``.
        settings: how to train.
        work: where work folders lie.
        tracker: where the training is logged.
    """
    versions = {name: content_version(folder).value for name, folder in inputs.items()}
    key = training_key(settings, versions)
    tags = {"dagster_run": run, "code": code_revision(), **{f"data.{name}": value for name, value in versions.items()}}
    return TrainingJob(
        histories=inputs["user_histories"] / FRAME,
        semantic_ids=inputs["semantic_ids"],
        embeddings=inputs["item_embeddings"],
        settings=settings,
        folder=work.training(key),
        tracking_uri=tracker.tracking_uri,
        mlflow_run=tracker.open_run(key, tags, settings.model_dump()),
    )


def code_revision() -> str:
    """The git commit of the code, or the package version where it is not a checkout or git is not installed."""
    if not shutil.which("git"):
        return f"genrec {version('genrec')}"
    asked = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return asked.stdout.strip() if asked.returncode == 0 else f"genrec {version('genrec')}"


@contextmanager
def tracked_run(tracker: ExperimentTracker, run_id: str) -> Iterator[None]:
    """Close an MLflow run as it ended: FINISHED, KILLED if it was interrupted, FAILED otherwise."""
    try:
        yield
    except (DagsterExecutionInterruptedError, KeyboardInterrupt):
        tracker.close_run(run_id, "KILLED")
        raise
    except BaseException:
        tracker.close_run(run_id, "FAILED")
        raise
    tracker.close_run(run_id, "FINISHED")


@contextmanager
def only_training(folder: Path, say: Callable[[str], object]) -> Iterator[None]:
    """Hold the work folder of a training: a second run of the same training waits, then finds it done.

    The system frees the lock with the process that holds it.

    Args:
        folder: from :meth:`genrec_dagster.resources.WorkFolders.training`.
        say: is told that this run waits.
    """
    lock = FileLock(folder / "step.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"another run trains the same model in {folder}; waiting for it to end")
        lock.acquire(poll_interval=1)
    try:
        yield
    finally:
        lock.release()


def run_torchrun(context: dg.AssetExecutionContext, pipes: dg.PipesSubprocessClient, job: TrainingJob) -> None:
    """Train with as many processes as the settings say; their loss and recall appear in this step's log.

    Raises:
        dg.Failure: a rank refused its settings or data; the message names it.
        dg.RetryRequested: a rank failed otherwise, for instance killed for its memory; its cause names it. Not a
            ``RetryPolicy``, because that one also tries again what a user has interrupted.
    """
    job_file, failure_file = job.folder / "job.json", job.folder / "failure.json"
    job_file.write_text(job.model_dump_json(indent=2), encoding="utf-8")
    failure_file.unlink(missing_ok=True)
    try:
        pipes.run(
            context=context,
            command=torchrun_command(job.settings.processes, job_file, failure_file),
            env={"OMP_NUM_THREADS": str(job.settings.threads_per_process), "GLOO_SOCKET_IFNAME": "lo"},
        )
    except DagsterPipesExecutionError as error:
        failure = _named_failure(failure_file, error)
        if failure.allow_retries:
            raise dg.RetryRequested(max_retries=_RETRIES, seconds_to_wait=1) from failure
        raise failure from error


def torchrun_command(processes: int, job_file: Path, failure_file: Path) -> list[str]:
    """The command line: the launcher, torchrun's arguments, the worker.

    The rendezvous is on the loopback address and a free port; ``--standalone`` would ask for the machine's name.
    """
    launcher = [sys.executable, "-m", "genrec_dagster.launcher", str(os.getpid()), str(failure_file)]
    rendezvous = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1"]
    torchrun = ["--nnodes", "1", "--nproc-per-node", str(processes), "--max-restarts", "0", *rendezvous]
    return [*launcher, *torchrun, "-m", "genrec_dagster.training_worker", str(job_file)]


def _named_failure(failure_file: Path, error: DagsterPipesExecutionError) -> dg.Failure:
    if not failure_file.is_file():
        return dg.Failure(f"torchrun failed before any rank did: {error}; see the step's stderr")
    failure = read_json(failure_file)
    return dg.Failure(
        f"rank {failure['rank']} failed: {failure['message']}",
        metadata={"rank": failure["rank"], "exit_code": failure["exit_code"]},
        allow_retries=not failure["message"].startswith("GenrecError"),
    )
