"""Codes, trie, export and decoding of a catalogue that is too large to train on here: the model has random weights.

The catalogue is that of :mod:`tests.benchmarks.scale`, the model that of the preset ``beauty`` without neighbours.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from genrec_core.embedding.item_embeddings import write_item_embeddings
from genrec_core.quantization.build import build_semantic_ids
from genrec_core.quantization.semantic_ids import SemanticIds
from genrec_core.search.trie import CodeTrie
from genrec_core.settings import PRESETS, SemanticIdSettings
from tests.benchmarks.large_graph import in_own_process
from tests.benchmarks.machine import describe, peak_mb
from tests.benchmarks.scale import catalogue

_MODEL, _HISTORIES = "model", "histories.parquet"


def run(items: int = 3_000_000, users: int = 5_000, dim: int = 384, work: Path | None = None) -> dict[str, Any]:
    """Build, export and search a random model.

    Args:
        items: size of the catalogue.
        users: generated users, whose histories are decoded.
        dim: width of the item vectors.
        work: the folder to keep everything in; a temporary one where None.

    Returns:
        Seconds and peak memory of the building, each step's seconds, and the figures of
        :func:`tests.benchmarks.large_graph.decode`, which is measured in a process of its own. The lists are not
        compared with exact ones, as a beam search says little of a decoder that learned nothing.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = work or Path(temporary)
        seconds = _built(folder, items, users, dim)
        decoding = in_own_process(f"decode(Path({str(folder / _MODEL)!r}), Path({str(folder / _HISTORIES)!r}), 0)")
    return {
        "items": items,
        "seconds": seconds,
        "peak_mb": round(peak_mb()),
        "decoding": decoding,
    } | describe()


def _built(folder: Path, items: int, users: int, dim: int) -> dict[str, float]:
    """Write the model and the histories; the seconds of each step."""
    from genrec_core.export.onnx import export_recommender
    from genrec_core.tiger.model import TigerConfig, TigerModel

    seconds, began = {}, time.monotonic()

    def done(step: str) -> None:
        nonlocal began
        seconds[step], began = round(time.monotonic() - began, 1), time.monotonic()

    histories, vectors = catalogue(items, users, dim)
    lists = [histories.rows[one:other] for one, other in zip(histories.offsets, histories.offsets[1:], strict=False)]
    pl.DataFrame({"item_ids": [rows.tolist() for rows in lists]}).write_parquet(folder / _HISTORIES)
    done("catalogue")
    texts = [f"Item {item}" for item in range(items)]
    write_item_embeddings(folder / "embeddings", np.arange(items), texts, vectors, "none", 1.0)
    del vectors, texts
    done("embeddings")
    build_semantic_ids(folder / "embeddings", SemanticIdSettings(codebook_size=None), folder / "ids")
    done("codes")
    ids = SemanticIds.load(folder / "ids")
    CodeTrie.build(ids.codes, ids.level_sizes)
    done("trie")
    training = PRESETS["beauty"].training
    shape = training.model_dump(include=set(TigerConfig.__dataclass_fields__) & set(type(training).model_fields))
    shape |= {"neighbor_weight": 0.0, "follower_weight": 0.0, "item_vector_dim": dim, "code_rows": 1 << 18}
    config = TigerConfig(**shape, level_sizes=ids.level_sizes)
    TigerModel(config).save_pretrained(folder / "checkpoint")
    done("checkpoint")
    popularity = np.bincount(histories.rows, minlength=items)
    export_recommender(folder / "checkpoint", folder / "ids", folder / "embeddings", popularity, folder / _MODEL)
    done("export")
    return seconds
