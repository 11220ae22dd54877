"""Semantic IDs of a whole catalogue: item vectors, codebooks, codes, suffixes. Fitting needs torch."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from genrec_core.data.histories import Histories, items_of
from genrec_core.data.ids import are_text
from genrec_core.data.split import training_part
from genrec_core.embedding.item_embeddings import ItemEmbeddings, text_model
from genrec_core.engines.engine import Engine
from genrec_core.quantization.collaborative import with_collaborative_part
from genrec_core.quantization.quantizer import Quantizer, find_codes
from genrec_core.quantization.semantic_ids import (
    METHOD,
    SemanticIds,
    fingerprints,
    stored_settings,
    suffix_vocabulary,
    suffixes_of,
    summarize,
)
from genrec_core.settings import SemanticIdSettings
from genrec_core.storage.artifacts import atomic_folder

if TYPE_CHECKING:
    import polars as pl
    from torch.distributed import ProcessGroup


def build_semantic_ids(
    embeddings_folder: Path,
    settings: SemanticIdSettings,
    target: Path,
    group: "ProcessGroup | None" = None,
    histories: "pl.DataFrame | None" = None,
    engine: Engine | None = None,
) -> dict[str, Any]:
    """Fit the codebooks on all items and give each item a code of its own; returns the content of ``summary.json``.

    Args:
        target: the folder to write; rank 0 replaces it whole or not at all.
        group: torchrun processes that share the work; None: this process alone.
        histories: whole histories, ``user_id`` and ``item_ids``, whose training part says which items are bought
            together. None or a ``collaborative_weight`` of 0: codes of the texts alone.
        engine: computes the codes once the codebooks are fitted; None: this process.

    Source: Rajput et al. 2023 (TIGER), section 3.1, collisions.
    """
    embeddings = ItemEmbeddings.load(embeddings_folder)
    vectors, collaborative = embeddings.raw, None
    if histories is not None and settings.collaborative_weight:
        vectors, collaborative = with_collaborative_part(embeddings, histories, settings, group)
    quantizer = Quantizer.fit(vectors, settings, group)
    codes = find_codes(quantizer, vectors, engine=engine)  # [n, levels]
    suffixes = suffixes_of(codes)
    level_sizes = (*quantizer.sizes, suffix_vocabulary(int(suffixes.max())))
    ids = SemanticIds(embeddings.item_ids, np.column_stack([codes, suffixes]), level_sizes)
    variance, *errors = quantizer.errors_by_level(vectors, codes)
    summary = summarize(ids.codes, level_sizes) | {
        "fitted_items": len(codes),
        "dim": embeddings.raw.shape[1],
        "reconstruction_error": [error / variance if variance > 0 else 0.0 for error in errors],
        "settings": stored_settings(settings),
        "fit": {
            "method": METHOD,
            "text_model": text_model(embeddings_folder),
            "items": len(codes),
            "histories": histories_version(histories, settings),
            "assigned": 0,
            "removed": 0,
        },
    }
    if group is None or group.rank() == 0:
        with atomic_folder(target) as part:
            quantizer.save(part)
            if collaborative is not None:
                collaborative.save(part)
            ids.save(part, summary, fingerprints(embeddings.raw))
    return summary


def histories_version(histories: "pl.DataFrame | None", settings: SemanticIdSettings) -> str | None:
    """A hash of the part of the histories that the codes depend on; None if they depend on none."""
    if histories is None or not settings.collaborative_weight:
        return None
    items = items_of(histories)
    trained = training_part(Histories.from_frame(histories, items))
    bought = items[trained.rows]
    content = "\n".join(bought.tolist()).encode() if are_text(bought) else bought.astype("<i8").tobytes()
    digest = hashlib.sha256(content)
    digest.update(trained.offsets.astype("<i8").tobytes())
    return digest.hexdigest()
