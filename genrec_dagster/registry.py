"""Releases in MLflow's model registry: a version of the model ``genrec`` for each, and an alias on the served one."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from genrec_core.storage.artifacts import read_json
from genrec_dagster.experiment import EXPERIMENT_FILE, log_recommender
from genrec_dagster.resources import usable_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient

REGISTERED_MODEL, ALIAS = "genrec", "champion"
_RELEASE_TAG = "release"


def register_release(
    checkpoint: Path, model_dir: Path, release: str, example: list[int], tags: Mapping[str, str]
) -> str:
    """Add a release to the registry; the number of its version there.

    It gets a copy of the model of its own, as ``runs:/<run>/model`` is written over by the next export.

    Args:
        checkpoint: the folder of ``tiger_checkpoint``, which names the MLflow run; the registry lies with it.
        model_dir: the exported model.
        release: the version in the storage; a retry finds by it what an earlier attempt registered.
        example: item ids of a history, for the model's input example.
        tags: shown beside the version.

    Raises:
        MlflowException: MLflow does not answer, or the training's run is gone.
    """
    client = _registry(checkpoint)
    if version := _registered(client, release):
        return version
    noted = read_json(checkpoint / EXPERIMENT_FILE)
    name = f"release-{release}"
    log_recommender(checkpoint, model_dir, example, name)
    source = f"{client.get_run(noted['run_id']).info.artifact_uri}/{name}"
    _ensure_model(client)
    created = client.create_model_version(
        REGISTERED_MODEL, source, run_id=noted["run_id"], tags={**tags, _RELEASE_TAG: release}
    )
    return str(created.version)


def point_alias(checkpoint: Path, release: str) -> str:
    """Give the alias to the release that holds ``checkpoint``; the number of its version.

    Raises:
        MlflowException: the registry does not answer, or does not know the release.
    """
    from mlflow.exceptions import MlflowException

    client = _registry(checkpoint)
    version = _registered(client, release)
    if version is None:
        raise MlflowException(f"no version of the registered model {REGISTERED_MODEL} is tagged release={release}")
    client.set_registered_model_alias(REGISTERED_MODEL, ALIAS, version)
    return version


def release_of_alias(checkpoint: Path) -> str | None:
    """The release that the alias names, in the registry of ``checkpoint``; None for one that was not registered here.

    Raises:
        MlflowException: the registry does not answer, or there is no such alias.
    """
    found = _registry(checkpoint).get_model_version_by_alias(REGISTERED_MODEL, ALIAS).tags.get(_RELEASE_TAG)
    return None if found is None else str(found)


def _registry(checkpoint: Path) -> "MlflowClient":
    """A client that asks one place for runs and models: where the training was logged, whatever the process has set."""
    from mlflow import MlflowClient

    uri = usable_uri(read_json(checkpoint / EXPERIMENT_FILE)["tracking_uri"])
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _registered(client: "MlflowClient", release: str) -> str | None:
    wanted = f"name = '{REGISTERED_MODEL}' and tags.`{_RELEASE_TAG}` = '{release}'"
    found = client.search_model_versions(wanted, max_results=1)
    return str(found[0].version) if found else None


def _ensure_model(client: "MlflowClient") -> None:
    if not client.search_registered_models(f"name = '{REGISTERED_MODEL}'"):
        client.create_registered_model(REGISTERED_MODEL, description="Releases of genrec's recommender.")
