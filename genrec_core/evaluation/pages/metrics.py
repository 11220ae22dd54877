"""Plots of metrics and training as PNG bytes, and the page ``report.html``, which opens in any browser."""

import base64
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from genrec_core.errors import GenrecError
from genrec_core.evaluation.evaluate import METRICS_FILE, RANKINGS
from genrec_core.evaluation.metrics import RECALL_CUTOFFS, SHOWN_FIRST, TITLES
from genrec_core.evaluation.pages.plotting import GREY, INK, MAIN, PALETTE, as_png, labelled, new_figure
from genrec_core.evaluation.reading import other_way, seen_choice, verdict
from genrec_core.storage.artifacts import atomic_folder, write_json

REPORT_FILE, RECALL_PLOT, SLICES_PLOT = "report.html", "recall.png", "slices.png"
_FILES = (METRICS_FILE, REPORT_FILE, RECALL_PLOT, SLICES_PLOT, "ranks.parquet", "slices.parquet")  # those of 0.1 too
_COLORS = dict(zip(RANKINGS, PALETTE, strict=False))
_SLICED_BY = {"history_length": "items in the history", "target_popularity": "training interactions of the target"}


def write_metrics(folder: Path, metrics: Mapping[str, Any]) -> None:
    """Write ``beauty_metrics.json``, ``report.html`` and two plots.

    ``folder`` is written whole or not at all. It replaces an earlier evaluation.
    """
    require_room_for_metrics(folder)
    plots = {RECALL_PLOT: recall_by_cutoff(metrics), SLICES_PLOT: slice_bars(metrics["slices"])}
    try:
        with atomic_folder(folder) as part:
            write_json(part / METRICS_FILE, metrics)
            (part / REPORT_FILE).write_text(_report_page(metrics, plots), encoding="utf-8")
            for name, png in plots.items():
                (part / name).write_bytes(png)
    except OSError as error:
        raise GenrecError(f"{folder}: cannot be written ({error.strerror or error}); name another folder") from error


def require_room_for_metrics(folder: Path) -> None:
    """Refuse a folder that cannot be replaced whole, or that holds anything but an earlier evaluation."""
    place = folder.resolve()
    if os.path.ismount(place):
        raise GenrecError(f"{folder}: is the root of a disk, which cannot be replaced; name a new folder in it")
    if place.exists() and not place.is_dir():
        raise GenrecError(f"{folder}: is not a folder; name a new one")
    parent = next(path for path in place.parents if os.path.exists(path))
    if not os.access(parent, os.W_OK | os.X_OK):
        raise GenrecError(f"{folder}: no folder may be made in {parent}; name one elsewhere, or get the right to write")
    others = sorted(path.name for path in folder.iterdir() if path.name not in _FILES) if folder.is_dir() else []
    if others:
        raise GenrecError(f"{folder}: holds {others[0]}, which is not a metrics file; name a new folder")


