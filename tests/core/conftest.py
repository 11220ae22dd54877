"""A tiny catalogue with embeddings, semantic IDs, a random model and its export, built once a session."""

import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from genrec_core.data.histories import HistoryBatch
from genrec_core.embedding.item_embeddings import ItemEmbeddings, write_item_embeddings
from genrec_core.export.items import item_table
from genrec_core.export.onnx import export_recommender
from genrec_core.quantization.build import build_semantic_ids
from genrec_core.quantization.semantic_ids import SemanticIds
from genrec_core.recommend.recommender import Recommender
from genrec_core.settings import SemanticIdSettings
from genrec_core.storage.artifacts import write_manifest
from genrec_core.tiger.config import TigerConfig
from genrec_core.tiger.model import TigerModel
from genrec_core.tiger.scorer import TorchScorer, ranking_weights

ITEMS, DIM = 90, 6


@dataclass(frozen=True)
class TinyModel:
    """Folders of everything that an export reads, and what it wrote."""

    embeddings: Path
    semantic_ids: Path
    checkpoint: Path
    popularity: np.ndarray
    model_dir: Path

    @property
    def level_sizes(self) -> tuple[int, ...]:
        """Vocabulary by level."""
        return SemanticIds.load(self.semantic_ids).level_sizes

    def torch_recommender(self) -> Recommender:
        """The same recommender over the torch model."""
        ids = SemanticIds.load(self.semantic_ids)
        scorer = TorchScorer.from_folder(self.checkpoint, ids.codes, ItemEmbeddings.load(self.embeddings).l2norm)
        return Recommender(
            scorer, ids.item_ids, ids.codes, ids.level_sizes, self.popularity, 12, ranking_weights(scorer.model.config)
        )


def save_random_model(folder: Path, level_sizes: tuple[int, ...], item_vector_dim: int) -> None:
    """A checkpoint of two views whose weights are large enough that scores differ clearly between items."""
    torch.manual_seed(5)
    sizes = {"d_model": 32, "heads": 4, "encoder_layers": 1, "d_ff": 48, "max_history": 12}
    views = {"known_items": ITEMS - 5, "content_views": 2, "id_views": 1, "text_neighbors": 5, "neighbor_weight": 2.0}
    model = TigerModel(TigerConfig(level_sizes=level_sizes, item_vector_dim=item_vector_dim, **sizes, **views))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(8)
    model.save_pretrained(folder)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("tiny_model")
    random = np.random.default_rng(3)
    item_ids = np.sort(random.choice(np.arange(100, 1000), ITEMS, replace=False)).astype(np.int64)
    vectors = random.normal(size=(ITEMS, DIM)).astype(np.float32)
    vectors[1] = vectors[0]  # two items that only the suffix tells apart
    write_item_embeddings(root / "embeddings", item_ids, [f"Title: {item};" for item in item_ids], vectors, "none", 1.0)
    settings = SemanticIdSettings(levels=2, codebook_size=12, iterations=5)
    build_semantic_ids(root / "embeddings", settings, root / "semantic_ids")
    save_random_model(root / "checkpoint", SemanticIds.load(root / "semantic_ids").level_sizes, DIM)
    popularity = random.permutation(ITEMS).astype(np.int64)
    paths = (root / "checkpoint", root / "semantic_ids", root / "embeddings")
    export_recommender(*paths, popularity, root / "model")
    return TinyModel(root / "embeddings", root / "semantic_ids", root / "checkpoint", popularity, root / "model")


@pytest.fixture(scope="session")
def tiny_recommender(tiny_model: TinyModel) -> Recommender:
    return Recommender.from_folder(tiny_model.model_dir, threads=1)


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
    item_table(catalog_of(ids), ids).save(folder)
    write_manifest(folder)
    return folder


@pytest.fixture(scope="session")
def ruled(ruled_dir: Path) -> Recommender:
    """The model, opened."""
    return Recommender.from_folder(ruled_dir, threads=1)


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
