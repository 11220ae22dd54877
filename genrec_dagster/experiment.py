"""Adds files, test metrics and the exported model to the MLflow run of a training."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from genrec_core.evaluation.evaluate import RANKINGS
from genrec_core.export import pyfunc
from genrec_core.export.torchserve import inference_requirements, package_code
from genrec_core.storage.artifacts import read_json, write_json
from genrec_dagster.resources import ExperimentTracker

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

EXPERIMENT_FILE, MODEL_NAME = "experiment.json", "model"


def metric_name(name: str) -> str:
    """A metric's name for MLflow, which refuses ``@``."""
    return name.replace("@", "_at_")


def log_files(tracker: ExperimentTracker, run_id: str, files: list[Path]) -> None:
    """Store files with the MLflow run."""
    client = tracker.client()
    for file in files:
        client.log_artifact(run_id, str(file))


def note_run(checkpoint: Path, tracker: ExperimentTracker, run_id: str) -> None:
    """Write into ``checkpoint`` which MLflow run trained it."""
    write_json(checkpoint / EXPERIMENT_FILE, {"tracking_uri": tracker.tracking_uri, "run_id": run_id})


@contextmanager
def mlflow_may_be_away(context: dg.AssetExecutionContext) -> Iterator[None]:
    """Turn an error of MLflow into a warning: the asset is kept, although MLflow lacks it."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as error:
        context.log.warning(f"not logged in MLflow: {error}")


def log_test_metrics(checkpoint: Path, metrics: Mapping[str, Any], report: Path) -> None:
    """Add the test metrics of ``checkpoint`` and their report to the MLflow run that trained it.

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


def log_recommender(checkpoint: Path, model_dir: Path, example: list[int], name: str = MODEL_NAME) -> str:
    """Add the exported model as a pyfunc model to the MLflow run that trained ``checkpoint``.

    Args:
        checkpoint: the folder of ``tiger_checkpoint``.
        model_dir: the folder of its export.
        example: item ids of a history, for the model's input example.
        name: the model's folder among the run's artefacts. Files that are there already are replaced.

    Returns:
        The address of the model, ``runs:/<run>/<name>``.
    """
    import mlflow

    noted = read_json(checkpoint / EXPERIMENT_FILE)
    client = ExperimentTracker(tracking_uri=noted["tracking_uri"]).client()
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as links:
        # MLflow copies the data under its folder's name. Each export has another one; a fixed name replaces the last.
        data = Path(links) / "recommender"
        data.symlink_to(model_dir.absolute())
        mlflow.pyfunc.save_model(
            f"{folder}/{name}",
            loader_module=pyfunc.__name__,
            data_path=str(data),
            code_paths=[str(package_code())],
            pip_requirements=[*inference_requirements(), f"mlflow=={mlflow.__version__}"],
            signature=_recommender_signature(),
            input_example={"topk": 4, "instances": [{"user_id": "1", "item_ids": example}]},
        )
        client.log_artifacts(noted["run_id"], folder)
    return f"runs:/{noted['run_id']}/{name}"


def _recommender_signature() -> "ModelSignature":
    """The inputs and options of :meth:`genrec_core.export.pyfunc.PyfuncRecommender.predict`."""
    from mlflow.models import ModelSignature
    from mlflow.types.schema import AnyType, Array, ColSpec, DataType, Object, ParamSchema, ParamSpec, Property, Schema

    user_id, items = AnyType(), Array(DataType.long)  # type: ignore[no-untyped-call]  # MLflow's, without types
    user_columns: dict[str, Any] = {"user_id": user_id, "item_ids": items}
    user = Object([Property(name, kind) for name, kind in user_columns.items()])
    options = {
        "topk": DataType.long,
        "ranking": DataType.string,
        "rule": DataType.string,
        "exclude_seen": DataType.boolean,
    }
    columns: dict[str, Any] = {**user_columns, "instances": Array(user), **options, "allow": items, "deny": items}
    inputs = Schema([ColSpec(kind, name, required=False) for name, kind in columns.items()])
    params = [ParamSpec(name, kind, None) for name, kind in options.items()]
    params += [ParamSpec(name, DataType.long, [], (-1,)) for name in ("allow", "deny")]
    return ModelSignature(inputs=inputs, params=ParamSchema(params))
