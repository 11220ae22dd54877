"""From semantic IDs to a model that serves: trained, measured, exported."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl

from genrec_core.artifacts import read_json
from genrec_core.settings import RendezvousSettings, TrainingSettings
from genrec_dagster.automation import when_inputs_change
from genrec_dagster.config import EvaluationForm, Rendezvous, TrainingForm
from genrec_dagster.experiment import log_files, log_recommender, log_test_metrics, note_run
from genrec_dagster.kubernetes import TrainingPods
from genrec_dagster.metadata import Row, content_version, markdown_table, picture, table
from genrec_dagster.progress import progress_log
from genrec_dagster.resources import ExperimentTracker, WorkFolders
from genrec_dagster.training import only_training, prepare_job, run_torchrun, tracked_run

if TYPE_CHECKING:
    from genrec_core.evaluation.evaluate import Evaluation

GROUP, OWNERS = "model", ["team:recsys"]
CONFIG_FILE, HISTORY_FILE, CURVES_PLOT = "config.json", "training_history.json", "training.png"


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"pytorch", "huggingface"},
    code_version="1",
    pool="training",
    automation_condition=when_inputs_change(),
)
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
    """The best TIGER model by validation Recall@10, trained by torchrun; a retry goes on where the last one ended."""
    inputs = {"user_histories": user_histories, "semantic_ids": semantic_ids, "item_embeddings": item_embeddings}
    settings = TrainingSettings(**config.model_dump())
    job = prepare_job(context.run.run_id, inputs, settings, work, tracker)
    with only_training(job.folder, context.log.info), tracked_run(tracker, job.mlflow_run), work.new(context) as folder:
        run_torchrun(context, pipes, job, RendezvousSettings(**rendezvous.model_dump()))
        shutil.copytree(job.folder / "best", folder, dirs_exist_ok=True)
        note_run(folder, tracker, job.mlflow_run)
        metadata = _training_metadata(folder, job.mlflow_run)
        log_files(tracker, job.mlflow_run, [folder / name for name in (CONFIG_FILE, HISTORY_FILE, CURVES_PLOT)])
        return dg.MaterializeResult(value=folder, metadata=metadata, data_version=content_version(folder))


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"pytorch", "numpy"},
    code_version="1",
    automation_condition=when_inputs_change(),
)
def recall_metrics(
    context: dg.AssetExecutionContext,
    tiger_checkpoint: Path,
    semantic_ids: Path,
    item_embeddings: Path,
    user_histories: pl.DataFrame,
    config: EvaluationForm,
    work: WorkFolders,
) -> dg.MaterializeResult[Path]:
    """Recall and NDCG of every ranking mode on each user's test item, beside popularity; nothing else reads these."""
    from genrec_core.data.histories import Histories
    from genrec_core.embedding.item_embeddings import ItemEmbeddings
    from genrec_core.evaluation.checkpoints import open_checkpoint
    from genrec_core.evaluation.evaluate import REPORT_FILE, evaluate, write_metrics
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
        run_id = log_test_metrics(tiger_checkpoint, evaluation.metrics, folder / REPORT_FILE)
        metadata = {**_metrics_metadata(folder, evaluation.metrics, evaluation.slices), "mlflow_run": run_id}
        report = (
            Path(work.root).absolute() / context.asset_key.to_python_identifier() / context.run.run_id / REPORT_FILE
        )
        metadata["report"] = dg.MetadataValue.url(report.as_uri())
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
def onnx_encoder(
    context: dg.AssetExecutionContext,
    tiger_checkpoint: Path,
    semantic_ids: Path,
    item_embeddings: Path,
    user_histories: pl.DataFrame,
    item_catalog: pl.DataFrame,
    work: WorkFolders,
) -> dg.MaterializeResult[Path]:
    """History encoder and decoder step as ONNX graphs, and all that serving needs beside them; no torch from here."""
    from genrec_core.data.histories import Histories
    from genrec_core.evaluation.baselines import training_counts
    from genrec_core.export.onnx import export_recommender
    from genrec_core.quantization.semantic_ids import SemanticIds

    ids = SemanticIds.load(semantic_ids)
    popularity = training_counts(Histories.from_frame(user_histories, ids.item_ids), len(ids.item_ids))
    with work.new(context) as folder:
        export_recommender(tiger_checkpoint, semantic_ids, item_embeddings, popularity, folder, item_catalog)
        files: list[Row] = [{"file": path.name, "bytes": path.stat().st_size} for path in sorted(folder.iterdir())]
        mlflow_model = log_recommender(tiger_checkpoint, folder, user_histories["item_ids"][0].to_list())
        metadata: dict[str, Any] = {"files": table(files), "items": len(ids.item_ids), "mlflow_model": mlflow_model}
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


def _training_metadata(folder: Path, mlflow_run: str) -> dict[str, Any]:
    """The curves, which are also kept in ``folder``, and what they end with."""
    from genrec_core.evaluation.plots import training_curves

    history = read_json(folder / HISTORY_FILE)
    curves = training_curves(history["epochs"])
    (folder / CURVES_PLOT).write_bytes(curves)
    return {
        "best_validation_recall@10": history["best_recall@10"],
        "epochs": len(history["epochs"]),
        "training_seconds": history["seconds"],
        "last_loss": history["epochs"][-1]["loss"],
        "curves": picture(curves, "loss and validation Recall@10 by epoch"),
        "mlflow_run": mlflow_run,
    }


def _metrics_metadata(folder: Path, metrics: dict[str, Any], slices: pl.DataFrame) -> dict[str, Any]:
    from genrec_core.evaluation.evaluate import RANKINGS, RECALL_PLOT, SLICES_PLOT

    headline, modes = metrics[metrics["ranking"]], [mode for mode in RANKINGS if mode in metrics]
    names = [name for name, value in headline.items() if isinstance(value, float)]
    rows: list[Row] = [
        {
            "metric": name,
            **{mode: metrics[mode].get(name) for mode in modes},
            "interval": "{:.4f} to {:.4f}".format(*headline[f"{name}_interval"])
            if f"{name}_interval" in headline
            else None,
            "history kept": metrics[f"{metrics['ranking']}_history_kept"].get(name),
        }
        for name in names
    ]
    return {
        "metrics": table(rows),
        "ranking": metrics["ranking"],
        **({"hybrid_weight": metrics["hybrid_weight"]} if "hybrid" in modes else {}),
        "miss_share": metrics["generative"]["miss_share"],
        "seeds": ", ".join(map(str, metrics["seeds"]["seeds"])) if metrics["seeds"] else "one",
        "users": metrics["users"],
        "beams": metrics["beams"],
        "slices": dg.MetadataValue.md(markdown_table(slices.to_dicts())),
        "recall_plot": picture((folder / RECALL_PLOT).read_bytes(), "Recall@K beside popularity"),
        "slices_plot": picture((folder / SLICES_PLOT).read_bytes(), "Recall@10 by slice"),
    }
