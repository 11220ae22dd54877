"""What the graph keeps in MLflow: trainings with their metrics and models, registered releases, and links to them.

A checkpoint names the MLflow run that trained it, and so the store and the registry. Each release is a version of the
registered model ``genrec``; an alias marks the served one. If MLflow does not answer, it raises ``MlflowException``.
"""

import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

import dagster as dg

from genrec_core.bundle.model_folder import ModelFolder
from genrec_core.data.ids import AnyId, are_text
from genrec_core.evaluation.evaluate import RANKINGS
from genrec_core.export import pyfunc
from genrec_core.export.torchserve import inference_requirements, package_code
from genrec_core.storage.artifacts import read_json, write_json
from genrec_dagster.pages import page_address
from genrec_dagster.resources import EXPERIMENT_FILE, TRAINING_VIEW, ExperimentTracker, mlflow_ui

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.models import ModelSignature

MODEL_NAME = "model"
REGISTERED_MODEL, ALIAS = "genrec", "champion"
_RELEASE_TAG, _NAMED = "release", ("data", "preset")
_NOTE = "mlflow.note.content"  # what MLflow shows as a run's description
TOLD = ("recall@10", "ndcg@10", "recall@100", "recall@1000")  # the main metrics


def note_run(checkpoint: Path, tracker: ExperimentTracker, run_id: str) -> None:
    """Write into ``checkpoint`` which MLflow run trained it, and of which experiment."""
    experiment = tracker.client().get_run(run_id).info.experiment_id
    noted = {"tracking_uri": tracker.tracking_uri, "run_id": run_id, "experiment_id": experiment}
    write_json(checkpoint / EXPERIMENT_FILE, noted)


def data_name(instance: dg.DagsterInstance) -> str:
    """What a person calls the newest raw data: ``beauty`` for ``/data/beauty.zip`` or ``s3://bucket/beauty``."""
    event = instance.get_latest_materialization_event(dg.AssetKey("raw_beauty"))
    materialization = event.asset_materialization if event else None
    source = materialization.metadata.get("source") if materialization else None
    if source is None:
        return "data"
    name = urlsplit(str(source.value).removeprefix("embedded ")).path.rstrip("/").rpartition("/")[2]
    return re.sub(r"(\.(zip|tar|tgz|gz|zst|csv|tsv|jsonl?|parquet|txt))+$", "", unquote(name)) or "data"


def name_run(client: "MlflowClient", run_id: str, *parts: str) -> None:
    """Name an MLflow run by what was trained and its result, such as ``beauty · auto · recall@10 0.1150``.

    ``parts`` are data and preset, which are noted as tags too, and further ones.
    """
    for tag, part in zip(_NAMED, parts, strict=False):
        client.set_tag(run_id, tag, part)
    client.update_run(run_id, name=" · ".join(parts))


def name_result(client: "MlflowClient", run_id: str, result: str) -> None:
    """Put a result at the end of a run's name, in the place of an earlier one."""
    tags = client.get_run(run_id).data.tags
    name_run(client, run_id, *(tags[tag] for tag in _NAMED if tag in tags), result)


def training_run(checkpoint: Path) -> tuple["MlflowClient", str]:
    """A client of the store where ``checkpoint`` was logged, and the id of the run."""
    noted = read_json(checkpoint / EXPERIMENT_FILE)
    return ExperimentTracker(tracking_uri=noted["tracking_uri"]).client(), noted["run_id"]


@contextmanager
def mlflow_may_be_away(context: dg.AssetExecutionContext) -> Iterator[None]:
    """Turn an error of MLflow into a warning: the asset is kept, although MLflow lacks it."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as error:
        context.log.warning(f"not logged in MLflow: {error}")


def training_link(checkpoint: Path, artifact: str = "") -> dg.MetadataValue:
    """A link to the MLflow run that trained ``checkpoint``, or to one of its artefacts; see :func:`_link`."""
    client, run_id = training_run(checkpoint)
    ui, experiment = _ui(checkpoint), client.get_run(run_id).info.experiment_id
    page = f"{ui}/#/experiments/{experiment}/runs/{run_id}"
    return _link(artifact or "run", f"{page}/artifacts/{quote(artifact)}" if artifact else page)


def version_link(checkpoint: Path, version: str | None) -> dg.MetadataValue:
    """A link to a registered version, in the registry of ``checkpoint``; a text if ``version`` is None."""
    if version is None:
        return dg.MetadataValue.text("not registered")
    page = f"{_ui(checkpoint)}/#/models/{REGISTERED_MODEL}/versions/{quote(version)}"
    return _link(f"version {version}", page)


def _link(what: str, page: str) -> dg.MetadataValue:
    """A short link to a page of MLflow: a bare address is wider than Dagster's table, and cuts off the verdict."""
    return dg.MetadataValue.md(f"[{what} in MLflow]({page}{TRAINING_VIEW})")


def _ui(checkpoint: Path) -> str:
    return mlflow_ui(read_json(checkpoint / EXPERIMENT_FILE)["tracking_uri"])


