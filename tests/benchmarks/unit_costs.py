"""What one item, one user or one target costs: measured here on one thread, in a minute or two, for any scale."""

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from genrec_core.bundle.model_folder import ModelFolder
from genrec_core.recommend.prediction_files import csv_predictions
from genrec_core.recommend.recommender import IN_TURN, Recommender
from genrec_core.settings import PRESETS, EmbeddingSettings, SemanticIdSettings
from tests.benchmarks.trie import VOCABULARY, branching_codes, trie_bytes
from tests.benchmarks.workload import random_histories

Result = TypeVar("Result")
DIM = 384  # of all-MiniLM-L6-v2
_TEXTS, _VECTORS, _TRIE_ITEMS, _USERS, _ROWS = 256, 20_000, 1_000_000, 256, 2_000
_TRAINED_USERS = 600
_SAMPLED_ITEMS = (25_000, 50_000, 100_000)  # beyond dense_full_items, as every large catalogue is
_TEXT = (
    "Title: Nail Lacquer, Simmer and Shimmer 0.5 oz {}; Brand: OPI; Categories: Beauty > Nails > Polish; Price: 8.5;"
)


@dataclass(frozen=True)
class UnitCost:
    """A measured cost.

    Args:
        value: of one unit.
        unit: what it is.
        source: what was measured.
    """

    value: float
    unit: str
    source: str


def measure(model_dir: Path, top_k: int) -> dict[str, UnitCost]:
    """All unit costs, on one thread.

    Args:
        model_dir: an exported model; its sizes are those of the model that is planned.
        top_k: items a user.

    Raises:
        GenrecError: the model cannot be opened.
    """
    from threadpoolctl import threadpool_limits

    from genrec_core.tiger.scorer import one_thread_an_operator

    with one_thread_an_operator(), threadpool_limits(1, user_api="blas"):
        return {**_of_items(), **_of_users(model_dir, top_k), **_of_training()}


def _of_items() -> dict[str, UnitCost]:
    from genrec_core.embedding.text import embed_texts
    from genrec_core.quantization.quantizer import find_codes
    from genrec_core.quantization.residual import ResidualQuantizer
    from genrec_core.quantization.semantic_ids import suffixes_of
    from genrec_core.search.neighbors import nearest_texts
    from genrec_core.search.trie import CodeTrie

    texts = [_TEXT.format(number) for number in range(_TEXTS)]
    vectors = np.random.default_rng(0).normal(size=(_VECTORS, DIM)).astype(np.float32)
    embed_texts(texts[:8], EmbeddingSettings())
    fit_s, quantizer = _timed(lambda: ResidualQuantizer.fit(vectors, SemanticIdSettings()))
    codes = branching_codes(_TRIE_ITEMS)
    build_s, trie = _timed(lambda: CodeTrie.build(codes, (VOCABULARY,) * codes.shape[1]))
    texts_of_items = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    seconds = {
        "embed": (_timed(lambda: embed_texts(texts, EmbeddingSettings()))[0] / _TEXTS, f"{_TEXTS} texts of 30 tokens"),
        "kmeans": (fit_s / _VECTORS, f"3 x 256 on {_VECTORS:,} vectors"),
        "codes": (_timed(lambda: find_codes(quantizer, vectors))[0] / _VECTORS, f"{_VECTORS:,} vectors"),
        "suffix": (_timed(lambda: suffixes_of(codes))[0] / _TRIE_ITEMS, f"{_TRIE_ITEMS:,} items"),
        "trie": (build_s / _TRIE_ITEMS, f"{_TRIE_ITEMS:,} items"),
        "nearest": (
            _timed(lambda: nearest_texts(texts_of_items, 64))[0] / _VECTORS,
            f"64 of each of {_VECTORS:,} vectors",
        ),
    }
    return {
        **{f"{name}_s": UnitCost(value, "core-seconds", source) for name, (value, source) in seconds.items()},
        "trie_bytes": UnitCost(
            trie_bytes(trie) / _TRIE_ITEMS, "bytes an item", f"{_TRIE_ITEMS:,} codes of `bench trie`"
        ),
    }


