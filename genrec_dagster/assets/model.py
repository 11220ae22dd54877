"""From semantic IDs to a model that serves: trained, measured, exported."""

import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl

from genrec_core.settings import RendezvousSettings, TrainingSettings
from genrec_core.storage.artifacts import read_json
from genrec_dagster.automation import when_inputs_change
from genrec_dagster.config import EvaluationForm, ExportForm, Rendezvous, TrainingForm
from genrec_dagster.experiment import (
    MODEL_NAME,
    log_files,
    log_recommender,
    log_test_metrics,
    mlflow_may_be_away,
    note_run,
)
from genrec_dagster.failures import plain_failures
from genrec_dagster.kubernetes import TrainingPods
from genrec_dagster.links import run_link, training_link
from genrec_dagster.metadata import content_version
from genrec_dagster.pages.model import (
    CONFIG_FILE,
    CURVES_PLOT,
    HISTORY_FILE,
    export_page,
    metrics_page,
    training_page,
)
from genrec_dagster.progress import progress_log
from genrec_dagster.resources import ExperimentTracker, WorkFolders
from genrec_dagster.training import new_beside_another, only_training, prepare_job, run_torchrun, tracked_run

if TYPE_CHECKING:
    from genrec_core.evaluation.evaluate import Evaluation

GROUP, OWNERS = "model", ["team:recsys"]


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"pytorch", "huggingface"},
    code_version="2",
    pool="training",
    automation_condition=when_inputs_change(),
)
@plain_failures
def tiger_checkpoint(
    context: dg.AssetExecutionContext,
    user_histories: Path,
    semantic_ids: Path,
    item_embeddings: Path,
    config: TrainingForm,
    work: WorkFolders,
    tracker: ExperimentTracker,
    pipes: dg.ResourceParam[dg.PipesSubprocessClient | TrainingPods],
    rendezvous: Rendezvous,
) -> dg.MaterializeResult[Path]:
    """The best TIGER model by validation, trained by torchrun; a retry goes on where the last one ended.

    Loss and recall by epoch appear in the step's log while it trains, and in MLflow (`make mlflow`).
    """
    inputs = {"user_histories": user_histories, "semantic_ids": semantic_ids, "item_embeddings": item_embeddings}
    settings = TrainingSettings(**config.model_dump())
    job = prepare_job(context.run.run_id, inputs, settings, work, tracker)
    if reason := new_beside_another(job):
        context.log.info(reason)
    with only_training(job.folder, context.log.info), tracked_run(tracker, job.mlflow_run), work.new(context) as folder:
        run_torchrun(context, pipes, job, RendezvousSettings(**rendezvous.model_dump()))
        shutil.copytree(job.folder / "best", folder, dirs_exist_ok=True)
        note_run(folder, tracker, job.mlflow_run)
        metadata = training_page(folder, settings, run_link(tracker, job.mlflow_run))
        log_files(tracker, job.mlflow_run, [folder / name for name in (CONFIG_FILE, HISTORY_FILE, CURVES_PLOT)])
        return dg.MaterializeResult(value=folder, metadata=metadata, data_version=content_version(folder))


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"pytorch", "numpy"},
    code_version="1",
    automation_condition=when_inputs_change(),
)
@plain_failures
def recall_metrics(
    context: dg.AssetExecutionContext,
    tiger_checkpoint: Path,
    semantic_ids: Path,
    item_embeddings: Path,
    user_histories: pl.DataFrame,
    config: EvaluationForm,
    work: WorkFolders,
) -> dg.MaterializeResult[Path]:
    """Recall and NDCG of every ranking mode on each user's test item, beside popularity; nothing else reads these.

    Its gates hold back the export, and with it every release. `report` is the whole evaluation on one page.
    """
    from genrec_core.data.histories import Histories
    from genrec_core.embedding.item_embeddings import ItemEmbeddings
    from genrec_core.evaluation.checkpoints import open_checkpoint
    from genrec_core.evaluation.evaluate import evaluate
    from genrec_core.evaluation.pages.report import REPORT_FILE, write_metrics
    from genrec_core.quantization.semantic_ids import SemanticIds
    from genrec_core.tiger.scorer import TorchScorer, one_thread_an_operator, ranking_weights

    ids, vectors = SemanticIds.load(semantic_ids), ItemEmbeddings.load(item_embeddings)
    scorer = TorchScorer.from_folder(tiger_checkpoint, ids.codes, vectors.l2norm)
    histories = Histories.from_frame(user_histories, ids.item_ids)
    progress = progress_log(context, "users ranked")
    with one_thread_an_operator():
        model = scorer.model.config
        baseline = open_checkpoint(Path(config.baseline), ids.codes, vectors.l2norm).scorer if config.baseline else None
        weights = ranking_weights(model)
        evaluation = evaluate(scorer, ids, histories, config, model.max_history, weights, progress, baseline=baseline)
    with work.new(context) as folder:
        history = read_json(tiger_checkpoint / HISTORY_FILE)
        training = {name: history[name] for name in ("recipe", "seed")}
        evaluation = with_other_seeds(evaluation, training, Path(work.root))
        write_metrics(folder, evaluation)
        metadata = metrics_page(folder, evaluation.metrics, evaluation.slices)
        with mlflow_may_be_away(context):
            log_test_metrics(tiger_checkpoint, evaluation.metrics, folder / REPORT_FILE)
            metadata["mlflow_run"] = training_link(tiger_checkpoint)
            metadata["report"] = training_link(tiger_checkpoint, REPORT_FILE)
        return dg.MaterializeResult(value=folder, metadata=metadata, data_version=content_version(folder))


