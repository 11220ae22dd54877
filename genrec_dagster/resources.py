"""What assets use: folders to build in, MLflow, and progress in the log."""

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import dagster as dg

from genrec_core.errors import GenrecError
from genrec_core.storage.artifacts import recovered, told_when_full
from genrec_core.storage.redact import without_secrets

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "genrec"
# MLflow's UI opens an experiment as one of GenAI traces unless the address says otherwise; other versions read the tag.
TRAINING_VIEW = "?workflowType=machine_learning"
_TRAINING_KIND = ("mlflow.experimentKind", "custom_model_development")
EXPERIMENT_FILE = "experiment.json"  # of a checkpoint: which MLflow run trained it
UI_PORT, DEFAULT_UI_PORT = "UI_PORT", "3000"
MLFLOW_PORT, DEFAULT_MLFLOW_PORT = "MLFLOW_PORT", "5000"
_SQLITE = "sqlite:///"
_MLFLOW_HOME = Path(".genrec") / "mlflow"
_WORK = ".work"
_SHOWN_CHARACTERS = 300  # of MLflow's error text
_PROGRESS_SECONDS = 15.0


class WorkFolders(dg.ConfigurableResource[None]):
    """The storage of all assets, and the folders in it where they are built."""

    root: str  # work folders are dot-folders of it, so that handing one over is a rename

    @property
    def storage(self) -> Path:
        """The storage's folder."""
        return Path(self.root).absolute()

    @contextmanager
    def new(self, context: dg.AssetExecutionContext) -> Iterator[Path]:
        """An empty folder for this run of the asset. It is removed on an error, and else left for the IO manager."""
        folder = self.storage / _WORK / context.asset_key.to_python_identifier() / context.run.run_id
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            with told_when_full(folder):
                yield folder
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    @property
    def embedding(self) -> Path:
        """Where unfinished embeddings keep their vectors, so that a later run continues."""
        return self.storage / ".embedding"

    def training(self, key: str) -> Path:
        """The folder of a training. It stays after the run, so that a retry continues in it."""
        folder = self.storage / ".training" / key
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def discard_run(root: Path, run_id: str) -> None:
    """Remove unfinished files of a killed run from the storage ``root``. Finished versions and trainings stay."""
    asset_folders = ("*", "*/*")  # an asset, or a partition of an asset
    for replaced in [path for folder in asset_folders for path in root.glob(f"{folder}/.{run_id}.*.old")]:
        recovered(replaced.with_name(run_id))  # the run may have died while it replaced its own version
    unfinished = [f"{folder}/.{run_id}.*.{end}" for folder in asset_folders for end in ("part", "old", "gone")]
    for pattern in (f"{_WORK}/*/{run_id}", *unfinished):
        for path in root.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)


def progress_log(context: dg.AssetExecutionContext, what: str) -> Callable[[int, int], None]:
    """A callback that logs ``what`` with the done and the total amount, every few seconds."""
    reported = time.monotonic()

    def listen(done: int, total: int) -> None:
        nonlocal reported
        if time.monotonic() - reported >= _PROGRESS_SECONDS:
            reported = time.monotonic()
            context.log.info(f"{what}: {done:,} of {total:,}")

    return listen


def tracking_uri() -> str:
    """``MLFLOW_TRACKING_URI``; if it is unset, a SQLite file under ``.genrec/mlflow``."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"{_SQLITE}{(_MLFLOW_HOME / 'mlflow.db').absolute()}"


def noted_uri() -> str:
    """The address of :func:`tracking_uri` without user, password and query, to be shown and stored."""
    return without_secrets(tracking_uri())


def usable_uri(noted: str) -> str:
    """The address that ``noted`` shows, with the user and password that this process knows for it."""
    return tracking_uri() if noted == noted_uri() else noted


def artifact_root() -> str | None:
    """Where a new experiment keeps its artefacts: beside a local database; None if a tracking server decides."""
    uri = tracking_uri()
    if not uri.startswith(_SQLITE):
        return None
    return (Path(uri.removeprefix(_SQLITE)).absolute().parent / "artifacts").as_uri()


def mlflow_ui(tracking_uri: str) -> str:
    """The address of MLflow's UI, without user, password and query.

    It is ``GENREC_MLFLOW_UI`` if that is set. Otherwise it is the tracking server's address, or for a local store the
    address at which ``make ui`` serves it.
    """
    named = os.environ.get("GENREC_MLFLOW_UI")
    address = (named if "://" in named else f"http://{named}") if named else tracking_uri
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https"):
        return f"http://127.0.0.1:{os.environ.get(MLFLOW_PORT) or DEFAULT_MLFLOW_PORT}"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/")


def dagster_ui() -> str:
    """The address of Dagster's UI for links: ``GENREC_UI_URL``, else where ``make ui`` serves it."""
    named = os.environ.get("GENREC_UI_URL")
    return named.rstrip("/") if named else f"http://127.0.0.1:{os.environ.get(UI_PORT) or DEFAULT_UI_PORT}"


