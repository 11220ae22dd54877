"""The five files of the item embeddings: written whole, read back the same, refused where they do not fit."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from genrec_core.embedding.item_embeddings import (
    ItemEmbeddings,
    l2_normalized,
    rows_not_told_apart,
    write_item_embeddings,
)
from genrec_core.errors import GenrecError

IDS = np.array([3, 5, 9])
TEXTS = ["Title: a;", "Title: bé;", "Title: a;"]
VECTORS = np.array([[3, 4], [0, 0], [-1, 0]], dtype=np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_item_embeddings(tmp_path / "embeddings", IDS, TEXTS, VECTORS, "some-model", 1.5)
    return tmp_path / "embeddings"


def test_what_was_written_is_read(folder: Path) -> None:
    found = ItemEmbeddings.load(folder)

    np.testing.assert_array_equal(found.item_ids, IDS)
    np.testing.assert_array_equal(found.raw, VECTORS)
    assert found.l2norm.dtype == found.raw.dtype == np.float32
    assert json.loads((folder / "item_text.json").read_text(encoding="utf-8")) == TEXTS
    assert {path.name for path in folder.iterdir()} == {
        "item_embeddings_raw.npy",
        "item_embeddings_l2norm.npy",
        "item_ids.json",
        "item_text.json",
        "embedding_stats.json",
    }


def test_a_zero_vector_stays_zero_and_is_counted(folder: Path) -> None:
    np.testing.assert_allclose(ItemEmbeddings.load(folder).l2norm, [[0.6, 0.8], [0, 0], [-1, 0]], rtol=1e-7)
    assert json.loads((folder / "embedding_stats.json").read_text())["zero_vectors"] == 1


def test_statistics_tell_model_and_repeated_texts(folder: Path) -> None:
    stats = json.loads((folder / "embedding_stats.json").read_text())

    assert (stats["model"], stats["items"], stats["dim"], stats["distinct_texts"]) == ("some-model", 3, 2, 2)


LENGTHS = st.floats(-(2.0**60), 2.0**60, width=32, allow_subnormal=False)


@given(hnp.arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(1, 5)), elements=LENGTHS))
def test_normalised_rows_have_length_one_or_zero(vectors: np.ndarray) -> None:
    lengths = np.linalg.norm(l2_normalized(vectors).astype(np.float64), axis=1)

    np.testing.assert_allclose(lengths, (vectors != 0).any(axis=1), atol=1e-6)


def test_different_texts_of_one_vector_are_not_told_apart() -> None:
    random = np.random.default_rng(0)
    vectors = l2_normalized(random.normal(size=(400, 24)).astype(np.float32))
    texts = [f"Title: {number};" for number in range(400)]
    vectors[[7, 300]] = vectors[3]  # three texts, one vector
    vectors[300] += np.float32(1e-7)  # as another padding gives it
    vectors[9], texts[9] = vectors[8], " title:  8; "  # one text in two spellings
    vectors[11] = vectors[10] + np.float32(1e-3)  # near is not equal
    assert rows_not_told_apart(texts, vectors).tolist() == [3, 7, 300]
    assert rows_not_told_apart([], vectors[:0]).tolist() == []


def test_loading_and_quantising_imports_no_torch(folder: Path) -> None:
    program = (
        "import sys, pathlib, genrec_core.embedding.item_embeddings as e, genrec_core.embedding.text\n"
        "import genrec_core.quantization.update\n"
        f"e.ItemEmbeddings.load(pathlib.Path({str(folder)!r}))\n"
        "assert not {'torch', 'transformers', 'sentence_transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_items_out_of_order_are_named(tmp_path: Path) -> None:
    with pytest.raises(GenrecError, match="item 5 in row 2 follows item 9"):
        write_item_embeddings(tmp_path / "out", np.array([3, 9, 5]), TEXTS, VECTORS, "m", 1.0)


def test_an_item_twice_is_named(tmp_path: Path) -> None:
    with pytest.raises(GenrecError, match="item 3 in row 1 follows item 3"):
        write_item_embeddings(tmp_path / "out", np.array([3, 3, 5]), TEXTS, VECTORS, "m", 1.0)


def test_vectors_that_are_not_finite_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    broken = VECTORS.copy()
    broken[2, 0] = np.nan

    with pytest.raises(GenrecError, match="1 rows are not finite, the first is row 2"):
        write_item_embeddings(tmp_path / "out", IDS, TEXTS, broken, "m", 1.0)
    assert list(tmp_path.iterdir()) == []


def test_a_vector_too_few_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GenrecError, match="3 ids, 3 texts and 2 vectors"):
        write_item_embeddings(tmp_path / "out", IDS, TEXTS, VECTORS[:2], "m", 1.0)


def test_a_missing_file_says_what_to_build(folder: Path) -> None:
    (folder / "item_embeddings_l2norm.npy").unlink()

    with pytest.raises(GenrecError, match=r"item_embeddings_l2norm.npy: no such file"):
        ItemEmbeddings.load(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (VECTORS[:2], r"float32 \(2, 2\), but item_ids.json lists 3 items"),
        (VECTORS.astype(np.float64), "float64"),
        (np.zeros((3, 1), np.float32), r"is \(3, 1\) but item_embeddings_l2norm.npy is \(3, 2\)"),
    ],
)
def test_vectors_that_do_not_fit_are_refused(folder: Path, content: np.ndarray, message: str) -> None:
    np.save(folder / "item_embeddings_raw.npy", content)

    with pytest.raises(GenrecError, match=message):
        ItemEmbeddings.load(folder)


def test_pickled_objects_are_refused(folder: Path) -> None:
    np.save(folder / "item_embeddings_raw.npy", np.array([{}, {}, {}], dtype=object), allow_pickle=True)

    with pytest.raises(GenrecError, match="cannot be read as an array"):
        ItemEmbeddings.load(folder)
