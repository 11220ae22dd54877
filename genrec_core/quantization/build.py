"""Semantic IDs of a whole catalogue: item vectors, codebooks, codes, suffixes. Fitting needs torch."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from genrec_core.data.histories import Histories
from genrec_core.data.split import training_part
from genrec_core.embedding.item_embeddings import ItemEmbeddings, text_model
from genrec_core.engines.engine import Engine
from genrec_core.quantization.collaborative import with_collaborative_part
from genrec_core.quantization.quantizer import Quantizer, find_codes
from genrec_core.quantization.semantic_ids import METHOD, SemanticIds, fingerprints, stored_settings, summarize
from genrec_core.quantization.suffixes import suffix_vocabulary, suffixes_of
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
    """Fit the codebooks on all items and give each item a code of its own.

    Args:
        embeddings_folder: the folder of the item embeddings.
        settings: see :class:`SemanticIdSettings`.
        target: the folder to write; it is replaced whole or not at all, by rank 0.
        group: torchrun processes that share the work; None: this process alone.
        histories: whole histories, ``user_id`` and ``item_ids``. Their training part says which items are bought
            together. None or a ``collaborative_weight`` of 0: codes of the texts alone.
        engine: computes the codes once the codebooks are fitted; None: this process.

    Returns:
        The content of ``summary.json``; see :func:`summarize`.

    Raises:
        GenrecError: see :meth:`ResidualQuantizer.fit`; or a history has an item without an embedding.

    Source: Rajput et al. 2023 (TIGER), section 3.1, collisions.
    """
    embeddings = ItemEmbeddings.load(embeddings_folder)
    vectors, collaborative = embeddings.raw, None
    if histories is not None and settings.collaborative_weight:
        vectors, collaborative = with_collaborative_part(embeddings, histories, settings, group)
    quantizer = Quantizer.fit(vectors, settings, group)
    codes = find_codes(quantizer, vectors, engine=engine)  # [n, levels]
    ids = _with_suffixes(embeddings.item_ids, codes, quantizer.sizes)
    summary = summarize(ids.codes, ids.level_sizes) | _fit_facts(quantizer, vectors, codes, embeddings.raw.shape[1])
    summary |= {
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
    if _rank_in(group) == 0:
        with atomic_folder(target) as part:
            quantizer.save(part)
            if collaborative is not None:
                collaborative.save(part)
            ids.save(part, summary, fingerprints(embeddings.raw))
    return summary


def _with_suffixes(item_ids: NDArray[np.int64], codes: NDArray[np.int32], sizes: tuple[int, ...]) -> SemanticIds:
    suffixes = suffixes_of(codes)
    level_sizes = (*sizes, suffix_vocabulary(int(suffixes.max())))
    return SemanticIds(item_ids, np.column_stack([codes, suffixes]), level_sizes)


def _fit_facts(
    quantizer: Quantizer, vectors: NDArray[np.float32], codes: NDArray[np.int32], text_dim: int
) -> dict[str, Any]:
    before, *errors = quantizer.errors_by_level(vectors, codes)
    return {
        "fitted_items": len(codes),
        "dim": text_dim,
        "collaborative_dims": vectors.shape[1] - text_dim,
        "clustered_dim": vectors.shape[1],
        "mean_squared_error": errors,
        "reconstruction_error": [error / before if before > 0 else 0.0 for error in errors],
        "iterations": list(quantizer.iterations),
    }


def histories_version(histories: "pl.DataFrame | None", settings: SemanticIdSettings) -> str | None:
    """A hash of the part of the histories that the codes depend on; None if they depend on none."""
    if histories is None or not settings.collaborative_weight:
        return None
    items = histories["item_ids"].explode().drop_nulls().unique().sort().to_numpy()
    trained = training_part(Histories.from_frame(histories, items))
    digest = hashlib.sha256(items[trained.rows].astype("<i8").tobytes())
    digest.update(trained.offsets.astype("<i8").tobytes())
    return digest.hexdigest()


def _rank_in(group: "ProcessGroup | None") -> int:
    """Number of this process within ``group``; 0 where there is no group."""
    if group is None:
        return 0
    from torch.distributed import get_rank

    return get_rank(group)
