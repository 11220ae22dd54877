"""Training as a step: torchrun under Dagster Pipes, resumable, with its failures named."""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path

import dagster as dg
from dagster._core.errors import DagsterExecutionInterruptedError, DagsterPipesExecutionError
from filelock import FileLock, Timeout
from pydantic import BaseModel

from genrec_core.errors import GenrecError
from genrec_core.settings import RendezvousSettings, TrainingSettings
from genrec_core.storage.artifacts import atomic_file, read_json, recovered
from genrec_core.tiger.torchrun import torchrun_command
from genrec_dagster.failures import PlainFailureError
from genrec_dagster.io_manager import FRAME
from genrec_dagster.kubernetes import PodsFailedError, TrainingPods
from genrec_dagster.metadata import content_version
from genrec_dagster.resources import ExperimentTracker, WorkFolders

JOB_FILE = "job.json"
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


def new_beside_another(job: TrainingJob) -> str:
    """Why this training begins at epoch 0 although the work folder of an earlier one is there; else empty."""
    others = [path for path in job.folder.parent.glob(f"*/{JOB_FILE}") if path.parent != job.folder]
    others = [path for path in others if recovered(path.parent / "state").is_dir()]
    if recovered(job.folder / "state").is_dir() or not others:
        return ""
    newest = max(others, key=lambda path: path.stat().st_mtime)
    before = read_json(newest)["settings"]
    changed = sorted(name for name, value in job.settings.model_dump(mode="json").items() if before.get(name) != value)
    reason = f"the settings differ in {', '.join(changed)}" if changed else "the data differ"
    return f"trains from epoch 0, although the training in {newest.parent} is there: {reason}"


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


def run_torchrun(
    context: dg.AssetExecutionContext,
    pipes: dg.PipesSubprocessClient | TrainingPods,
    job: TrainingJob,
    rendezvous: RendezvousSettings,
) -> None:
    """Train with as many processes as the settings say; their loss and recall appear in this step's log.

    Args:
        context: of the step.
        pipes: what starts torchrun: a process here, or pods.
        job: the training.
        rendezvous: where other machines join it; each of them runs :mod:`genrec_dagster.training_node`.

    Raises:
        dg.Failure: a rank refused its settings or data; the message names it.
        dg.RetryRequested: a rank failed otherwise, for instance killed for its memory; its cause names it. Not a
            ``RetryPolicy``, because that one also tries again what a user has interrupted.
    """
    job_file, failure_file = job.folder / JOB_FILE, job.folder / "failure.json"
    failure_file.unlink(missing_ok=True)
    with atomic_file(job_file) as part:
        part.write_text(job.model_dump_json(indent=2), encoding="utf-8")
    try:
        if isinstance(pipes, TrainingPods):
            pipes.run(context, partial(_in_pod, job, job_file, failure_file), rendezvous, job.folder.name)
        else:
            _say_how_to_join(context, job_file, rendezvous)
            command, environment = training_command(job, rendezvous, job_file, failure_file)
            pipes.run(context=context, command=command, env=environment)
    except (DagsterPipesExecutionError, PodsFailedError) as error:
        failure = _named_failure(failure_file, error)
        if failure.allow_retries:
            raise dg.RetryRequested(max_retries=_RETRIES, seconds_to_wait=1) from failure
        raise failure from error


def training_command(
    job: TrainingJob,
    rendezvous: RendezvousSettings,
    job_file: Path,
    failure_file: Path,
    python: str = sys.executable,
    parent: int | None = None,
) -> tuple[list[str], dict[str, str]]:
    """Command and environment of one machine's worker processes; see :func:`torchrun_command`."""
    worker = ["-m", "genrec_dagster.training_worker", str(job_file)]
    return torchrun_command(job.settings, rendezvous, worker, failure_file, python, parent)


def _in_pod(
    job: TrainingJob, job_file: Path, failure_file: Path, rendezvous: RendezvousSettings
) -> tuple[list[str], dict[str, str]]:
    """Command and environment of one machine's container, whose first process has no parent: number 0."""
    notes = failure_file if rendezvous.node_rank == 0 else failure_file.with_suffix(f".{rendezvous.node_rank}.json")
    return training_command(job, rendezvous, job_file, notes, python="python", parent=0)


def _say_how_to_join(context: dg.AssetExecutionContext, job_file: Path, rendezvous: RendezvousSettings) -> None:
    for rank in range(1, rendezvous.nodes):
        join = f"python -m genrec_dagster.training_node {job_file}"
        settings = f"GENREC_NODES={rendezvous.nodes} GENREC_NODE_RANK={rank} GENREC_RENDEZVOUS={rendezvous.endpoint}"
        context.log.info(f"waiting for node {rank}; run there: {settings} GENREC_INTERFACE=... {join}")


def _named_failure(failure_file: Path, error: Exception) -> dg.Failure:
    if not failure_file.is_file():
        return dg.Failure(f"torchrun failed before any rank did: {error}; see the step's stderr")
    failure = read_json(failure_file)
    sentence = f"rank {failure['rank']} failed: {failure['message']}"
    metadata = {"rank": failure["rank"], "exit_code": failure["exit_code"]}
    if failure["message"].startswith(GenrecError.__name__):
        return PlainFailureError(sentence, metadata)
    return dg.Failure(sentence, metadata)
