"""The pages of the assets from the training to the exported model."""

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from genrec_core.settings import TrainingSettings
from genrec_core.storage.artifacts import read_json
from genrec_dagster.metadata import Page, Row, markdown_table, picture, table

CONFIG_FILE, HISTORY_FILE, CURVES_PLOT = "config.json", "training_history.json", "training.png"
_WEIGHTS = "*.safetensors"
_HOLDS = {".onnx": "graph", ".npy": "array", ".json": "facts"}


def training_page(folder: Path, settings: TrainingSettings, mlflow_run: dg.MetadataValue) -> Page:
    """How the training went, with what settings, and what the model is made of; ``folder`` keeps the curves too."""
    from genrec_core.evaluation.pages.metrics import training_curves

    history = read_json(folder / HISTORY_FILE)
    curves = training_curves(history["epochs"], history["best_epoch"])
    (folder / CURVES_PLOT).write_bytes(curves)
    parts = parameters_by_part(folder)
    return {
        "best_validation_recall@10": dg.MetadataValue.float(history["best_recall@10"]),
        "best_epoch": dg.MetadataValue.int(int(history["best_epoch"])),
        "epochs": dg.MetadataValue.int(len(history["epochs"])),
        "training_seconds": dg.MetadataValue.float(history["seconds"]),
        "last_loss": dg.MetadataValue.float(history["epochs"][-1]["loss"]),
        "curves": picture(curves, "loss and validation Recall@10 by epoch"),
        "parameters": dg.MetadataValue.int(sum(parts.values())),
        "parts": table([{"part": name, "parameters": count} for name, count in parts.items()]),
        "settings": dg.MetadataValue.md(markdown_table(_settings_rows(settings))),
        "weights_bytes": dg.MetadataValue.int(_weights_bytes(folder)),
        "mlflow_run": mlflow_run,
    }


def parameters_by_part(checkpoint: Path) -> dict[str, int]:
    """Parameters of each part of a model, the largest part first, by the headers of its weights' files alone."""
    from safetensors import safe_open

    counts: Counter[str] = Counter()
    for path in checkpoint.glob(_WEIGHTS):
        with safe_open(path, "np") as weights:
            for name in weights.keys():  # noqa: SIM118 - it is no dict, and cannot be iterated
                counts[name.split(".")[0]] += math.prod(weights.get_slice(name).get_shape())
    return dict(counts.most_common())


def metrics_page(folder: Path, metrics: Mapping[str, Any], slices: pl.DataFrame) -> Page:
    """Every ranking beside popularity, with intervals, and where it works."""
    from genrec_core.evaluation.evaluate import RANKINGS
    from genrec_core.evaluation.pages.report import RECALL_PLOT, SLICES_PLOT

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
        **{name: dg.MetadataValue.float(headline[name]) for name in ("recall@10", "ndcg@10") if name in headline},
        "metrics": table(rows),
        "ranking": dg.MetadataValue.text(metrics["ranking"]),
        **({"hybrid_weight": dg.MetadataValue.float(metrics["hybrid_weight"])} if "hybrid" in modes else {}),
        "miss_share": dg.MetadataValue.float(metrics["generative"]["miss_share"]),
        "seeds": dg.MetadataValue.text(", ".join(map(str, metrics["seeds"]["seeds"])) if metrics["seeds"] else "one"),
        "users": dg.MetadataValue.int(metrics["users"]),
        "beams": dg.MetadataValue.int(metrics["beams"]),
        "slices": dg.MetadataValue.md(markdown_table(slices.to_dicts())),
        "recall_plot": picture((folder / RECALL_PLOT).read_bytes(), "Recall@K beside popularity"),
        "slices_plot": picture((folder / SLICES_PLOT).read_bytes(), "Recall@10 by slice"),
    }


def export_page(folder: Path, checkpoint: Path, items: int, seconds: float) -> Page:
    """What the exported model is made of, beside the trained one; its checks hold latency and agreement."""
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    files: list[Row] = [
        {"file": name, "holds": _HOLDS.get(Path(name).suffix, ""), "bytes": size}
        for name, size in sorted(sizes.items(), key=lambda entry: -entry[1])
    ]
    return {
        "items": dg.MetadataValue.int(items),
        "bytes": dg.MetadataValue.int(sum(sizes.values())),
        "trained_weights_bytes": dg.MetadataValue.int(_weights_bytes(checkpoint)),
        "seconds": dg.MetadataValue.float(round(seconds, 2)),
        "files": table(files),
        **_rounding(folder),
    }


def _rounding(folder: Path) -> Page:
    """How a model with int8 weights ranks beside the one in fp32; nothing for that one."""
    from genrec_core.bundle.model_folder import ModelFolder

    report = ModelFolder(folder).quantization_report()
    if report is None:
        return {}
    rows: list[Row] = [{"ranking": mode, **found} for mode, found in report["rankings"].items()]
    return {"int8": table(rows), "int8_method": dg.MetadataValue.text(report["method"])}


def _weights_bytes(checkpoint: Path) -> int:
    return sum(path.stat().st_size for path in checkpoint.glob(_WEIGHTS))


def _settings_rows(settings: TrainingSettings) -> list[Row]:
    """Every setting with its value and meaning; what differs from the default is marked."""
    defaults = TrainingSettings()
    return [
        {
            "setting": name,
            "value": str(value),
            "default": "" if value == getattr(defaults, name) else str(getattr(defaults, name)),
            "what it does": TrainingSettings.model_fields[name].description or "",
        }
        for name, value in settings.model_dump().items()
    ]
