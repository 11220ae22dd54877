"""Links from asset pages to pages of MLflow."""

import os
from pathlib import Path
from urllib.parse import quote, urlsplit

import dagster as dg

from genrec_core.storage.artifacts import read_json
from genrec_dagster.experiment import EXPERIMENT_FILE
from genrec_dagster.resources import ExperimentTracker

UI_VARIABLE, PORT_VARIABLE = "GENREC_MLFLOW_UI", "MLFLOW_PORT"
_PORT = "5000"


def mlflow_ui(tracking_uri: str) -> str:
    """The address of MLflow's UI, without user, password and query.

    It is ``GENREC_MLFLOW_UI`` if that is set. Otherwise it is the tracking server's address, or for a local store the
    address at which ``make ui`` serves it.
    """
    named = os.environ.get(UI_VARIABLE)
    address = (named if "://" in named else f"http://{named}") if named else tracking_uri
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https"):
        return f"http://127.0.0.1:{os.environ.get(PORT_VARIABLE) or _PORT}"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/")


def run_link(tracker: ExperimentTracker, run_id: str, artifact: str = "") -> dg.MetadataValue:
    """A link to the page of an MLflow run, or of one of its artefacts."""
    experiment = tracker.client().get_run(run_id).info.experiment_id
    page = f"{mlflow_ui(tracker.tracking_uri)}/#/experiments/{experiment}/runs/{run_id}"
    return dg.MetadataValue.url(f"{page}/artifacts/{quote(artifact)}" if artifact else page)


def training_link(checkpoint: Path, artifact: str = "") -> dg.MetadataValue:
    """A link to the MLflow run that trained ``checkpoint``, or to one of its artefacts."""
    noted = read_json(checkpoint / EXPERIMENT_FILE)
    return run_link(ExperimentTracker(tracking_uri=noted["tracking_uri"]), noted["run_id"], artifact)


def version_link(checkpoint: Path, model: str, version: str | None) -> dg.MetadataValue:
    """A link to a version of a registered model, in the registry of ``checkpoint``; a text if ``version`` is None."""
    if version is None:
        return dg.MetadataValue.text("not registered")
    ui = mlflow_ui(read_json(checkpoint / EXPERIMENT_FILE)["tracking_uri"])
    return dg.MetadataValue.url(f"{ui}/#/models/{quote(model)}/versions/{quote(version)}")
