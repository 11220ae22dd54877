"""Training as a step of the graph: torchrun under Dagster Pipes. It can be resumed, and its failures are named."""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path

import dagster as dg
from dagster._core.errors import DagsterExecutionInterruptedError, DagsterPipesExecutionError

from genrec_core.errors import GenrecError
from genrec_core.settings import RendezvousSettings, TrainingSettings
from genrec_core.storage.artifacts import FRAME, atomic_file, locked, read_json, recovered
from genrec_core.tiger.job import FAILURE_FILE, JOB_FILE, TrainingJob
from genrec_core.tiger.torchrun import torchrun_command
from genrec_dagster.config import PRESET_NAME
from genrec_dagster.experiment import data_name, name_run
from genrec_dagster.failures import PlainFailureError
from genrec_dagster.kubernetes import PodsFailedError, TrainingPods
from genrec_dagster.metadata import content_version
from genrec_dagster.resources import ExperimentTracker, WorkFolders

_RETRIES = 1


class TrackedJob(TrainingJob):
    """The file that all ranks read; the training is a run of MLflow."""

    tracking_uri: str
    mlflow_run: str


def training_key(settings: TrainingSettings, data_versions: Mapping[str, str]) -> str:
    """A hash of settings and input data. A retry has the same key, so it continues the training."""
    content = json.dumps([settings.model_dump(mode="json"), dict(data_versions)], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def prepare_job(
    context: dg.AssetExecutionContext,
    inputs: Mapping[str, Path],
    settings: TrainingSettings,
    work: WorkFolders,
    tracker: ExperimentTracker,
) -> TrackedJob:
    """The job of a training: its work folder and MLflow run are those of an earlier attempt, if there was one."""
    versions = {name: content_version(folder).value for name, folder in inputs.items()}
    key = training_key(settings, versions)
    tags = {
        "dagster_run": context.run.run_id,
        "code": code_revision(),
        **{f"data.{name}": value for name, value in versions.items()},
    }
    mlflow_run = tracker.open_run(key, tags, settings.model_dump())
    refitted = ("all interactions",) if "tiger_checkpoint" in inputs else ()
    name_run(tracker.client(), mlflow_run, data_name(context.instance), PRESET_NAME, *refitted)
    return TrackedJob(
        histories=inputs["user_histories"] / FRAME,
        semantic_ids=inputs["semantic_ids"],
        embeddings=inputs["item_embeddings"],
        settings=settings,
        folder=work.training(key),
        tracking_uri=tracker.tracking_uri,
        mlflow_run=mlflow_run,
        measured=inputs.get("tiger_checkpoint"),
    )


def new_beside_another(job: TrackedJob) -> str:
    """Why this training starts at epoch 0 although the storage holds another one; empty if it does not."""
    others = [path for path in job.folder.parent.glob(f"*/{JOB_FILE}") if path.parent != job.folder]
    others = [path for path in others if recovered(path.parent / "state").is_dir()]
    others = [path for path in others if not read_json(path).get("measured")]  # refitted
    if recovered(job.folder / "state").is_dir() or not others:
        return ""
    newest = max(others, key=lambda path: path.stat().st_mtime)
    before = read_json(newest)["settings"]
    changed = sorted(name for name, value in job.settings.model_dump(mode="json").items() if before.get(name) != value)
    reason = f"the settings differ in {', '.join(changed)}" if changed else "the data differ"
    return f"trains from epoch 0, although the training in {newest.parent} is there: {reason}"


def code_revision() -> str:
    """The git commit of the code, or the package version if there is no checkout or no git."""
    if shutil.which("git"):
        command = ["git", "rev-parse", "HEAD"]
        git = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
        if git.returncode == 0:
            return git.stdout.strip()
    return f"genrec {version('genrec')}"


@contextmanager
def tracked_run(tracker: ExperimentTracker, run_id: str) -> Iterator[None]:
    """End an MLflow run as FINISHED, as KILLED after an interrupt, or as FAILED after another error."""
    status = "FAILED"
    try:
        yield
        status = "FINISHED"
    except (DagsterExecutionInterruptedError, KeyboardInterrupt):
        status = "KILLED"
        raise
    finally:
        tracker.client().set_terminated(run_id, status)


@contextmanager
def only_training(folder: Path, log: Callable[[str], object]) -> Iterator[None]:
    """Lock the work folder of a training. A second run of the same training waits, and says so by ``log``."""
    lock, busy = folder / "step.lock", f"another run trains the same model in {folder}; waiting for it to end"
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(lock, busy))
        except GenrecError as error:
            log(str(error))
            stack.enter_context(locked(lock))
        yield