def _report_page(metrics: Mapping[str, Any], plots: Mapping[str, bytes]) -> str:
    rankings = [name for name in RANKINGS if name in metrics]
    folder = FileSystemLoader(Path(__file__).parent)
    templates = Environment(loader=folder, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return templates.get_template("report.html.jinja").render(
        metrics=metrics,
        verdict=verdict(metrics),
        seen_choice=seen_choice(metrics["seen_items"]),
        other_way=other_way(metrics),
        rankings=rankings,
        names=[name for name in TITLES if any(name in metrics[ranking] for ranking in rankings)],
        titles=TITLES,
        shown_first=SHOWN_FIRST,
        plots={name: base64.b64encode(png).decode() for name, png in plots.items()},
    )


def recall_by_cutoff(metrics: Mapping[str, Any]) -> bytes:
    """Recall@K with intervals, from ``beauty_metrics.json``; those of the headline and of popularity have labels."""
    figure, (axes,) = new_figure(1, (6.4, 4.0))
    cutoffs = [k for k in RECALL_CUTOFFS if f"recall@{k}" in metrics[metrics["ranking"]]]
    for name, color in _COLORS.items():
        if name not in metrics:
            continue
        recall = [metrics[name][f"recall@{k}"] for k in cutoffs]
        low, high = zip(*(metrics[name][f"recall@{k}_interval"] for k in cutoffs), strict=True)
        axes.plot(cutoffs, recall, marker="o", color=color, label=name)
        axes.fill_between(cutoffs, low, high, color=color, alpha=0.2, linewidth=0)
        if name in (metrics["ranking"], "popularity"):
            offset = (0, -14) if name == "popularity" else (0, 8)
            for point in zip(cutoffs, recall, strict=True):
                axes.annotate(f"{point[1]:.3f}", point, offset, textcoords="offset points", ha="center", color=color)
    axes.set_xscale("log")
    axes.set_xticks(cutoffs, [str(k) for k in cutoffs])
    axes.minorticks_off()
    axes.margins(x=0.08, y=0.15)
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    history = "taken out" if other_way(metrics) == "history_kept" else "left in"
    labelled(axes, f"Test Recall@K, history {history}", "K", "share of users")
    axes.legend(frameon=False, loc="upper left")
    return as_png(figure)


def slice_bars(slices: Mapping[str, Sequence[Mapping[str, Any]]]) -> bytes:
    """Recall@10 of each of ``slices``, with intervals, beside popularity; an empty slice has no bars."""
    figure, all_axes = new_figure(len(slices), (4.8 * len(slices), 3.8))
    for axes, (by, rows) in zip(all_axes, slices.items(), strict=True):
        positions = np.arange(len(rows))
        columns = ("recall@10", "recall@10_low", "recall@10_high", "popularity_recall@10")
        recall, low, high, popular = np.array([[row[name] or 0.0 for row in rows] for name in columns])
        error = [(recall - low).clip(min=0), (high - recall).clip(min=0)]
        axes.bar(positions - 0.2, recall, 0.4, yerr=error, color=MAIN, ecolor=INK, label="model")
        axes.bar(positions + 0.2, popular, 0.4, color=GREY, label="popularity")
        axes.set_xticks(positions, [f"{row['slice']}\n{row['users']:,} users" for row in rows])
        labelled(axes, "Test Recall@10", _SLICED_BY[by], "share of users")
    figure.legend(*all_axes[0].get_legend_handles_labels(), frameon=False, loc="outside upper right", ncols=2)
    return as_png(figure)


def training_curves(history: Sequence[Mapping[str, float]], best_epoch: float) -> bytes:
    """Loss and validation Recall@10 by epoch; the best epoch is marked if it was validated.

    Args:
        history: ``epochs`` of ``training_history.json``. Some epochs are not validated.
    """
    figure, (left, right) = new_figure(2, (9.6, 3.6))
    from matplotlib.ticker import MaxNLocator

    left.plot([entry["epoch"] for entry in history], [entry["loss"] for entry in history], color=MAIN)
    labelled(left, "Training loss a target", "epoch", "nats")
    curves = {"validation_recall@10": ("hybrid", MAIN), "validation_generative_recall@10": ("generative", GREY)}
    for name, (label, color) in curves.items():
        recall = {entry["epoch"]: entry[name] for entry in history if name in entry}
        right.plot(list(recall), list(recall.values()), marker="o", markersize=4, color=color, label=label)
        if best_epoch in recall:
            best = best_epoch, recall[best_epoch]
            right.plot(*best, marker="o", markersize=9, color=color)
            right.annotate(f"{best[1]:.4f}", best, (0, 9), textcoords="offset points", ha="center")
    right.margins(y=0.2)
    labelled(right, "Validation Recall@10", "epoch", "share of users")
    if any("validation_generative_recall@10" in entry for entry in history):
        right.legend(frameon=False, loc="lower right")
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return as_png(figure)


def exposure_picture(bought: np.ndarray, shown: np.ndarray) -> bytes:
    """How evenly items are bought in training and shown in lists, int64 [n_items] each."""
    figure, (axes,) = new_figure(1, (6.4, 3.6))
    for counts, color, label in ((bought, GREY, "bought in training"), (shown, MAIN, "recommended")):
        share = np.sort(counts[counts > 0])[::-1] / max(int(counts.sum()), 1)
        axes.loglog(np.arange(1, len(share) + 1), share, color=color, linewidth=1.8, label=label)
    axes.legend(frameon=False, loc="lower left", fontsize=8)
    title = f"{np.count_nonzero(shown):,} of {len(shown):,} items are shown"
    labelled(axes, title, "items, the most frequent first", "share")
    return as_png(figure)
