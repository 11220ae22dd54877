"""Writes an evaluation for people: the figures, two plots, and one HTML page that opens in any browser."""

import base64
import os
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from genrec_core.errors import GenrecError
from genrec_core.evaluation.evaluate import METRICS_FILE, RANKS_FILE, SLICES_FILE, Evaluation
from genrec_core.evaluation.metrics import SHOWN_FIRST, TITLES
from genrec_core.evaluation.pages.metrics import exposure_curves, recall_by_cutoff, recall_curves, slice_bars
from genrec_core.storage.artifacts import atomic_folder

REPORT_FILE, RECALL_PLOT, SLICES_PLOT = "report.html", "recall.png", "slices.png"
_FILES = (METRICS_FILE, SLICES_FILE, RANKS_FILE, REPORT_FILE, RECALL_PLOT, SLICES_PLOT)


def write_metrics(folder: Path, evaluation: Evaluation) -> None:
    """Write ``beauty_metrics.json``, ``slices.parquet``, ``ranks.parquet``, ``report.html`` and two plots.

    ``folder`` is written whole or not at all. It replaces an earlier evaluation.
    """
    require_room_for_metrics(folder)
    try:
        with atomic_folder(folder) as part:
            evaluation.write(part)
            (part / REPORT_FILE).write_text(report_page(evaluation), encoding="utf-8")
            (part / RECALL_PLOT).write_bytes(recall_by_cutoff(evaluation.metrics))
            (part / SLICES_PLOT).write_bytes(slice_bars(evaluation.slices))
    except OSError as error:
        raise GenrecError(f"{folder}: cannot be written ({error.strerror or error}); name another folder") from error


def require_room_for_metrics(folder: Path) -> None:
    """Refuse a folder that cannot be replaced whole, or that holds anything but an earlier evaluation."""
    place = folder.resolve()
    if folder.exists() and not folder.is_dir():
        raise GenrecError(f"{folder}: is not a folder; name a new folder for the metrics")
    if os.path.ismount(place):
        raise GenrecError(f"{folder}: is the root of a disk, which cannot be replaced; name a new folder in it")
    parent = next(path for path in place.parents if os.path.exists(path))
    if not os.access(parent, os.W_OK | os.X_OK):
        raise GenrecError(f"{folder}: no folder may be made in {parent}; name one elsewhere, or get the right to write")
    others = sorted(path.name for path in folder.iterdir() if path.name not in _FILES) if folder.is_dir() else []
    if others:
        raise GenrecError(f"{folder}: holds {others[0]}, which is not a metrics file; name a new folder")


def report_page(evaluation: Evaluation) -> str:
    """The page as HTML, with its plots inside."""
    metrics = evaluation.metrics
    plots = {
        "Recall at each K": recall_curves(evaluation.ranks, metrics["beams"]),
        "Lorenz curve of exposure": exposure_curves(evaluation.shown),
        "Recall@10 by slice": slice_bars(evaluation.slices),
    }
    folder = FileSystemLoader(Path(__file__).parent)
    templates = Environment(loader=folder, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return templates.get_template("report.html.jinja").render(
        metrics=metrics,
        rankings=list(evaluation.ranks),
        names=[name for name in TITLES if any(name in metrics[ranking] for ranking in evaluation.ranks)],
        titles=TITLES,
        shown_first=SHOWN_FIRST,
        plots={title: base64.b64encode(png).decode() for title, png in plots.items()},
    )
