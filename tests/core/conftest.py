"""A tiny catalogue with embeddings, semantic IDs, a random model and its export, built once a session."""

import shutil
import struct
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from genrec_core.bundle.item_table import ItemTable
from genrec_core.data.histories import HistoryBatch
from genrec_core.recommend.recommender import Recommender
from genrec_core.search.trie import CodeTrie
from genrec_core.storage.artifacts import write_manifest
from tests.core.tiny_model import TinyModel

# They export models. What else predicts and serves is also tested where torch is not installed (`make test-pythons`).
_NEED_TORCH = ("test_item_additions", "test_onnx_scorer", "test_self_test")
collect_ignore = [] if find_spec("torch") else [f"bundle/{name}.py" for name in _NEED_TORCH]


@pytest.fixture(scope="session")
def assert_picture() -> Callable[[bytes], None]:
    """Fails for what is no PNG of a size that Dagster shows whole, or is too large for an event."""

    def check(png: bytes) -> None:
        assert png.startswith(b"\x89PNG\r\n\x1a\n")
        width, height = struct.unpack(">II", png[16:24])
        assert min(width, height) > 200
        assert width <= 1160
        assert len(png) < 100_000

    return check


CatalogOf = Callable[[np.ndarray], pl.DataFrame]


@pytest.fixture(scope="session")
def catalog_of() -> CatalogOf:
    """A catalogue of some ids: brands Even and Odd by row, a category for ten rows, the row as price but for row 0."""

    def of(item_ids: np.ndarray) -> pl.DataFrame:
        rows = range(len(item_ids))
        return pl.DataFrame(
            {
                "item_id": item_ids,
                "title": [f"Item {row}" for row in rows],
                "brand": ["Odd" if row % 2 else "Even" for row in rows],
                "categories": [f"All > Tens {row // 10}" for row in rows],
                "price": [float(row) if row else None for row in rows],
                "description": ["not carried along"] * len(item_ids),
            }
        )

    return of


@pytest.fixture(scope="session")
def ruled_dir(tiny_model: TinyModel, catalog_of: CatalogOf, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the model."""
    folder = shutil.copytree(tiny_model.model_dir, tmp_path_factory.mktemp("ruled") / "model")
    ids = np.load(folder / "item_ids.npy")
    ItemTable.of_catalog(catalog_of(ids), ids).save(folder)
    write_manifest(folder)
    return folder


@pytest.fixture(scope="session")
def ruled(ruled_dir: Path) -> Recommender:
    """The model, opened."""
    return Recommender.open(ruled_dir)


class TableScorer:
    """A ``CodeScorer`` whose belief depends on the newest item of a history and on the token before."""

    def __init__(self, level_sizes: tuple[int, ...], n_items: int, seed: int) -> None:
        random = np.random.default_rng(seed)
        self.by_item = [random.normal(size=(n_items, size)) for size in level_sizes]
        self.whole = random.normal(size=(n_items, n_items))
        self.by_token = [random.normal(size=(max(level_sizes), size)) for size in level_sizes]

    def start(self, histories: HistoryBatch) -> "TableSession":
        newest = histories.rows[np.arange(len(histories.rows)), histories.lengths - 1]
        return TableSession(self, newest)


class TableSession:
    """One batch of users at one level after the other."""

    def __init__(self, scorer: TableScorer, newest: np.ndarray) -> None:
        self.scorer, self.newest, self.level = scorer, newest, 0

    def item_logits(self) -> np.ndarray:
        logits = self.scorer.whole[self.newest]
        return (logits - np.log(np.exp(logits).sum(-1, keepdims=True))).astype(np.float32)

    def matches(self, trie: CodeTrie) -> None:
        return None

    def lifted(self) -> None:
        return None

    def first(self) -> np.ndarray:
        return self._scored(self.scorer.by_item[0][self.newest])

    def advance(self, tokens: np.ndarray, parents: np.ndarray, users: np.ndarray) -> np.ndarray:
        return self._scored(
            self.scorer.by_item[self.level][self.newest[users]] + self.scorer.by_token[self.level][tokens]
        )

    def _scored(self, logits: np.ndarray) -> np.ndarray:
        self.level += 1
        return (logits - np.log(np.exp(logits).sum(-1, keepdims=True))).astype(np.float32)


@pytest.fixture(scope="session")
def table_scorer() -> Callable[[tuple[int, ...], int, int], TableScorer]:
    """Called with level sizes, items and a seed."""
    return TableScorer
