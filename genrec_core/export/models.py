"""The folder of ``onnx_encoder``: the measured model as it serves, or beside it the one that was trained again."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from genrec_core.data.histories import Histories
from genrec_core.data.split import everything, training_counts
from genrec_core.export.onnx import export_recommender
from genrec_core.export.quantize import ValidationUsers, quantize_recommender
from genrec_core.quantization.semantic_ids import SemanticIds
from genrec_core.releases.pointer import CHECKPOINT, MEASURED, MODEL
from genrec_core.settings import ExportSettings

if TYPE_CHECKING:
    import polars as pl


def export_models(
    folder: Path,
    measured: Path,
    refitted: Path | None,
    semantic_ids: Path,
    embeddings: Path,
    user_histories: "pl.DataFrame",
    catalog: "pl.DataFrame",
    settings: ExportSettings,
    log: Callable[[str], object],
) -> int:
    """Export a checkpoint into ``folder``; returns the number of items.

    Args:
        measured: the checkpoint whose metrics are known.
        refitted: the checkpoint of the same recipe, trained on all interactions; then ``folder`` gets both exports, as
            ``measured`` and ``model``, and this checkpoint. None: ``folder`` is the export of ``measured``.
        log: gets what int8 weights cost, if they are wanted.
    """
    item_ids = SemanticIds.load(semantic_ids).item_ids
    histories = Histories.from_frame(user_histories, item_ids)
    exports = {folder / MEASURED if refitted else folder: (measured, histories)}
    if refitted:
        exports[folder / MODEL] = shutil.copytree(refitted, folder / CHECKPOINT), everything(histories)
    for target, (checkpoint, trained) in exports.items():
        popularity = training_counts(trained, len(item_ids))
        paths = (checkpoint, semantic_ids, embeddings)
        export_recommender(*paths, popularity, target, catalog, trained=trained, settings=settings)
        if settings.int8:
            users = ValidationUsers.of_validation(histories, item_ids, settings.users)
            report = quantize_recommender(target, target, users, largest_loss=settings.largest_loss)
            log("\n".join(report.lines()))
    return len(item_ids)