# The metrics are no input of the export, but their gates hold it back.
@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"onnx"},
    code_version="3",
    deps=[recall_metrics],
    automation_condition=when_inputs_change(),
)
@plain_failures
def onnx_encoder(
    context: dg.AssetExecutionContext,
    tiger_checkpoint: Path,
    semantic_ids: Path,
    item_embeddings: Path,
    user_histories: pl.DataFrame,
    item_catalog: pl.DataFrame,
    config: ExportForm,
    work: WorkFolders,
) -> dg.MaterializeResult[Path]:
    """History encoder and decoder step as ONNX graphs, and all that serving needs beside them; no torch from here.

    Its checks measure the time of a single user and compare the lists with those of the trained model.
    """
    from genrec_core.data.histories import Histories
    from genrec_core.data.popularity import training_counts
    from genrec_core.export.onnx import export_recommender
    from genrec_core.export.quantize import ValidationUsers, quantize_recommender
    from genrec_core.quantization.semantic_ids import SemanticIds

    ids, began = SemanticIds.load(semantic_ids), time.monotonic()
    histories = Histories.from_frame(user_histories, ids.item_ids)
    popularity = training_counts(histories, len(ids.item_ids))
    with work.new(context) as folder:
        export_recommender(tiger_checkpoint, semantic_ids, item_embeddings, popularity, folder, item_catalog)
        if config.int8:
            users = ValidationUsers.of_validation(histories, ids.item_ids, config.users)
            report = quantize_recommender(folder, folder, users, largest_loss=config.largest_loss)
            context.log.info("\n".join(report.lines()))
        seconds = time.monotonic() - began
        metadata = export_page(folder, tiger_checkpoint, len(ids.item_ids), seconds)
        with mlflow_may_be_away(context):
            model = log_recommender(tiger_checkpoint, folder, user_histories["item_ids"][0].to_list())
            metadata["mlflow_model"] = dg.MetadataValue.text(model)
            metadata["mlflow_page"] = training_link(tiger_checkpoint, MODEL_NAME)
        return dg.MaterializeResult(value=folder, metadata=metadata, data_version=content_version(folder))


def with_other_seeds(evaluation: "Evaluation", training: dict[str, Any], storage: Path) -> "Evaluation":
    """The evaluation beside earlier ones in ``storage`` of models that differ in their training's seed alone."""
    from genrec_core.evaluation.evaluate import METRICS_FILE
    from genrec_core.evaluation.seeds import over_seeds

    metrics = {**evaluation.metrics, "training": training}
    earlier = [read_json(path) for path in sorted((storage / "recall_metrics").glob(f"*/{METRICS_FILE}"))]
    alike = [
        found
        for found in earlier
        if found.get("training", {}).get("recipe") == training["recipe"] and found["settings"] == metrics["settings"]
    ]
    return replace(evaluation, metrics={**metrics, "seeds": over_seeds([metrics, *alike])})
