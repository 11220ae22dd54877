"""Releases in MLflow's model registry: each is a version of the model ``genrec``; an alias marks the served one."""

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
    """Add a release to the registry, and return the number of its version there.

    The release gets its own copy of the model, because the next export replaces ``runs:/<run>/model``.

    Args:
        checkpoint: the folder of ``tiger_checkpoint``. It names the MLflow run, and so the registry.
        model_dir: the exported model.
        release: the release's version in the storage. A retry finds an earlier registration by it.
        example: item ids of a history, for the model's input example.
        tags: shown beside the version.

    Raises:
        MlflowException: MLflow does not answer, or the training's run was deleted.
    """
    client = _registry(checkpoint)
    if version := _registered_version(client, release):
        return version
    run_id, name = read_json(checkpoint / EXPERIMENT_FILE)["run_id"], f"release-{release}"
    log_recommender(checkpoint, model_dir, example, name)
    if not client.search_registered_models(f"name = '{REGISTERED_MODEL}'"):
        client.create_registered_model(REGISTERED_MODEL, description="Releases of genrec's recommender.")
    source = f"{client.get_run(run_id).info.artifact_uri}/{name}"
    tags = {**tags, _RELEASE_TAG: release}
    return str(client.create_model_version(REGISTERED_MODEL, source, run_id=run_id, tags=tags).version)


def point_alias(checkpoint: Path, release: str) -> str:
    """Give the alias to the release that holds ``checkpoint``, and return the number of its version.

    Raises:
        MlflowException: the registry does not answer, or does not know the release.
    """
    from mlflow.exceptions import MlflowException

    client = _registry(checkpoint)
    version = _registered_version(client, release)
    if version is None:
        raise MlflowException(f"no version of the registered model {REGISTERED_MODEL} has the tag release={release}")
    client.set_registered_model_alias(REGISTERED_MODEL, ALIAS, version)
    return version


def release_of_alias(checkpoint: Path) -> str | None:
    """The release that has the alias in the registry of ``checkpoint``; None if its version names no release.

    Raises:
        MlflowException: the registry does not answer, or there is no such alias.
    """
    version = _registry(checkpoint).get_model_version_by_alias(REGISTERED_MODEL, ALIAS)
    return version.tags.get(_RELEASE_TAG)


def _registry(checkpoint: Path) -> "MlflowClient":
    """A client of the store where ``checkpoint`` was logged, for runs and registry, whatever the environment names."""
    from mlflow import MlflowClient

    uri = usable_uri(read_json(checkpoint / EXPERIMENT_FILE)["tracking_uri"])
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _registered_version(client: "MlflowClient", release: str) -> str | None:
    versions = client.search_model_versions(
        f"name = '{REGISTERED_MODEL}' and tags.`{_RELEASE_TAG}` = '{release}'", max_results=1
    )
    return str(versions[0].version) if versions else None
