"""The assets from semantic IDs to the exported model, trained, measured and exported, and what their pages show."""

import math
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from genrec_core.releases.pointer import served_in
from genrec_core.settings import RendezvousSettings, TrainingSettings
from genrec_core.storage.artifacts import FRAME, read_json
from genrec_dagster import experiment
from genrec_dagster.automation import rebuilt_asset
from genrec_dagster.config import EvaluationForm, ExportForm, ReleaseRule, Rendezvous, TrainingForm
from genrec_dagster.failures import plain_failures
from genrec_dagster.kubernetes import TrainingPods
from genrec_dagster.metadata import Page, Row, content_version, markdown, page, pictures, table
from genrec_dagster.pages import page_link
from genrec_dagster.resources import ExperimentTracker, WorkFolders, progress_log
from genrec_dagster.training import new_beside_another, only_training, prepare_job, refit, run_torchrun, tracked_run

CONFIG_FILE, HISTORY_FILE, CURVES_PLOT = "config.json", "training_history.json", "training.png"
_WEIGHTS = "*.safetensors"


@rebuilt_asset("model", kinds={"pytorch", "huggingface"}, code_version="3", pool="training")
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
    """The TIGER model of the epoch with the best validation recall, trained by torchrun.

    While it trains, the step's log and MLflow (`make mlflow`) show loss and recall of each epoch. A retry continues
    where the last attempt ended.
    """
    inputs = {"user_histories": user_histories, "semantic_ids": semantic_ids, "item_embeddings": item_embeddings}
    settings = TrainingSettings(**config.model_dump())
    job = prepare_job(context, inputs, settings, work, tracker)
    if reason := new_beside_another(job):
        context.log.info(reason)
    with only_training(job.folder, context.log.info), tracked_run(tracker, job.mlflow_run), work.new(context) as folder:
        run_torchrun(context, pipes, job, RendezvousSettings(**rendezvous.model_dump()))
        shutil.copytree(job.folder / "best", folder, dirs_exist_ok=True)
        experiment.note_run(folder, tracker, job.mlflow_run)
        metadata = training_page(folder, settings, experiment.training_link(folder))
        for name in (CONFIG_FILE, HISTORY_FILE, CURVES_PLOT):
            tracker.client().log_artifact(job.mlflow_run, str(folder / name))
        return dg.MaterializeResult(value=folder, metadata=metadata, data_version=content_version(folder))


@rebuilt_asset("model", kinds={"pytorch", "numpy"}, code_version="2")
@plain_failures
def recall_metrics(
    context: dg.AssetExecutionContext,
    tiger_checkpoint: Path,
    semantic_ids: Path,
    item_embeddings: Path,
    user_histories: pl.DataFrame,
    item_catalog: pl.DataFrame,
    config: EvaluationForm,
    work: WorkFolders,
) -> dg.MaterializeResult[Path]:
    """Recall and NDCG on the test item of each user, for every ranking mode and for the most popular items.

    Nothing else in the graph reads the test items. If a check of this asset fails, the model is neither exported nor
    released. `report` opens the whole evaluation on one page.
    """
    from genrec_core.evaluation.evaluate import evaluate_training
    from genrec_core.evaluation.pages.metrics import REPORT_FILE, write_metrics

    progress, storage = progress_log(context, "users ranked"), Path(work.root)
    metrics = evaluate_training(
        tiger_checkpoint, semantic_ids, item_embeddings, user_histories, item_catalog, config, storage, progress
    )
    with work.new(context) as folder:
        write_metrics(folder, metrics)
        metadata = metrics_page(folder, metrics)
        with experiment.mlflow_may_be_away(context):
            experiment.log_test_metrics(tiger_checkpoint, metrics, folder / REPORT_FILE)
            metadata["mlflow_run"] = experiment.training_link(tiger_checkpoint)
            metadata["report_in_mlflow"] = experiment.training_link(tiger_checkpoint, REPORT_FILE)
        return dg.MaterializeResult(value=folder, metadata=metadata, data_version=content_version(folder))


