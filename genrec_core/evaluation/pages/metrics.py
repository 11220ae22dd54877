"""Plots of metrics and training, as PNG bytes."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from genrec_core.evaluation.metrics import RECALL_CUTOFFS, recall_curve
from genrec_core.evaluation.pages.plotting import GREY, GRID, INK, MAIN, as_png, labelled, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLORS = {
    "generative": "#2563eb",
    "hybrid": "#059669",
    "dense": "#d97706",
    "sasrec": "#7c3aed",
    "popularity": GREY,
}
_SLICED_BY = {"history_length": "items in the history", "target_popularity": "training interactions of the target"}


def recall_by_cutoff(metrics: Mapping[str, Any]) -> bytes:
    """Recall@K of every ranking mode and of popularity, with intervals; the headline's values are written out.

    Args:
        metrics: the content of ``beauty_metrics.json``.
    """
    figure, (axes,) = new_figure(1, (6.4, 4.0))
    cutoffs = [k for k in RECALL_CUTOFFS if f"recall@{k}" in metrics[metrics["ranking"]]]
    for name, color in ((name, color) for name, color in _COLORS.items() if name in metrics):
        recall = [metrics[name][f"recall@{k}"] for k in cutoffs]
        low, high = zip(*(metrics[name][f"recall@{k}_interval"] for k in cutoffs), strict=True)
        axes.plot(cutoffs, recall, marker="o", color=color, label=name)
        axes.fill_between(cutoffs, low, high, color=color, alpha=0.2, linewidth=0)
        for k, value in zip(cutoffs, recall, strict=True):
            if name in (metrics["ranking"], "popularity"):
                offset = (0, -14) if name == "popularity" else (0, 8)
                axes.annotate(f"{value:.3f}", (k, value), offset, textcoords="offset points", ha="center", color=color)
    axes.set_xscale("log")
    axes.set_xticks(cutoffs, [str(k) for k in cutoffs])
    axes.minorticks_off()
    axes.margins(x=0.08, y=0.15)
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    labelled(axes, "Test Recall@K, history taken out", "K", "share of users")
    axes.legend(frameon=False, loc="upper left")
    return as_png(figure)


def recall_curves(ranks: Mapping[str, np.ndarray], depth: int) -> bytes:
    """Recall at every K up to ``depth``, a line a ranking.

    Args:
        ranks: the columns of ``ranks.parquet``.
        depth: deepest K that was ranked.
    """
    figure, (axes,) = new_figure(1, (8.4, 4.4))
    cutoffs = np.arange(1, depth + 1)
    for name, found in ranks.items():
        axes.plot(cutoffs, recall_curve(found, depth), color=_COLORS[name], label=name, linewidth=1.8)
    axes.set_xscale("log")
    labelled(axes, "Recall at every K", "K", "share of users")
    axes.legend(frameon=False, loc="upper left")
    return as_png(figure)


def exposure_curves(shown: Mapping[str, np.ndarray]) -> bytes:
    """Share of all recommended places that the least shown items fill (Lorenz curve), a line a ranking.

    Args:
        shown: how often each item is shown, int [n_items], by ranking.
    """
    figure, (axes,) = new_figure(1, (5.2, 4.4))
    axes.plot([0, 1], [0, 1], color=GRID, linewidth=1.2)
    for name, found in shown.items():
        filled = np.cumsum(np.sort(found)) / max(int(found.sum()), 1)
        axes.plot(np.linspace(0, 1, len(filled)), filled, color=_COLORS[name], label=name, linewidth=1.8)
    labelled(axes, "Who is shown: first 10 places", "share of items, the least shown first", "share of places")
    axes.legend(frameon=False, loc="upper left")
    return as_png(figure)


def slice_bars(slices: pl.DataFrame) -> bytes:
    """Recall@10 by slice, with intervals, beside popularity.

    Args:
        slices: the content of ``slices.parquet``.
    """
    kinds = slices["by"].unique(maintain_order=True).to_list()
    figure, all_axes = new_figure(len(kinds), (4.8 * len(kinds), 3.8))
    for axes, by in zip(all_axes, kinds, strict=True):
        _bars_of_slice(axes, slices.filter(pl.col("by") == by))
        labelled(axes, "Test Recall@10", _SLICED_BY.get(by, by), "share of users")
    figure.legend(*all_axes[0].get_legend_handles_labels(), frameon=False, loc="outside upper right", ncols=2)
    return as_png(figure)


def training_curves(history: Sequence[Mapping[str, float]], best_epoch: float) -> bytes:
    """Loss and validation Recall@10 by epoch.

    Args:
        history: one entry an epoch with ``epoch``, ``loss`` and, where the epoch was validated,
            ``validation_recall@10`` and, beside a dense head, ``validation_generative_recall@10``; the ``epochs`` of
            ``training_history.json``.
        best_epoch: the epoch that is kept; it is marked where it was validated.
    """
    figure, (left, right) = new_figure(2, (9.6, 3.6))
    from matplotlib.ticker import MaxNLocator

    left.plot([entry["epoch"] for entry in history], [entry["loss"] for entry in history], color=MAIN)
    labelled(left, "Training loss a target", "epoch", "nats")
    generates = any("validation_generative_recall@10" in entry for entry in history)
    curves = {"validation_recall@10": ("hybrid", MAIN), "validation_generative_recall@10": ("generative", GREY)}
    for name, (label, color) in curves.items():
        points = [(entry["epoch"], entry[name]) for entry in history if name in entry]
        epochs, recalls = [epoch for epoch, _ in points], [recall for _, recall in points]
        right.plot(epochs, recalls, marker="o", markersize=4, color=color, label=label)
        for epoch, recall in points:
            if epoch == best_epoch:
                right.plot(epoch, recall, marker="o", markersize=9, color=color)
                right.annotate(f"{recall:.4f}", (epoch, recall), (0, 9), textcoords="offset points", ha="center")
    right.margins(y=0.2)
    labelled(right, "Validation Recall@10", "epoch", "share of users")
    if generates:
        right.legend(frameon=False, loc="lower right")
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return as_png(figure)


def latency_picture(milliseconds: np.ndarray, p95: float) -> bytes:
    """How long single users waited.

    Args:
        milliseconds: one a user, float64 [n].
        p95: the 95th percentile.
    """
    figure, (axes,) = new_figure(1, (6.4, 3.4))
    axes.hist(milliseconds, bins=30, color=MAIN)
    axes.axvline(p95, color=GREY, linewidth=1.2, linestyle="--", label=f"95 % within {p95:.3g} ms")
    axes.legend(frameon=False)
    labelled(axes, "Time of a single user", "ms", "users")
    return as_png(figure)


def _bars_of_slice(axes: "Axes", rows: pl.DataFrame) -> None:
    """Two bars a slice; a slice without users has none."""
    positions = range(rows.height)
    recall, low, high, popular = (
        rows[name].fill_null(0.0).to_numpy()
        for name in ("recall@10", "recall@10_low", "recall@10_high", "popularity_recall@10")
    )
    spread = [(recall - low).clip(min=0), (high - recall).clip(min=0)]
    axes.bar([p - 0.2 for p in positions], recall, 0.4, yerr=spread, color=MAIN, ecolor=INK, label="model")
    axes.bar([p + 0.2 for p in positions], popular, 0.4, color=GREY, label="popularity")
    names = [f"{name}\n{users:,} users" for name, users in rows.select("slice", "users").iter_rows()]
    axes.set_xticks(list(positions), names)
