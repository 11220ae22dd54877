"""The exported text encoder gives torch's vectors, and new items the same semantic IDs, where there is no torch."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from genrec_core.cli.main import main
from genrec_core.embedding.item_embeddings import ItemEmbeddings, write_item_embeddings
from genrec_core.embedding.onnx_text import GRAPH, HEADER, OnnxTextEncoder
from genrec_core.embedding.text import embed_texts
from genrec_core.embedding.text_encoder import export_text_encoder
from genrec_core.errors import GenrecError
from genrec_core.export.onnx import export_recommender
from genrec_core.graphs import SELF_TEST
from genrec_core.quantization.build import build_semantic_ids
from genrec_core.quantization.semantic_ids import SemanticIds
from genrec_core.recommend.recommender import Recommender
from genrec_core.search.neighbors import Neighbors
from genrec_core.settings import EmbeddingSettings, SemanticIdSettings
from genrec_core.storage.artifacts import read_json, write_manifest
from genrec_core.tiger.model import TigerConfig, TigerModel

TEXTS = [
    "Title: OPI Nail Lacquer, Simmer and Shimmer; Brand: OPI;",
    "Title: Shampoo;",
    "",
    "   Crème brûlée, 日本 — ÜNICODE\t",
    "a [MASK] that is [SEP] no mask",
    "very " * 400 + "long",
]
# Python as it is where nothing but genrec's own dependencies are installed.
WITHOUT_TORCH = """
import sys
from importlib.machinery import PathFinder
absent = {"torch", "transformers", "sentence_transformers", "onnx", "safetensors", "polars"}
find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *rest: None if name.partition(".")[0] in absent else find(name, *rest)
from genrec_core.cli.main import main
code = main(sys.argv[1:])
assert not absent & set(sys.modules)
sys.exit(code)
"""


@pytest.fixture(scope="module")
def embeddings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embeddings of a small catalogue."""
    folder = tmp_path_factory.mktemp("embeddings") / "e"
    texts = [f"Title: {colour} {thing};" for colour in ("red", "blue", "green", "matt") for thing in THINGS]
    vectors = embed_texts(texts, EmbeddingSettings())
    write_item_embeddings(folder, np.arange(1, len(texts) + 1), texts, vectors, EmbeddingSettings().model, 1.0)
    return folder


THINGS = ("soap", "nail polish", "shampoo", "lipstick", "hair brush", "perfume")


