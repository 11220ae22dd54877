"""The catalogue's texts embedded by onnxruntime with weights of 8 bits, in place of torch."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from genrec_core.cli.main import main
from genrec_core.embedding import pieces as embedding_pieces
from genrec_core.embedding import text as embedding_text
from genrec_core.embedding.build import build_item_embeddings
from genrec_core.embedding.item_embeddings import (
    ItemEmbeddings,
    l2_normalized,
    text_settings,
    vectors_by_text,
    write_item_embeddings,
)
from genrec_core.embedding.text import embed_catalog, embed_texts
from genrec_core.errors import GenrecError
from genrec_core.quantization.build import build_semantic_ids
from genrec_core.settings import EmbeddingSettings, SemanticIdSettings
from genrec_core.storage.artifacts import read_json
from tests.core.tiny_model import tiny_encoder

TEXTS = [
    *(f"Title: {what} {number}; Brand: Fiora; Price: {number}.50;" for number in range(4) for what in ("Soap", "Balm")),
    "",
    "   Crème brûlée, 日本 — ÜNICODE\t",
    "very " * 400 + "long",
]
CATALOG = pl.DataFrame({"item_id": list(range(len(TEXTS))), "text": TEXTS})


@pytest.fixture(scope="module")
def exact() -> np.ndarray:
    return embed_texts(TEXTS, EmbeddingSettings())


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    """A sentence encoder that is exported in little time."""
    return str(tiny_encoder(tmp_path))


def built(target: Path, settings: EmbeddingSettings, earlier: Path | None, left: Path) -> tuple[np.ndarray, int]:
    """The vectors that an embedding of ``CATALOG`` wrote, and how many texts it embedded."""
    _, embedded = build_item_embeddings(CATALOG, settings, target, earlier, left)
    return np.array(ItemEmbeddings.load(target).raw), embedded


def test_in_8_bits_vectors_stay_near_those_of_torch(exact: np.ndarray, tmp_path: Path) -> None:
    found, embedded = built(tmp_path / "a", EmbeddingSettings(int8=True), None, tmp_path)
    assert embedded == len(TEXTS)
    cosine = (l2_normalized(found) * l2_normalized(exact)).sum(axis=1)
    assert 0.96 < cosine.min() < 0.9999
    assert cosine.mean() > 0.98


def test_8_bits_that_change_the_vectors_much_are_refused(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_text, "_LEAST_COSINE", 1.1)
    settings = EmbeddingSettings(model=tiny, int8=True)
    with pytest.raises(GenrecError, match=r"cosine of [01]\.\d+ .* set item_embeddings.int8 to false"):
        embed_catalog(CATALOG, settings, {})


def test_a_killed_embedding_goes_on_with_the_same_vectors_in_other_batches(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding_pieces, "PIECE_TEXTS", 2)
    settings = EmbeddingSettings(model=tiny, int8=True, batch_size=1)
    whole, _ = built(tmp_path / "whole", settings.model_copy(update={"batch_size": 64}), None, tmp_path / "left")

    def killed(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_item_embeddings(CATALOG, settings, tmp_path / "again", None, tmp_path / "left", killed)
    again, embedded = built(tmp_path / "again", settings, None, tmp_path / "left")
    assert embedded == len(TEXTS) - 4
    np.testing.assert_array_equal(again, whole)


def test_vectors_of_the_other_precision_are_not_taken(tmp_path: Path, exact: np.ndarray) -> None:
    torch, ids = EmbeddingSettings(), CATALOG["item_id"].to_numpy()
    write_item_embeddings(tmp_path / "t", ids, TEXTS, exact, torch.model, 1.0, torch)
    assert text_settings(tmp_path / "t") == torch
    assert len(vectors_by_text(tmp_path / "t", torch)) == len(TEXTS)
    assert vectors_by_text(tmp_path / "t", EmbeddingSettings(int8=True)) == {}
    stats = read_json(tmp_path / "t/embedding_stats.json")
    del stats["int8"]  # as before there was a choice
    (tmp_path / "t/embedding_stats.json").write_text(json.dumps(stats))
    assert built(tmp_path / "same", torch, tmp_path / "t", tmp_path)[1] == 0


def test_texts_of_new_items_are_read_as_far_as_those_of_the_catalogue(
    tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first 16 tokens decide; the rest of a new text, like that of the catalogue's, is not read."""
    settings = EmbeddingSettings(model=tiny, max_tokens=16)
    titles = ("soap", "nail polish", "shampoo", "lipstick", "hair brush", "perfume", "glitter " * 30)
    texts = [f"Title: {title};" for title in titles]
    vectors = embed_texts(texts, settings)
    write_item_embeddings(tmp_path / "e", np.arange(1, 8), texts, vectors, tiny, 1.0, settings)
    build_semantic_ids(tmp_path / "e", SemanticIdSettings(levels=2, codebook_size=4, iterations=5), tmp_path / "ids")
    items = tmp_path / "items.jsonl"
    items.write_text(json.dumps({"item_id": 900, "title": "glitter " * 20 + "soap " * 40}) + "\n")
    given = ["--items", str(items), "--semantic_ids", str(tmp_path / "ids"), "--embeddings", str(tmp_path / "e")]
    assert main(["assign-ids", *given, "--output", str(tmp_path / "new")]) == 0
    assert "1 of 1 new items have the text vector of an item with another text" in capsys.readouterr().err
