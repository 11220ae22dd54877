"""A tiny catalogue with a random model and its export; ``python -m tests.core.tiny_model FOLDER`` builds it."""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from genrec_core.bundle.item_table import ItemTable
from genrec_core.bundle.model_folder import (
    ADDITION_SETTINGS,
    EXAMPLE_HISTORIES,
    FIRST_SEEN,
    NEW_ITEMS,
    RECENT,
    ModelFolder,
)
from genrec_core.embedding.item_embeddings import ItemEmbeddings, write_item_embeddings
from genrec_core.quantization.build import build_semantic_ids
from genrec_core.quantization.semantic_ids import SemanticIds
from genrec_core.recommend.recommender import Recommender
from genrec_core.search.neighbors import Neighbors
from genrec_core.settings import SemanticIdSettings
from genrec_core.storage.artifacts import read_json, write_json, write_manifest

ITEMS, DIM = 90, 6


@dataclass(frozen=True)
class TinyModel:
    """Folders of everything that an export reads, and of the model that it wrote."""

    root: Path

    @property
    def embeddings(self) -> Path:
        return self.root / "embeddings"

    @property
    def semantic_ids(self) -> Path:
        return self.root / "semantic_ids"

    @property
    def checkpoint(self) -> Path:
        return self.root / "checkpoint"

    @property
    def model_dir(self) -> Path:
        return self.root / "model"

    @property
    def popularity(self) -> np.ndarray:
        """How often each item was bought, int64 [items]."""
        return np.asarray(np.load(self.root / "popularity.npy"))

    @property
    def level_sizes(self) -> tuple[int, ...]:
        """Vocabulary by level."""
        return SemanticIds.load(self.semantic_ids).level_sizes

    def torch_recommender(self) -> Recommender:
        """The same recommender over the torch model."""
        ids = SemanticIds.load(self.semantic_ids)
        pytest.importorskip("torch")
        from genrec_core.tiger.scorer import TorchScorer, ranking_weights

        scorer = TorchScorer.from_folder(self.checkpoint, ids.codes, ItemEmbeddings.load(self.embeddings).l2norm)
        return Recommender(
            scorer, ids.item_ids, ids.codes, ids.level_sizes, self.popularity, 12, ranking_weights(scorer.model.config)
        )


def save_random_model(folder: Path, level_sizes: tuple[int, ...], item_vector_dim: int) -> None:
    """A checkpoint of two views whose weights are large enough that scores differ clearly between items."""
    import torch

    from genrec_core.tiger.model import TigerConfig, TigerModel

    torch.manual_seed(5)
    sizes = {"d_model": 32, "heads": 4, "encoder_layers": 1, "d_ff": 48, "max_history": 12}
    views = {
        "known_items": ITEMS - 5,
        "content_views": 2,
        "id_views": 1,
        "identity_share": 0.65,
        "neighbor_weight": 2.0,
    }
    model = TigerModel(TigerConfig(level_sizes=level_sizes, item_vector_dim=item_vector_dim, **sizes, **views))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(8)
    model.save_pretrained(folder)


def build_tiny_model(root: Path, text_ids: list[str] | None = None) -> TinyModel:
    """Build everything in ``root``; needs torch. The model is the same whether ids are integers or the given texts."""
    import torch

    from genrec_core.export.onnx import export_recommender

    torch.set_num_threads(1)
    random = np.random.default_rng(3)
    item_ids = np.sort(random.choice(np.arange(100, 1000), ITEMS, replace=False)).astype(np.int64)
    if text_ids is not None:
        item_ids = np.array(sorted(text_ids))
    vectors = random.normal(size=(ITEMS, DIM)).astype(np.float32)
    vectors[1] = vectors[0]  # two items that only the suffix tells apart
    write_item_embeddings(root / "embeddings", item_ids, [f"Title: {item};" for item in item_ids], vectors, "none", 1.0)
    settings = SemanticIdSettings(levels=2, codebook_size=12, iterations=5)
    build_semantic_ids(root / "embeddings", settings, root / "semantic_ids")
    save_random_model(root / "checkpoint", SemanticIds.load(root / "semantic_ids").level_sizes, DIM)
    Neighbors.of(ItemEmbeddings.load(root / "embeddings").l2norm, 5, 2.0).save(root / "checkpoint")
    popularity = random.permutation(ITEMS).astype(np.int64)
    np.save(root / "popularity.npy", popularity)
    paths = (root / "checkpoint", root / "semantic_ids", root / "embeddings")
    export_recommender(*paths, popularity, root / "model")
    return TinyModel(root)


def tiny_encoder(folder: Path) -> Path:
    """A sentence encoder of the tiny model's width with random weights, and the real one's tokens."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import AutoTokenizer, BertConfig, BertModel

    from genrec_core.embedding.text import packaged_model_folder

    tokenizer = AutoTokenizer.from_pretrained(packaged_model_folder())
    sizes = {"hidden_size": DIM, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    BertModel(BertConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(folder / "bert")
    tokenizer.save_pretrained(folder / "bert")
    encoder = SentenceTransformer(modules=[Transformer(str(folder / "bert")), Pooling(DIM)], device="cpu")
    encoder.save_pretrained(str(folder / "encoder"))
    return folder / "encoder"


def give_text_model(model: Path, folder: Path) -> None:
    """Give an exported tiny model a text encoder of its width in ``folder``, with random weights, for new items."""
    path = model / NEW_ITEMS / ADDITION_SETTINGS
    write_json(path, read_json(path) | {"embedding_model": str(tiny_encoder(folder))})
    write_manifest(model)


MARKUP = "<img src=x onerror=alert(1)> \u2028 </script> & 'Soap' \"50%\""  # a title that a page must show as text


EXAMPLE_ROWS = [[3, 1, 4], [1, 5, -1]]


def make_shop(path: Path) -> None:
    """Give a model folder what a real export has: a catalogue, times, and two example histories.

    Titles are "Cream N" and "Balm N" by turns, then one of markup, and one item without a title. Of recent items
    the last sold best, and the first is the newest.
    """
    folder, rows = ModelFolder(path), np.arange(ITEMS)
    titles: list[str | None] = [f"{('Cream', 'Balm')[row % 2]} {row}" for row in rows]
    titles[-2:] = [MARKUP, None]
    brands, categories = ["Even", "Odd"] * (ITEMS // 2), ["Beauty > Skin; Gifts", None] * (ITEMS // 2)
    columns = {"title": titles, "brand": brands, "categories": categories, "price": (rows + 0.5).tolist()}
    ItemTable.of(folder.item_ids, columns).save(path)
    folder.save_array(RECENT, rows.astype(np.int64))
    folder.save_array(FIRST_SEEN, (ITEMS - rows).astype(np.int64))
    folder.save_array(EXAMPLE_HISTORIES, np.array(EXAMPLE_ROWS, dtype=np.int32))
    write_manifest(path)


if __name__ == "__main__":
    build_tiny_model(Path(sys.argv[1]))