def _of_users(model_dir: Path, top_k: int) -> dict[str, UnitCost]:
    recommender = Recommender.open(model_dir)
    items = len(recommender.item_ids)
    drawn = random_histories(2 * _USERS, items, seed=0)
    histories = [recommender.item_ids[drawn.of(user)].tolist() for user in range(2 * _USERS)]
    _decode(recommender, histories[_USERS:][:32], top_k)
    decode_s = _decode(recommender, histories[:_USERS], top_k) / _USERS
    written_s, csv_bytes = _written(top_k)
    return {
        "decode_s": UnitCost(decode_s, "core-seconds", f"{_USERS} users, top-{top_k}, {items:,} items, generative"),
        "write_s": UnitCost(written_s, "core-seconds", f"{_ROWS:,} rows of {top_k} items"),
        "csv_bytes": UnitCost(csv_bytes, "bytes a user", f"{_ROWS:,} rows of {top_k} nine-digit ids"),
        "history_items": UnitCost(float(drawn.lengths.mean()), "items a user", "Amazon Beauty, 5-core"),
        **{
            f"{name}_bytes": UnitCost(array.nbytes / items, "bytes an item", "the exported model's file")
            for name, array in _item_arrays(ModelFolder(model_dir)).items()
        },
    }


def _item_arrays(folder: ModelFolder) -> dict[str, np.ndarray]:
    from genrec_core.search.neighbors import Neighbors

    items = folder.items()
    arrays = {"item_vectors": items.vectors, "item_keys": items.keys}
    if neighbors := Neighbors.load(folder.path):
        arrays |= {"neighbors": neighbors.rows, "neighbor_bonus": neighbors.bonus}
    return arrays


def _decode(recommender: Recommender, histories: list[list[int]], top_k: int) -> float:
    """Seconds on one core."""
    return _timed(lambda: recommender.rank(histories, top_k, ranking="generative", pool=IN_TURN))[0]


def _written(top_k: int) -> tuple[float, float]:
    """Seconds and bytes of a row of a CSV of predictions."""
    items = np.random.default_rng(0).integers(10**8, 10**9, size=(_ROWS, top_k))
    users, counts = [str(10**9 + row) for row in range(_ROWS)], np.full(_ROWS, top_k)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "predictions.csv"
        with csv_predictions(path, top_k, header=False) as write:
            seconds, _ = _timed(lambda: write(users, items, counts))
        return seconds / _ROWS, os.stat(path).st_size / _ROWS


def _of_training() -> dict[str, UnitCost]:
    from genrec_core.tiger.training import TrainingData
    from tests.benchmarks.training import random_codes, train_epochs

    preset = PRESETS["beauty"]
    settings = preset.training.model_copy(update={"neighbors": 0})
    seconds = []
    for items in _SAMPLED_ITEMS:
        codes, level_sizes = random_codes(preset.semantic_ids, items, seed=0)
        vectors = np.random.default_rng(0).standard_normal((items, DIM), dtype=np.float32)
        histories = random_histories(_TRAINED_USERS, items, seed=0)
        _, rates = train_epochs(TrainingData(histories, codes, level_sizes, vectors), settings, 2)
        seconds.append(1 / rates[-1])
    growth, constant = np.polyfit(_SAMPLED_ITEMS, seconds, 1)
    sizes = ", ".join(f"{items:,}" for items in _SAMPLED_ITEMS)
    source = f"the `beauty` preset's model on {sizes} items, sampled softmax"
    return {
        "target_s": UnitCost(float(constant), "core-seconds", f"{source}; a straight line at no items"),
        "target_item_s": UnitCost(max(float(growth), 0.0), "core-seconds a target and item", f"{source}; its slope"),
    }


def _timed(work: Callable[[], Result]) -> tuple[float, Result]:
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result
