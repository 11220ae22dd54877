"""Plots of metrics and training, as PNG bytes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from genrec_core.evaluation.evaluate import RANKINGS
from genrec_core.evaluation.metrics import RECALL_CUTOFFS, recall_curve
from genrec_core.evaluation.pages.plotting import GREY, GRID, INK, MAIN, as_png, labelled, new_figure

_COLORS = dict(zip(RANKINGS, ("#2563eb", "#059669", "#d97706", "#7c3aed", GREY, "#db2777", "#0891b2"), strict=False))
_SLICED_BY = {"history_length": "items in the history", "target_popularity": "training interactions of the target"}


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
    labelled(axes, "Test Recall@K, history taken out", "K", "share of users")
    axes.legend(frameon=False, loc="upper left")
    return as_png(figure)


def recall_curves(ranks: Mapping[str, np.ndarray], depth: int) -> bytes:
    """Recall at each K up to ``depth``, one line for each ranking of ``ranks.parquet``."""
    figure, (axes,) = new_figure(1, (8.4, 4.4))
    for name, ranks_of_users in ranks.items():
        recall = recall_curve(ranks_of_users, depth)
        axes.plot(np.arange(1, depth + 1), recall, color=_COLORS[name], label=name, linewidth=1.8)
    axes.set_xscale("log")
    labelled(axes, "Recall at each K", "K", "share of users")
    axes.legend(frameon=False, loc="upper left")
    return as_png(figure)


def exposure_curves(shown: Mapping[str, np.ndarray]) -> bytes:
    """Share of all recommended places that the least shown items fill (Lorenz curve).

    Args:
        shown: for each ranking how often each item is shown, int [n_items].
    """
    figure, (axes,) = new_figure(1, (5.2, 4.4))
    axes.plot([0, 1], [0, 1], color=GRID, linewidth=1.2)
    for name, counts in shown.items():
        filled = np.cumsum(np.sort(counts)) / max(int(counts.sum()), 1)
        axes.plot(np.linspace(0, 1, len(filled)), filled, color=_COLORS[name], label=name, linewidth=1.8)
    labelled(axes, "Exposure of items: first 10 places", "share of items, the least shown first", "share of places")
    axes.legend(frameon=False, loc="upper left")
    return as_png(figure)


def slice_bars(slices: pl.DataFrame) -> bytes:
    """Recall@10 of each slice of ``slices.parquet``, with intervals, beside popularity; an empty slice has no bars."""
    kinds = slices.partition_by("by", maintain_order=True)
    figure, all_axes = new_figure(len(kinds), (4.8 * len(kinds), 3.8))
    for axes, rows in zip(all_axes, kinds, strict=True):
        positions = np.arange(rows.height)
        columns = rows.select("recall@10", "recall@10_low", "recall@10_high", "popularity_recall@10").fill_null(0.0)
        recall, low, high, popular = columns.to_numpy().T
        error = [(recall - low).clip(min=0), (high - recall).clip(min=0)]
        axes.bar(positions - 0.2, recall, 0.4, yerr=error, color=MAIN, ecolor=INK, label="model")
        axes.bar(positions + 0.2, popular, 0.4, color=GREY, label="popularity")
        names = [f"{name}\n{users:,} users" for name, users in rows.select("slice", "users").iter_rows()]
        axes.set_xticks(positions, names)
        labelled(axes, "Test Recall@10", _SLICED_BY[rows["by"][0]], "share of users")
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


def latency_picture(milliseconds: np.ndarray, p95: float) -> bytes:
    """How long single users waited: float64 [n], and the 95th percentile."""
    figure, (axes,) = new_figure(1, (6.4, 3.4))
    axes.hist(milliseconds, bins=30, color=MAIN)
    axes.axvline(p95, color=GREY, linewidth=1.2, linestyle="--", label=f"95 % within {p95:.3g} ms")
    axes.legend(frameon=False)
    labelled(axes, "Time of a single user", "ms", "users")
    return as_png(figure)