# The export does not read the metrics, but their gates hold it back. A refit is a training, hence the pool.
@rebuilt_asset("model", kinds={"onnx"}, code_version="3", deps=[recall_metrics], pool="training")
@plain_failures
def onnx_encoder(
    context: dg.AssetExecutionContext,
    tiger_checkpoint: Path,
    semantic_ids: Path,
    item_embeddings: Path,
    user_histories: Path,
    item_catalog: pl.DataFrame,
    config: ExportForm,
    release: ReleaseRule,
    work: WorkFolders,
    tracker: ExperimentTracker,
    pipes: dg.ResourceParam[dg.PipesSubprocessClient | TrainingPods],
    rendezvous: Rendezvous,
) -> dg.MaterializeResult[Path]:
    """The exported model: history encoder and decoder as ONNX graphs, and all other files that serving needs.

    It runs without torch. Its checks measure the time to serve a single user, and compare its lists with those of the
    trained model. With `release.refit`, the model is first trained again on all interactions. The result is in `model`,
    which is served, and the model that was measured in `measured`.
    """
    from genrec_core.export.models import export_models

    began, frame, refitted = time.monotonic(), pl.read_parquet(user_histories / FRAME), None
    inputs = {"user_histories": user_histories, "semantic_ids": semantic_ids, "item_embeddings": item_embeddings}
    if release.refit:
        meeting = RendezvousSettings(**rendezvous.model_dump())
        refitted = refit(context, {**inputs, "tiger_checkpoint": tiger_checkpoint}, work, tracker, pipes, meeting)
    with work.new(context) as folder:
        parts = (tiger_checkpoint, refitted, semantic_ids, item_embeddings)
        items = export_models(folder, *parts, frame, item_catalog, config, context.log.info)
        served = served_in(folder)
        trained_on = "all interactions" if refitted else "the training part"
        metadata = export_page(served, tiger_checkpoint, items, time.monotonic() - began, trained_on)
        with experiment.mlflow_may_be_away(context):
            example = frame["item_ids"][0].to_list()
            metadata["mlflow_model"] = experiment.log_recommender(tiger_checkpoint, served, example)
            metadata["mlflow_page"] = experiment.training_link(tiger_checkpoint, experiment.MODEL_NAME)
        return dg.MaterializeResult(value=folder, metadata=metadata, data_version=content_version(folder))


def training_page(folder: Path, settings: TrainingSettings, mlflow_run: dg.MetadataValue) -> Page:
    """How the training went, its settings, and the size of the model. The curves are also written to ``folder``."""
    from genrec_core.evaluation.pages.metrics import training_curves
    from genrec_core.evaluation.reading import seen_choice, training_verdict

    history = read_json(folder / HISTORY_FILE)
    curves = training_curves(history["epochs"], history["best_epoch"])
    (folder / CURVES_PLOT).write_bytes(curves)
    shown, copies = pictures(folder, {"curves": (CURVES_PLOT, "loss and validation Recall@10 by epoch")})
    return page(
        training_verdict(history),
        {
            **shown,
            "epochs": table(_epochs(history)),
            "seen_items": seen_choice(history["seen_items"]),
            "mlflow_run": mlflow_run,
        },
        {
            "validation_recall@10": history["best_recall@10"],
            "best_epoch": int(history["best_epoch"]),
            "training_seconds": history["seconds"],
            "last_loss": history["epochs"][-1]["loss"],
            "parameters": _count_parameters(folder),
        },
        {
            "settings": markdown(
                [{"setting": name, "value": str(value)} for name, value in settings.model_dump().items()]
            ),
            **copies,
        },
    )


def _epochs(history: Mapping[str, Any]) -> list[Row]:
    """The loss of each epoch, and Recall@10 (that of generating alone, too) where the epoch was validated."""
    rankings = {"validation_recall@10": "Recall@10", "validation_generative_recall@10": "generative"}
    return [
        {
            "epoch": int(entry["epoch"]),
            "loss": entry["loss"],
            **{title: entry.get(name) for name, title in rankings.items()},
            "": "best" if entry["epoch"] == history["best_epoch"] else "",
        }
        for entry in history["epochs"]
    ]


def _count_parameters(checkpoint: Path) -> int:
    """The number of parameters of a model; reads only the files' headers."""
    from safetensors import safe_open

    count = 0
    for path in checkpoint.glob(_WEIGHTS):
        with safe_open(path, "np") as weights:
            count += sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.offset_keys())
    return count