def metric_name(name: str) -> str:
    """A metric's name for MLflow, which refuses ``@``."""
    return name.replace("@", "_at_")


def log_test_metrics(checkpoint: Path, metrics: Mapping[str, Any], report: Path) -> None:
    """Add the main figures of ``beauty_metrics.json`` and the page that shows all to the MLflow run of ``checkpoint``.

    The metrics are those of the ranking that serves; of other rankings and baselines, Recall@10 is there to compare.
    """
    client, run_id = training_run(checkpoint)
    served = metrics[metrics["ranking"]]
    figures = {name: served[name] for name in TOLD if name in served}
    others = {f"{ranking}_recall@10": metrics[ranking]["recall@10"] for ranking in RANKINGS if ranking in metrics}
    for name, value in {**figures, **others}.items():
        client.log_metric(run_id, metric_name(f"test/{name}"), value)
    client.log_artifact(run_id, str(report))
    client.set_tag(run_id, _NOTE, score_text(metrics, report))
    name_result(client, run_id, f"recall@10 {served['recall@10']:.4f}")


def score_text(metrics: Mapping[str, Any], report: Path) -> str:
    """The test scores of the ranking that serves, and a link to the page of all, as Markdown."""
    served = metrics[metrics["ranking"]]
    scores = ", ".join(
        f"{name.replace('recall', 'Recall').replace('ndcg', 'NDCG')} **{served[name]:.4f}**"
        for name in TOLD
        if name in served
    )
    return f"Test, {metrics['ranking']} ranking: {scores}. [Report]({page_address(report.parent, report.name)})"


def log_recommender(checkpoint: Path, model_dir: Path, example: list[AnyId], name: str = MODEL_NAME) -> str:
    """Add the exported model as a pyfunc model to the MLflow run of ``checkpoint``, and return its address.

    ``example`` has the item ids of a history, for the model's input example. A model of the same ``name`` is replaced.
    """
    import mlflow

    client, run_id = training_run(checkpoint)
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
            signature=_recommender_signature(are_text(ModelFolder(model_dir).item_ids)),
            input_example={"topk": 4, "instances": [{"user_id": "1", "item_ids": example}]},
        )
        client.log_artifacts(run_id, folder)
    return f"runs:/{run_id}/{name}"


def _recommender_signature(text_ids: bool) -> "ModelSignature":
    """The inputs and options of :meth:`genrec_core.export.pyfunc.PyfuncRecommender.predict`; item ids may be text."""
    from mlflow.models import ModelSignature
    from mlflow.types.schema import AnyType, Array, ColSpec, DataType, Object, ParamSchema, ParamSpec, Property, Schema

    item = DataType.string if text_ids else DataType.long
    user_id, items = AnyType(), Array(item)  # type: ignore[no-untyped-call]  # MLflow's, without types
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
    params += [ParamSpec(name, item, [], (-1,)) for name in ("allow", "deny")]
    return ModelSignature(inputs=inputs, params=ParamSchema(params))


def register_release(
    checkpoint: Path, model_dir: Path, release: str, example: list[AnyId], tags: Mapping[str, str], about: str
) -> str:
    """Add a release to the registry, or find it there after a retry, and return the number of its version.

    It gets its own copy of the model, because the next export replaces ``runs:/<run>/model``. ``tags`` are shown beside
    the version, and ``about``, in Markdown, on its page; see :func:`log_recommender` for the other arguments.
    """
    client, run_id = training_run(checkpoint)
    if version := _registered_version(client, release):
        return version
    name = f"release-{release}"
    log_recommender(checkpoint, model_dir, example, name)
    if not client.search_registered_models(f"name = '{REGISTERED_MODEL}'"):
        client.create_registered_model(REGISTERED_MODEL, description="Releases of genrec's recommender.")
    source = f"{client.get_run(run_id).info.artifact_uri}/{name}"
    tags = {**tags, _RELEASE_TAG: release}
    created = client.create_model_version(REGISTERED_MODEL, source, run_id=run_id, tags=tags, description=about)
    return str(created.version)


def point_alias(checkpoint: Path, release: str) -> str:
    """Give the alias to the release that holds ``checkpoint``, and return the number of its version."""
    from mlflow.exceptions import MlflowException

    client, _ = training_run(checkpoint)
    version = _registered_version(client, release)
    if version is None:
        raise MlflowException(f"no version of the registered model {REGISTERED_MODEL} has the tag release={release}")
    client.set_registered_model_alias(REGISTERED_MODEL, ALIAS, version)
    return version


def release_of_alias(checkpoint: Path) -> str | None:
    """The release that has the alias in the registry of ``checkpoint``; None if its version names no release."""
    version = training_run(checkpoint)[0].get_model_version_by_alias(REGISTERED_MODEL, ALIAS)
    return version.tags.get(_RELEASE_TAG)


def _registered_version(client: "MlflowClient", release: str) -> str | None:
    versions = client.search_model_versions(
        f"name = '{REGISTERED_MODEL}' and tags.`{_RELEASE_TAG}` = '{release}'", max_results=1
    )
    return str(versions[0].version) if versions else None
