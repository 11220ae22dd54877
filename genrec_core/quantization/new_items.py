"""Codes for new items: existing codes and codebooks stay as they are. Needs no torch."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genrec_core.embedding.item_embeddings import require_finite_rows
from genrec_core.engines.engine import Engine
from genrec_core.errors import GenrecError
from genrec_core.quantization.collaborative import CollaborativeMap
from genrec_core.quantization.files import load_array, load_fields
from genrec_core.quantization.quantizer import Quantizer, find_codes
from genrec_core.quantization.semantic_ids import (
    FINGERPRINTS,
    SUMMARY,
    SemanticIds,
    fingerprints,
    next_suffixes,
    require_once,
    write_updated,
)


def assign_ids(
    folder: Path,
    item_ids: Sequence[int],
    vectors: NDArray[np.float32],
    target: Path | None = None,
    engine: Engine | None = None,
) -> SemanticIds:
    """Give new items codes from the stored codebooks and the next free suffix. Existing codes do not change.

    Args:
        folder: the existing semantic IDs.
        item_ids: ids of the m new items.
        vectors: float32 [m, dim], not normalised, of the embedding model that the codebooks were fitted on.
        target: the folder to write, with the new items behind the old ones; None: ``folder`` itself.
        engine: computes the codes; None: this process.

    Returns:
        All semantic IDs, old and new.
    """
    known = SemanticIds.load(folder)
    target = target or folder
    if target.resolve() != folder.resolve() and target.exists() and any(target.iterdir()):
        raise GenrecError(f"{target}: exists and is not empty; give another folder, or remove it first")
    extended = extend_ids(known, item_ids, vectors, folder, folder, engine)
    fit = {}
    hashes: NDArray[np.uint64] | None = None  # semantic IDs of earlier versions have none
    if (folder / FINGERPRINTS).is_file():
        hashes = np.concatenate([load_array(folder / FINGERPRINTS).astype(np.uint64), fingerprints(vectors)])
        (before,) = load_fields(folder / SUMMARY, "fit")
        fit = {"fit": before | {"assigned": before["assigned"] + len(item_ids)}}
    write_updated(folder, target, extended, hashes, fit)
    return extended


def extend_ids(
    known: SemanticIds,
    item_ids: Sequence[int],
    vectors: NDArray[np.float32],
    codebooks: Path,
    source: Path,
    engine: Engine | None = None,
) -> SemanticIds:
    """All semantic IDs, old and new, with the quantiser in the folder ``codebooks``; the rest as :func:`assign_ids`.

    Errors name ``source`` as the folder of ``known``.
    """
    new_ids = _require_new(known, item_ids, source)
    if len(new_ids) != len(vectors):
        raise GenrecError(f"{len(new_ids)} new items but {len(vectors)} vectors; give one vector for each item")
    vectors = np.asarray(vectors, dtype=np.float32)
    require_finite_rows(vectors, "item vectors")
    codes = find_codes(Quantizer.load(codebooks), vectors, CollaborativeMap.load(codebooks), engine)
    suffixes = next_suffixes(known.codes, codes, new_ids, known.level_sizes[-1])
    return SemanticIds(
        np.concatenate([known.item_ids, new_ids]),
        np.concatenate([known.codes, np.column_stack([codes, suffixes])]),
        known.level_sizes,
    )


def _require_new(known: SemanticIds, item_ids: Sequence[int], folder: Path) -> NDArray[np.int64]:
    new_ids = np.asarray(item_ids)
    if new_ids.ndim != 1 or not (np.issubdtype(new_ids.dtype, np.integer) or new_ids.size == 0):
        raise GenrecError("new item ids are not a list of integers; give the data set's integer ids")
    new_ids = new_ids.astype(np.int64)
    existing = np.intersect1d(new_ids, known.item_ids)
    if existing.size:
        raise GenrecError(
            f"item {existing[0]} has a semantic ID already in {folder} ({existing.size} such items); "
            "leave these items out; their codes do not change"
        )
    require_once(new_ids[:, None], new_ids, "the new items", "item id")
    return new_ids
