"""What a training leaves in MLflow beside its curves: files, and the test metrics once they are known."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genrec_core.artifacts import read_json, write_json
from genrec_core.evaluation.evaluate import RANKINGS
from genrec_dagster.resources import ExperimentTracker

EXPERIMENT_FILE = "experiment.json"


def metric_name(name: str) -> str:
    """A name that MLflow takes: it refuses ``@``."""
    return name.replace("@", "_at_")


def log_files(tracker: ExperimentTracker, run_id: str, files: list[Path]) -> None:
    """Store files with the MLflow run."""
    client = tracker.client()
    for file in files:
        client.log_artifact(run_id, str(file))


def note_run(checkpoint: Path, tracker: ExperimentTracker, run_id: str) -> None:
    """Write into ``checkpoint`` which MLflow run it came from."""
    write_json(checkpoint / EXPERIMENT_FILE, {"tracking_uri": tracker.tracking_uri, "run_id": run_id})


def log_test_metrics(checkpoint: Path, metrics: Mapping[str, Any], report: Path) -> str:
    """Add the test metrics of ``checkpoint`` and their report to the MLflow run that trained it; the run's id.

    Args:
        checkpoint: the folder of ``tiger_checkpoint``.
        metrics: the content of ``beauty_metrics.json``.
        report: the page that shows them.
    """
    noted = read_json(checkpoint / EXPERIMENT_FILE)
    client = ExperimentTracker(tracking_uri=noted["tracking_uri"]).client()
    for ranking in RANKINGS:
        for name, value in metrics.get(ranking, {}).items():
            if isinstance(value, float):
                client.log_metric(noted["run_id"], metric_name(f"test/{ranking}/{name}"), value)
    client.log_artifact(noted["run_id"], str(report))
    return str(noted["run_id"])
