"""The metadata of the assets from the training to the exported model."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from genrec_core.settings import TrainingSettings
from genrec_core.storage.artifacts import read_json
from genrec_dagster.metadata import Page, Row, markdown, picture, table

CONFIG_FILE, HISTORY_FILE, CURVES_PLOT = "config.json", "training_history.json", "training.png"
_WEIGHTS = "*.safetensors"


def training_page(folder: Path, settings: TrainingSettings, mlflow_run: dg.MetadataValue) -> Page:
    """How the training went, its settings, and the size of the model. The curves are also written to ``folder``."""
    from genrec_core.evaluation.pages.metrics import training_curves

    history = read_json(folder / HISTORY_FILE)
    curves = training_curves(history["epochs"], history["best_epoch"])
    (folder / CURVES_PLOT).write_bytes(curves)
    return {
        "best_validation_recall@10": history["best_recall@10"],
        "best_epoch": int(history["best_epoch"]),
        "epochs": len(history["epochs"]),
        "training_seconds": history["seconds"],
        "last_loss": history["epochs"][-1]["loss"],
        "curves": picture(curves, "loss and validation Recall@10 by epoch"),
        "parameters": _count_parameters(folder),
        "settings": markdown([{"setting": name, "value": value} for name, value in settings.model_dump().items()]),
        "weights_bytes": _weights_bytes(folder),
        "mlflow_run": mlflow_run,
    }


def _count_parameters(checkpoint: Path) -> int:
    """The number of parameters of a model; reads only the files' headers."""
    from safetensors import safe_open

    count = 0
    for path in checkpoint.glob(_WEIGHTS):
        with safe_open(path, "np") as weights:
            count += sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.offset_keys())
    return count


def metrics_page(folder: Path, metrics: Mapping[str, Any], slices: pl.DataFrame) -> Page:
    """The metrics of every ranking mode and of popularity, with intervals, and by slices of users and items."""
    from genrec_core.evaluation.evaluate import RANKINGS
    from genrec_core.evaluation.pages.report import RECALL_PLOT, SLICES_PLOT

    served, modes = metrics[metrics["ranking"]], [mode for mode in RANKINGS if mode in metrics]
    rows: list[Row] = [
        {
            "metric": name,
            **{mode: metrics[mode].get(name) for mode in modes},
            "interval": "{:.4f} to {:.4f}".format(*served[f"{name}_interval"])
            if f"{name}_interval" in served
            else None,
            "history kept": metrics[f"{metrics['ranking']}_history_kept"].get(name),
        }
        for name, value in served.items()
        if isinstance(value, float)
    ]
    return {
        **{name: served[name] for name in ("recall@10", "ndcg@10") if name in served},
        "metrics": table(rows),
        "ranking": metrics["ranking"],
        **({"hybrid_weight": metrics["hybrid_weight"]} if "hybrid" in modes else {}),
        "generation_miss_share": metrics["generative"]["miss_share"],
        "seeds": ", ".join(map(str, metrics["seeds"]["seeds"])) if metrics["seeds"] else "only this one",
        "users": metrics["users"],
        "beams": metrics["beams"],
        "slices": markdown(slices.to_dicts()),
        "recall_plot": picture((folder / RECALL_PLOT).read_bytes(), "Recall@K beside popularity"),
        "slices_plot": picture((folder / SLICES_PLOT).read_bytes(), "Recall@10 by slice"),
    }


def export_page(folder: Path, checkpoint: Path, items: int, seconds: float) -> Page:
    """The files of the exported model, and their size beside the trained weights."""
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    files: list[Row] = [{"file": name, "bytes": sizes[name]} for name in sorted(sizes, key=lambda name: -sizes[name])]
    return {
        "items": items,
        "trained_weights_bytes": _weights_bytes(checkpoint),
        "export_seconds": round(seconds, 2),
        "files": table(files),
        **_int8_comparison(folder),
    }


def _int8_comparison(folder: Path) -> Page:
    """How the int8 model ranks beside the fp32 model; nothing if the export is in fp32."""
    from genrec_core.bundle.model_folder import ModelFolder

    report = ModelFolder(folder).quantization_report()
    if report is None:
        return {}
    rows: list[Row] = [{"ranking": mode, **agreement} for mode, agreement in report["rankings"].items()]
    return {"int8": table(rows), "int8_method": report["method"]}


def _weights_bytes(checkpoint: Path) -> int:
    return sum(path.stat().st_size for path in checkpoint.glob(_WEIGHTS))