def metrics_page(folder: Path, metrics: Mapping[str, Any]) -> Page:
    """The metrics of every ranking mode and of popularity, with intervals, and by slices of users and items."""
    from genrec_core.evaluation.evaluate import RANKINGS
    from genrec_core.evaluation.pages.metrics import RECALL_PLOT, REPORT_FILE, SLICES_PLOT
    from genrec_core.evaluation.reading import seen_choice, verdict

    ranking, modes = metrics["ranking"], [mode for mode in RANKINGS if mode in metrics]
    served, intervals = metrics[ranking], _intervals(metrics)
    beside, by_slice = (RECALL_PLOT, "Recall@K beside popularity"), (SLICES_PLOT, "Recall@10 by slice")
    shown, copies = pictures(folder, {"recall_plot": beside, "slices_plot": by_slice})
    return page(
        verdict(metrics),
        {
            "report": page_link(folder, REPORT_FILE),
            **shown,
            "metrics": table(_by_ranking(metrics, modes)),
            **_read(metrics),
            **({"intervals": table(intervals)} if intervals else {}),
            "slices": table([_slice(by, row) for by, rows in metrics["slices"].items() for row in rows]),
            "seen_items": seen_choice(metrics["seen_items"]),
        },
        {
            "ranking": ranking,
            **{f"{ranking}_{name}": served[name] for name in ("recall@10", "ndcg@10") if name in served},
            **({"hybrid_weight": metrics["hybrid_weight"]} if "hybrid" in modes else {}),
            "generative_misses": metrics["generative"]["miss_share"],
            "seeds": ", ".join(map(str, metrics["seeds"]["seeds"])) if metrics["seeds"] else "only this one",
            "users": metrics["users"],
            "beams": metrics["beams"],
        },
        copies,
    )


def _by_ranking(metrics: Mapping[str, Any], modes: Sequence[str]) -> list[Row]:
    """One row for each ranking, with the main metrics. Dagster cuts off what is wider; the report has them all."""
    names = [name for name in experiment.TOLD if name in metrics[metrics["ranking"]]]
    return [{"ranking": mode, **{name: metrics[mode].get(name) for name in names}} for mode in modes]


def _intervals(metrics: Mapping[str, Any]) -> list[Row]:
    """The interval of each metric of the ranking that serves, and its value with the histories treated otherwise."""
    from genrec_core.evaluation.reading import other_way

    ranking, other = metrics["ranking"], other_way(metrics)
    return [
        {
            ranking: name,
            "low": metrics[ranking][f"{name}_interval"][0],
            "value": value,
            "high": metrics[ranking][f"{name}_interval"][1],
            other.replace("_", " "): metrics[f"{ranking}_{other}"].get(name),
        }
        for name, value in metrics[ranking].items()
        if f"{name}_interval" in metrics[ranking]
    ]


def _slice(by: str, row: Mapping[str, Any]) -> Row:
    """Recall@10 of some users beside that of popularity."""
    what = {"history_length": "history of", "target_popularity": "target bought"}[by]
    names = {"recall@10": "Recall@10", "popularity_recall@10": "popularity's"}
    return {"users with": f"{what} {row['slice']}", "users": row["users"]} | {
        title: row[name] for name, title in names.items()
    }


def _read(metrics: Mapping[str, Any]) -> Page:
    """The other rankings and the baselines beside the served one, the worst departments, and examples by title."""
    name = "recall@10"
    against: list[Row] = [
        {
            "Recall@10 less that of": rival,
            "difference": of[name]["difference"],
            "low": of[name]["low"],
            "high": of[name]["high"],
        }
        for rival, of in metrics["against"].items()
        if name in of
    ]
    found: list[Row] = [
        {
            "found": "yes" if kind == "hits" else "no",
            "newest items of the history": " · ".join(example["history"]),
            "next item": example["target"],
            "place": example["rank"] or f"beyond {metrics['beams']:,}",
        }
        for kind, chosen in metrics.get("examples", {}).items()
        for example in chosen
    ]
    tables = {"against": against, "worst_departments": metrics.get("worst_departments"), "examples": found}
    return {title: table(rows) for title, rows in tables.items() if rows}


def export_page(folder: Path, checkpoint: Path, items: int, seconds: float, trained_on: str) -> Page:
    """The files of the exported model, and their size beside the trained weights."""
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    files: list[Row] = [
        {"file": name, "MB": float(f"{sizes[name] / 1e6:.3g}")} for name in sorted(sizes, key=lambda name: -sizes[name])
    ]
    int8 = _int8_comparison(folder)
    return page(
        f"The model of {items:,} items runs without torch from {sum(sizes.values()) / 1e6:,.1f} MB of files, in "
        f"{'int8' if int8 else 'fp32'}; it was trained on {trained_on}.",
        {**int8, "files": table(files)},
        {
            "items": items,
            "trained_weights_bytes": sum(path.stat().st_size for path in checkpoint.glob(_WEIGHTS)),
            "export_seconds": round(seconds, 2),
            "trained_on": trained_on,
        },
    )


def _int8_comparison(folder: Path) -> Page:
    """How the int8 model ranks beside the fp32 model; nothing if the export is in fp32."""
    from genrec_core.bundle.model_folder import ModelFolder

    report = ModelFolder(folder).quantization_report()
    if report is None:
        return {}
    rows: list[Row] = [{"ranking": mode, **agreement} for mode, agreement in report["rankings"].items()]
    return {"int8": table(rows), "int8_method": report["method"]}
