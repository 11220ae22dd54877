"""What assets are given beside their inputs: folders to work in, and the experiment tracker."""

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from genrec_core.errors import GenrecError
from genrec_core.storage.artifacts import recovered, told_when_full
from genrec_core.storage.redact import without_secrets

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "genrec"
_SQLITE = "sqlite:///"
_MLFLOW_HOME = Path(".genrec") / "mlflow"
_WORK = ".work"
_SHOWN = 300  # characters of what MLflow says


class WorkFolders(dg.ConfigurableResource[None]):
    """Folders to build in, on the file system of the storage, so that handing one over is a rename.

    They lie in dot-folders of the storage. What a killed run leaves there :func:`discard_run` removes.
    """

    root: str

    @contextmanager
    def new(self, context: dg.AssetExecutionContext) -> Iterator[Path]:
        """An empty folder for this run of the asset; it stays for the IO manager on success and goes on an error."""
        folder = Path(self.root).absolute() / _WORK / context.asset_key.to_python_identifier() / context.run.run_id
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            with told_when_full(folder):
                yield folder
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def training(self, key: str) -> Path:
        """The folder of the training that ``key`` identifies; it outlives the run, so that a retry goes on."""
        folder = Path(self.root).absolute() / ".training" / key
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def discard_run(root: Path, run_id: str) -> None:
    """Remove what a killed run left half-built in the storage ``root``; finished versions and trainings stay."""
    places = ("*", "*/*")  # of an asset, and of its partitions
    for left in [left for place in places for left in root.glob(f"{place}/.{run_id}.*.old")]:
        recovered(left.with_name(run_id))  # the run may have died while it replaced its own version
    versions = [f"{place}/.{run_id}.*.{end}" for place in places for end in ("part", "old", "gone")]
    for pattern in (f"{_WORK}/*/{run_id}", *versions):
        for left in root.glob(pattern):
            shutil.rmtree(left, ignore_errors=True)


def tracking_uri() -> str:
    """``MLFLOW_TRACKING_URI``; unset: a SQLite file under ``.genrec/mlflow``."""
    given = os.environ.get("MLFLOW_TRACKING_URI")
    return given or f"{_SQLITE}{(_MLFLOW_HOME / 'mlflow.db').absolute()}"


def noted_uri() -> str:
    """The address as it may be shown and kept: that of :func:`tracking_uri` without user, password and query."""
    return without_secrets(tracking_uri())


def usable_uri(noted: str) -> str:
    """An address that :func:`noted_uri` gave, with the user and password that this process has for it."""
    return tracking_uri() if noted == noted_uri() else noted


def artifact_root() -> str | None:
    """Where the artefacts of a new experiment go: ``artifacts`` beside a local database; None where a server decides.

    MLflow's own default for a database is the folder that the process happens to be in.
    """
    uri = tracking_uri()
    if not uri.startswith(_SQLITE):
        return None
    return (Path(uri.removeprefix(_SQLITE)).absolute().parent / "artifacts").as_uri()


def prepare_store(uri: str | None = None) -> None:
    """Make the folder of a local database; None: of :func:`tracking_uri`."""
    uri = uri or tracking_uri()
    if uri.startswith(_SQLITE):
        Path(uri.removeprefix(_SQLITE)).parent.mkdir(parents=True, exist_ok=True)


def _mlflow_refusal(uri: str, said: str) -> str:
    """One line on what MLflow said, with what to do about it."""
    remedy = "start it, or set MLFLOW_TRACKING_URI to another"
    if re.search(r"error code 40[13]\b", said):
        remedy = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
    return f"MLflow at {uri} refuses: {without_secrets(' '.join(said.split()))[:_SHOWN]}; {remedy}"


class ExperimentTracker(dg.ConfigurableResource[None]):
    """MLflow, imported when it is used. Its address is kept without password, as Dagster shows what a resource holds.

    dagster-mlflow's resource was tried: ``tests/README.md`` says why it does not serve.
    """

    tracking_uri: str
    artifact_root: str | None = None

    def client(self) -> "MlflowClient":
        """A client of ``tracking_uri``; a new local store is created first."""
        from mlflow import MlflowClient

        prepare_store(self.tracking_uri)
        return MlflowClient(tracking_uri=usable_uri(self.tracking_uri))

    def open_run(self, training_key: str, tags: Mapping[str, str], parameters: Mapping[str, object]) -> str:
        """The id of the run of ``training_key``, set to RUNNING; a retry continues the run of the earlier attempt.

        Raises:
            GenrecError: the experiment was deleted, or MLflow does not answer or refuses; the text says what to do.
        """
        from mlflow.exceptions import MlflowException

        try:
            return self._open_run(training_key, tags, parameters)
        except MlflowException as error:
            raise GenrecError(_mlflow_refusal(self.tracking_uri, str(error))) from error

    def _open_run(self, training_key: str, tags: Mapping[str, str], parameters: Mapping[str, object]) -> str:
        client = self.client()
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment and experiment.lifecycle_stage == "deleted":
            raise GenrecError(
                f"the experiment {EXPERIMENT} was deleted in MLflow; bring it back with MLFLOW_TRACKING_URI="
                f"{self.tracking_uri} mlflow experiments restore --experiment-id {experiment.experiment_id}"
            )
        experiment_id = experiment.experiment_id if experiment else self._create_experiment(client)
        found = client.search_runs([experiment_id], f"tags.training_key = '{training_key}'", max_results=1)
        if found:
            run_id = str(found[0].info.run_id)
            client.update_run(run_id, status="RUNNING")
        else:
            run = client.create_run(experiment_id, run_name=f"tiger-{training_key}")
            run_id = str(run.info.run_id)
            for name, value in parameters.items():
                client.log_param(run_id, name, value)
        for name, tag in {**tags, "training_key": training_key}.items():
            client.set_tag(run_id, name, tag)
        return run_id

    def close_run(self, run_id: str, status: str) -> None:
        """End a run as FINISHED, FAILED or KILLED."""
        self.client().set_terminated(run_id, status)

    def end_runs_of(self, dagster_run: str, status: str, trained: bool = False) -> None:
        """End the runs of a Dagster run that ended badly, as FAILED or KILLED.

        Args:
            dagster_run: its id.
            status: as above.
            trained: the checkpoint is in the storage: what is FINISHED stays so.
        """
        client = self.client()
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            return
        untrue = {"RUNNING"} if trained else {"RUNNING", "FINISHED"}
        for run in client.search_runs([experiment.experiment_id], f"tags.dagster_run = '{dagster_run}'"):
            if run.info.status in untrue:
                client.set_terminated(run.info.run_id, status)

    def _create_experiment(self, client: "MlflowClient") -> str:
        return str(client.create_experiment(EXPERIMENT, artifact_location=self.artifact_root))
