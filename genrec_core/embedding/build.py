"""The vectors of a whole catalogue: new texts are embedded, the others keep their vectors."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genrec_core.data.ids import id_array
from genrec_core.data.item_text import ItemFields
from genrec_core.embedding.item_embeddings import vectors_by_text, write_item_embeddings
from genrec_core.embedding.pieces import EmbeddingPieces
from genrec_core.embedding.text import embed_catalog
from genrec_core.engines.engine import Engine
from genrec_core.settings import EmbeddingSettings

if TYPE_CHECKING:
    import polars as pl


def build_item_embeddings(
    catalog: "pl.DataFrame",
    settings: EmbeddingSettings,
    target: Path,
    earlier: Path | None,
    unfinished: Path,
    on_progress: Callable[[int, int], None] | None = None,
    engine: Engine | None = None,
) -> tuple[dict[str, Any], int]:
    """Write the vectors of ``item_catalog`` to ``target``; returns their statistics, and how many texts were embedded.

    Args:
        earlier: item embeddings of which the same texts take their vectors; None: all are embedded.
        unfinished: where finished vectors are kept until all are there, so that a killed embedding goes on.
        on_progress: called with the number of embedded texts and the number of all that are.
    """
    texts, began = catalog["text"].to_list(), time.monotonic()
    known = vectors_by_text(earlier, settings) if earlier else {}
    pieces = EmbeddingPieces(unfinished, settings)
    vectors, embedded, model = embed_catalog(catalog, settings, known, on_progress, engine, pieces)
    seconds, fields = time.monotonic() - began, ItemFields.of_catalog(catalog)
    item_ids = id_array(catalog["item_id"])
    stats = write_item_embeddings(target, item_ids, texts, vectors, model, seconds, settings, fields)
    pieces.discard()
    return stats, embedded