@pytest.fixture(scope="module")
def storage(embeddings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage into which ``genrec export-text-encoder`` wrote the encoder."""
    root = tmp_path_factory.mktemp("storage")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENREC_STORAGE", str(root))
        assert main(["export-text-encoder", "--embeddings", str(embeddings)]) == 0
    return root


@pytest.fixture(scope="module")
def folder(storage: Path) -> Path:
    return storage / "text_encoder" / "all-MiniLM-L6-v2-fp32"


def test_vectors_are_those_of_torch(folder: Path) -> None:
    expected = embed_texts(TEXTS, EmbeddingSettings())
    found = OnnxTextEncoder(folder, threads=1).embed(TEXTS)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    assert ((found * expected).sum(axis=1) / lengths).min() > 0.99999


def test_no_text_gives_no_vector(folder: Path) -> None:
    assert OnnxTextEncoder(folder, threads=1).embed([]).shape == (0, 384)


def test_new_items_get_the_same_semantic_ids_without_torch(
    embeddings: Path, storage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build_semantic_ids(embeddings, SemanticIdSettings(levels=2, codebook_size=8, iterations=5), tmp_path / "ids")
    items = tmp_path / "items.jsonl"
    titles = ["crimson soap bar", "lip gloss", "wooden comb", "เสื้อยืด", "🚗🚲"]
    items.write_text("".join(json.dumps({"item_id": 900 + n, "title": t}) + "\n" for n, t in enumerate(titles)))
    given = ["--items", str(items), "--semantic_ids", str(tmp_path / "ids"), "--embeddings", str(embeddings)]
    assert main(["assign-ids", *given, "--output", str(tmp_path / "torch")]) == 0
    by_torch, told = capsys.readouterr()
    assert "2 of 5 new items have the text vector of an item with another text" in told
    command = [sys.executable, "-c", WITHOUT_TORCH, "assign-ids", *given, "--output", str(tmp_path / "onnx")]
    without = subprocess.run(
        command, capture_output=True, text=True, env={"GENREC_STORAGE": str(storage)}, check=False, cwd=Path.cwd()
    )
    assert without.returncode == 0, without.stderr
    assert without.stdout == by_torch
    assert len(by_torch.splitlines()) == 5


def test_items_are_added_to_a_model_without_torch(embeddings: Path, storage: Path, tmp_path: Path) -> None:
    build_semantic_ids(embeddings, SemanticIdSettings(levels=2, codebook_size=8, iterations=5), tmp_path / "ids")
    sizes = SemanticIds.load(tmp_path / "ids").level_sizes
    shape = {"d_model": 16, "heads": 2, "encoder_layers": 1, "d_ff": 16, "known_items": 24, "item_vector_dim": 384}
    config = TigerConfig(level_sizes=sizes, **shape, id_views=1, neighbor_weight=2.0)
    TigerModel(config).save_pretrained(tmp_path / "checkpoint")
    Neighbors.of(ItemEmbeddings.load(embeddings).l2norm, 4, 2.0).save(tmp_path / "checkpoint")
    paths = (tmp_path / "checkpoint", tmp_path / "ids", embeddings)
    export_recommender(*paths, np.zeros(24, np.int64), tmp_path / "model")
    (tmp_path / "items.csv").write_text("item_id,title\n900,red soap\n901,pink nail polish\n")
    arguments = ["add-items", "--model_dir", str(tmp_path / "model"), "--items", str(tmp_path / "items.csv")]
    command = [sys.executable, "-c", WITHOUT_TORCH, *arguments, "--output", str(tmp_path / "larger")]
    without = subprocess.run(
        command, capture_output=True, text=True, env={"GENREC_STORAGE": str(storage)}, check=False, cwd=Path.cwd()
    )
    assert without.returncode == 0, without.stderr
    assert [line.split()[0] for line in without.stdout.splitlines()] == ["900", "901"]
    found = Recommender.open(tmp_path / "larger").recommend([[900, 1]], 26, allow=[900, 901, 2])
    assert sorted(found[0].tolist()) == [2, 901]


def test_without_torch_and_without_an_encoder_the_remedy_is_named(embeddings: Path, tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("item_id,title\n900,soap\n")
    given = ["--items", str(tmp_path / "items.csv"), "--semantic_ids", "x", "--embeddings", str(embeddings)]
    command = [sys.executable, "-c", WITHOUT_TORCH, "assign-ids", *given, "--output", str(tmp_path / "new")]
    failed = subprocess.run(
        command, capture_output=True, text=True, env={"GENREC_STORAGE": str(tmp_path)}, check=False, cwd=Path.cwd()
    )
    assert failed.returncode == 2
    assert "genrec export-text-encoder" in failed.stderr


def test_an_encoder_of_another_model_is_refused(
    folder: Path, embeddings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "items.csv").write_text("item_id,title\n900,soap\n")
    other = shutil.copytree(embeddings, tmp_path / "embeddings")
    stats = read_json(embeddings / "embedding_stats.json") | {"model": "another"}
    (other / "embedding_stats.json").write_text(json.dumps(stats))
    given = ["--items", str(tmp_path / "items.csv"), "--semantic_ids", "x", "--embeddings", str(other)]
    assert main(["assign-ids", *given, "--text_encoder", str(folder), "--output", str(tmp_path / "new")]) == 2
    assert "holds all-MiniLM-L6-v2, but another embedded the catalogue" in capsys.readouterr().err


def test_a_folder_that_is_no_encoder_or_is_damaged_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / HEADER).write_text("{}")
    with pytest.raises(GenrecError, match="not the header of a 'genrec text encoder 2'"):
        OnnxTextEncoder(tmp_path)
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / GRAPH).write_bytes((folder / GRAPH).read_bytes()[:-1])
    with pytest.raises(GenrecError, match=r"text_encoder\.onnx: differs from the sha256"):
        OnnxTextEncoder(tmp_path)


def test_an_encoder_that_computes_other_vectors_is_refused(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with np.load(folder / SELF_TEST) as stored:
        np.savez(tmp_path / SELF_TEST, **{**stored, "answers": stored["answers"] * np.float32(0.5)})
    write_manifest(tmp_path)
    with pytest.raises(GenrecError, match="does not compute the answers"):
        OnnxTextEncoder(tmp_path)


def test_in_int8_vectors_stay_near(folder: Path, tmp_path: Path) -> None:
    export_text_encoder(EmbeddingSettings(), tmp_path / "int8", int8=True)
    exact, rounded = (OnnxTextEncoder(place, threads=1).embed(TEXTS[:2]) for place in (folder, tmp_path / "int8"))
    cosine = (exact * rounded).sum(axis=1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(rounded, axis=1)
    assert 0.97 < cosine.min() < 0.99999
    assert (tmp_path / "int8" / GRAPH).stat().st_size < 0.7 * (folder / GRAPH).stat().st_size
