"""Codes follow what is bought together, for items of the histories, for items without any and for items to come."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from genrec_core.data.histories import Histories
from genrec_core.data.split import training_part
from genrec_core.embedding.item_embeddings import write_item_embeddings
from genrec_core.errors import GenrecError
from genrec_core.quantization import collaborative
from genrec_core.quantization.build import build_semantic_ids
from genrec_core.quantization.collaborative import CollaborativeMap, collaborative_vectors, fit_map
from genrec_core.quantization.semantic_ids import SemanticIds
from genrec_core.quantization.update import assign_ids
from genrec_core.settings import SemanticIdSettings

torch.set_num_threads(1)
GROUPS, SIZE, DIM = 4, 20, 16
ITEMS = GROUPS * SIZE
IDS = np.arange(ITEMS) + 1
LONELY = ITEMS - 1  # the row that no training history holds
SETTINGS = SemanticIdSettings(levels=2, codebook_size=GROUPS, collaborative_dims=8)


def histories() -> pl.DataFrame:
    """300 users who stay within one of four groups of items, which the texts know nothing of."""
    random = np.random.default_rng(0)
    lines = []
    for user in range(300):
        group = user % GROUPS
        rows = random.choice(np.arange(group * SIZE, (group + 1) * SIZE), 8, replace=False)
        lines.append((IDS[rows[rows != LONELY]]).tolist())
    return pl.DataFrame({"user_id": [str(user) for user in range(300)], "item_ids": lines})


def texts() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(ITEMS, DIM)).astype(np.float32)


def test_a_vector_that_is_no_number_is_refused(tmp_path: Path) -> None:
    broken = texts()
    broken[17] = np.nan
    write_item_embeddings(tmp_path / "embeddings", IDS, [f"Title: {item};" for item in IDS], texts(), "test", 1.0)
    np.save(tmp_path / "embeddings" / "item_embeddings_raw.npy", broken)
    with pytest.raises(GenrecError, match="not finite, the first is row 17"):
        build_semantic_ids(tmp_path / "embeddings", SETTINGS, tmp_path / "ids", histories=histories())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("collaborative")
    write_item_embeddings(root / "embeddings", IDS, [f"Title: {item};" for item in IDS], texts(), "test", 1.0)
    build_semantic_ids(root / "embeddings", SETTINGS, root / "ids", histories=histories())
    build_semantic_ids(root / "embeddings", SETTINGS, root / "of_text")
    return root


def purity(folder: Path) -> float:
    """Share of items whose first token is the commonest of their group."""
    first = SemanticIds.load(folder).codes[:, 0].reshape(GROUPS, SIZE)
    return float(np.mean([np.bincount(group).max() / SIZE for group in first]))


def test_items_bought_together_share_a_prefix_though_their_texts_do_not(built: Path) -> None:
    assert purity(built / "ids") > 0.9
    assert purity(built / "of_text") < 0.6


def test_vectors_of_items_bought_together_are_near_and_an_item_nobody_bought_has_none() -> None:
    vectors = collaborative_vectors(training_part(Histories.from_frame(histories(), IDS)), ITEMS, SETTINGS)
    assert not vectors[LONELY].any()
    bought = np.delete(np.arange(ITEMS), LONELY)
    np.testing.assert_allclose(np.linalg.norm(vectors[bought], axis=1), 1, rtol=1e-5)
    same = (bought[:, None] // SIZE) == (bought // SIZE)
    nearness = vectors[bought] @ vectors[bought].T
    assert nearness[same].mean() > 0.5 > 0.2 > np.abs(nearness[~same]).mean()


def test_validation_and_test_items_are_not_read(built: Path, tmp_path: Path) -> None:
    frame = histories()
    other = frame.with_columns(pl.col("item_ids").list.slice(0, pl.col("item_ids").list.len() - 2))
    newest = pl.Series([[1, 2]] * len(frame))  # other last two items
    build_semantic_ids(
        built / "embeddings",
        SETTINGS,
        tmp_path / "ids",
        histories=other.with_columns(other["item_ids"].list.concat(newest)),
    )
    for path in (built / "ids").iterdir():
        assert (tmp_path / "ids" / path.name).read_bytes() == path.read_bytes(), path.name


def test_no_pair_of_items_gives_no_vectors() -> None:
    lonely = Histories(["1", "2"], np.array([3, 4], dtype=np.int32), np.array([0, 1, 2]))
    assert not collaborative_vectors(lonely, 6, SETTINGS).any()


def test_a_text_that_says_what_is_bought_with_the_item_is_enough_for_a_new_one() -> None:
    random = np.random.default_rng(2)
    known = np.eye(3, dtype=np.float32)[random.integers(0, 3, 300)]
    text = (known @ random.normal(size=(3, DIM)) + 0.1 * random.normal(size=(300, DIM))).astype(np.float32)
    found = fit_map(text[:200], known[:200], length=2.0).extend(text[200:])
    assert found.shape == (100, DIM + 3)
    np.testing.assert_allclose(np.linalg.norm(found[:, :DIM], axis=1), 1, rtol=1e-5)
    assert np.sum(found[:, DIM:] * known[200:], axis=1).min() > 1.6  # of 2.0


def test_the_map_is_the_same_in_blocks_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    known = np.eye(3, dtype=np.float32)[np.arange(ITEMS) % 3] * (np.arange(ITEMS) % 7 > 0)[:, None].astype(np.float32)
    whole = fit_map(texts(), known, length=2.0)
    monkeypatch.setattr(collaborative, "_BLOCK_ROWS", 9)
    blocks = fit_map(texts(), known, length=2.0)
    np.testing.assert_allclose(blocks.weights, whole.weights, rtol=1e-9)
    extended = blocks.extend(texts(), known)
    np.testing.assert_array_equal(extended[known.any(axis=1), DIM:], 2 * known[known.any(axis=1)])
    monkeypatch.undo()
    np.testing.assert_allclose(extended, whole.extend(texts(), known), atol=1e-6)


def test_new_items_get_codes_from_their_text_alone_and_old_ones_keep_theirs(built: Path, tmp_path: Path) -> None:
    before = SemanticIds.load(built / "ids").codes
    found = assign_ids(built / "ids", [500, 501], texts()[[3, 7]] * 3, tmp_path / "more")
    np.testing.assert_array_equal(found.codes[:ITEMS], before)
    assert CollaborativeMap.load(tmp_path / "more") is not None
    with pytest.raises(GenrecError, match="fitted on \\[n, 16\\]; embed the items with the same model"):
        assign_ids(built / "ids", [500], np.ones((1, DIM + 1), np.float32), tmp_path / "wrong")


def test_a_damaged_map_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "collaborative.npy", np.zeros(3))
    with pytest.raises(GenrecError, match=r"collaborative\.npy: shape"):
        CollaborativeMap.load(tmp_path)