def prepare_store(uri: str) -> None:
    """Create the folder of a local database."""
    if uri.startswith(_SQLITE):
        Path(uri.removeprefix(_SQLITE)).parent.mkdir(parents=True, exist_ok=True)


class ExperimentTracker(dg.ConfigurableResource[None]):
    """MLflow, where trainings are logged and releases registered. Its address is shown without a password."""

    # Not dagster-mlflow's resource: tests/README.md says why. MLflow itself is imported on first use.
    tracking_uri: str
    artifact_root: str | None = None

    def client(self) -> "MlflowClient":
        """A client of ``tracking_uri``, for runs and registry. It creates a local database if there is none."""
        from mlflow import MlflowClient

        prepare_store(self.tracking_uri)
        uri = usable_uri(self.tracking_uri)
        return MlflowClient(tracking_uri=uri, registry_uri=uri)

    def open_run(self, training_key: str, tags: Mapping[str, str], parameters: Mapping[str, object]) -> str:
        """The id of the MLflow run of a training, which is RUNNING now. A retry continues the first attempt's run."""
        from mlflow.exceptions import MlflowException

        try:
            client = self.client()
            experiment_id = self._experiment_id(client)
            earlier = client.search_runs([experiment_id], f"tags.training_key = '{training_key}'", max_results=1)
            if earlier:
                run_id = str(earlier[0].info.run_id)
                client.update_run(run_id, status="RUNNING")
            else:
                run_id = str(client.create_run(experiment_id, run_name=f"tiger-{training_key}").info.run_id)
                for name, value in parameters.items():
                    client.log_param(run_id, name, value)
            for name, tag in {**tags, "training_key": training_key}.items():
                client.set_tag(run_id, name, tag)
            return run_id
        except MlflowException as error:
            raise GenrecError(_refusal(self.tracking_uri, str(error))) from error

    def end_runs_of(self, dagster_run: str, status: str, trained: bool = False) -> None:
        """End the MLflow runs of a failed Dagster run as ``status``; a FINISHED one stays so if it has ``trained``."""
        client = self.client()
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            return
        wrong = {"RUNNING"} if trained else {"RUNNING", "FINISHED"}
        for run in client.search_runs([experiment.experiment_id], f"tags.dagster_run = '{dagster_run}'"):
            if run.info.status in wrong:
                client.set_terminated(run.info.run_id, status)

    def _experiment_id(self, client: "MlflowClient") -> str:
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            created = client.create_experiment(EXPERIMENT, artifact_location=self.artifact_root)
            client.set_experiment_tag(created, *_TRAINING_KIND)
            return str(created)
        if experiment.lifecycle_stage == "deleted":
            raise GenrecError(
                f"the experiment {EXPERIMENT} was deleted in MLflow; bring it back with MLFLOW_TRACKING_URI="
                f"{self.tracking_uri} mlflow experiments restore --experiment-id {experiment.experiment_id}"
            )
        if _TRAINING_KIND[0] not in experiment.tags:
            client.set_experiment_tag(experiment.experiment_id, *_TRAINING_KIND)
        return str(experiment.experiment_id)


def _refusal(uri: str, text: str) -> str:
    """One line about MLflow's error ``text``, with what to do."""
    remedy = "start it, or set MLFLOW_TRACKING_URI to another"
    if re.search(r"error code 40[13]\b", text):
        remedy = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
    return f"MLflow at {uri} refuses: {without_secrets(' '.join(text.split()))[:_SHOWN_CHARACTERS]}; {remedy}"