def refit(
    context: dg.AssetExecutionContext,
    inputs: Mapping[str, Path],
    work: WorkFolders,
    tracker: ExperimentTracker,
    pipes: dg.PipesSubprocessClient | TrainingPods,
    rendezvous: RendezvousSettings,
) -> Path:
    """Train the recipe of ``tiger_checkpoint`` again on all interactions; a retry continues it. Returns the model."""
    from genrec_core.tiger.refit import refit_settings

    job = prepare_job(context, inputs, refit_settings(inputs["tiger_checkpoint"]), work, tracker)
    context.log.info(f"training the model again on all interactions, in {job.folder}")
    with only_training(job.folder, context.log.info), tracked_run(tracker, job.mlflow_run):
        run_torchrun(context, pipes, job, rendezvous)
    return job.folder / "best"


def run_torchrun(
    context: dg.AssetExecutionContext,
    pipes: dg.PipesSubprocessClient | TrainingPods,
    job: TrackedJob,
    rendezvous: RendezvousSettings,
) -> None:
    """Train by torchrun, as a process here or in pods. Loss and recall appear in the log of the step.

    Raises:
        dg.Failure: a rank refused its settings or data.
        dg.RetryRequested: a rank failed otherwise. A ``RetryPolicy`` would also retry what a user has interrupted.
    """
    job_file, failure_file = job.folder / JOB_FILE, job.folder / FAILURE_FILE
    failure_file.unlink(missing_ok=True)
    with atomic_file(job_file) as part:
        part.write_text(job.model_dump_json(indent=2), encoding="utf-8")
    try:
        if isinstance(pipes, TrainingPods):
            pipes.run(context, partial(_pod_command, job, job_file, failure_file), rendezvous, job.folder.name)
        else:
            _log_how_to_join(context, job_file, rendezvous)
            command, environment = training_command(job, rendezvous, job_file, failure_file)
            pipes.run(context=context, command=command, env=environment)
    except (DagsterPipesExecutionError, PodsFailedError) as error:
        failure = _named_failure(failure_file, error)
        if failure.allow_retries:
            raise dg.RetryRequested(max_retries=_RETRIES, seconds_to_wait=1) from failure
        raise failure from error


def training_command(
    job: TrackedJob,
    rendezvous: RendezvousSettings,
    job_file: Path,
    failure_file: Path,
    python: str = sys.executable,
    parent: int | None = None,
) -> tuple[list[str], dict[str, str]]:
    """Command and environment of the ranks of one machine; see :func:`torchrun_command`."""
    worker = ["-m", "genrec_dagster.training_worker", str(job_file)]
    return torchrun_command(job.settings, rendezvous, worker, failure_file, python, parent)


def _pod_command(
    job: TrackedJob, job_file: Path, failure_file: Path, rendezvous: RendezvousSettings
) -> tuple[list[str], dict[str, str]]:
    """Command and environment of one machine's container. Its first process has the parent number 0."""
    if rendezvous.node_rank > 0:
        failure_file = failure_file.with_suffix(f".{rendezvous.node_rank}.json")
    return training_command(job, rendezvous, job_file, failure_file, python="python", parent=0)


def _log_how_to_join(context: dg.AssetExecutionContext, job_file: Path, rendezvous: RendezvousSettings) -> None:
    for rank in range(1, rendezvous.nodes):
        variables = f"GENREC_NODES={rendezvous.nodes} GENREC_NODE_RANK={rank} GENREC_RENDEZVOUS={rendezvous.endpoint}"
        command = f"{variables} GENREC_INTERFACE=... python -m genrec_dagster.training_node {job_file}"
        context.log.info(f"waiting for node {rank}; run there: {command}")


def _named_failure(failure_file: Path, error: Exception) -> dg.Failure:
    if not failure_file.is_file():
        return dg.Failure(f"torchrun failed before any rank did: {error}; see the step's stderr")
    failure = read_json(failure_file)
    sentence = f"rank {failure['rank']} failed: {failure['message']}"
    metadata = {"rank": failure["rank"], "exit_code": failure["exit_code"]}
    if failure["message"].startswith(GenrecError.__name__):
        return PlainFailureError(sentence, metadata)
    return dg.Failure(sentence, metadata)
