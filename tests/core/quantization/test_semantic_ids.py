"""Semantic IDs: unique, summarised truthfully, and extended by new items without touching an old code."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from genrec_core.embedding.item_embeddings import write_item_embeddings
from genrec_core.errors import GenrecError
from genrec_core.quantization.build import build_semantic_ids
from genrec_core.quantization.semantic_ids import SemanticIds, suffix_vocabulary, suffixes_of, summarize
from genrec_core.quantization.update import assign_ids
from genrec_core.settings import SemanticIdSettings
from genrec_core.storage.artifacts import verify_manifest, write_manifest

torch.set_num_threads(1)
ITEMS = 400
IDS = np.arange(ITEMS) * 2 + 1  # odd ids; even ones are free for items to come
LEAST = [
    (name, rule.ge)
    for name, field in SemanticIdSettings.model_fields.items()
    for rule in field.metadata
    if hasattr(rule, "ge")
]


def item_vectors() -> np.ndarray:
    """400 vectors of 8 dimensions; item rows 10, 20 and 30 have one and the same."""
    vectors = np.random.default_rng(0).normal(size=(ITEMS, 8)).astype(np.float32)
    vectors[[20, 30]] = vectors[10]
    return vectors


def write_embeddings(folder: Path) -> Path:
    write_item_embeddings(folder, IDS, [f"Title: {item};" for item in IDS], item_vectors(), "test", 1.0)
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("built") / "ids"
    build_semantic_ids(write_embeddings(target.with_name("embeddings")), small(), target)
    return target


def small(**given: Any) -> SemanticIdSettings:
    return SemanticIdSettings.model_validate({"levels": 2, "codebook_size": 12, "iterations": 10, **given})


@pytest.fixture
def folder(built: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    target = tmp_path / "ids"
    target.mkdir()
    for path in built.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def test_every_item_has_a_code_of_its_own(built: Path) -> None:
    ids = SemanticIds.load(built)

    np.testing.assert_array_equal(ids.item_ids, IDS)
    assert ids.codes.shape == (ITEMS, 3)
    assert ids.codes.dtype == np.int32
    assert len(np.unique(ids.codes, axis=0)) == ITEMS
    np.testing.assert_array_equal(np.load(built / "codes.npy"), ids.codes[:, :2])


@pytest.mark.parametrize(("name", "least"), LEAST)
def test_a_setting_at_its_least_value_gives_every_item_a_code(
    built: Path, tmp_path: Path, name: str, least: float
) -> None:
    random = np.random.default_rng(0)
    histories = pl.DataFrame(
        {"user_id": list("abcdef"), "item_ids": [random.choice(IDS, 9).tolist() for _ in "abcdef"]}
    )
    settings = small(**{"collaborative_dims": 4, name: least})
    build_semantic_ids(built.with_name("embeddings"), settings, tmp_path / "ids", histories=histories)
    assert len(np.unique(SemanticIds.load(tmp_path / "ids").codes, axis=0)) == ITEMS


def test_items_with_one_vector_differ_only_in_suffix_in_row_order(built: Path) -> None:
    codes = SemanticIds.load(built).codes[[10, 20, 30]]

    assert len(np.unique(codes[:, :2], axis=0)) == 1
    assert np.all(np.diff(codes[:, 2]) > 0)


def test_the_summary_tells_what_the_codes_are(built: Path) -> None:
    summary, codes = json.loads((built / "summary.json").read_text()), SemanticIds.load(built).codes
    pairs = [tuple(code) for code in codes[:, :2].tolist()]

    assert (summary["items"], summary["dim"], summary["settings"]["codebook_size"]) == (ITEMS, 8, 12)
    assert summary["collided_items"] == sum(pairs.count(pair) > 1 for pair in pairs)
    assert summary["deepest_suffix"] == codes[:, 2].max()
    assert summary["unique_prefixes"] == [12, len(set(pairs))]
    assert 0 < summary["reconstruction_error"][1] < summary["reconstruction_error"][0] < 1
    assert summary["level_sizes"] == list(SemanticIds.load(built).level_sizes)


def test_use_entropy_and_prefixes_are_counted_right() -> None:
    codes = np.array([[0, 0, 0], [0, 0, 1], [1, 3, 0], [1, 2, 0]], dtype=np.int32)

    assert summarize(codes, [4, 4, 16]) == {
        "items": 4,
        "level_sizes": [4, 4, 16],
        "codebook_use": [0.5, 0.75],
        "codebook_entropy_bits": [1.0, 1.5],
        "unique_prefixes": [2, 3],
        "collided_items": 2,
        "deepest_suffix": 1,
    }


@given(hnp.arrays(np.int32, st.tuples(st.integers(1, 40), st.integers(1, 3)), elements=st.integers(0, 2)))
def test_suffix_is_the_number_of_earlier_rows_with_the_same_code(codes: np.ndarray) -> None:
    rows = [tuple(code) for code in codes.tolist()]

    assert suffixes_of(codes).tolist() == [rows[:row].count(code) for row, code in enumerate(rows)]


@given(st.integers(0, 10_000))
def test_the_suffix_vocabulary_has_room_for_as_many_again(deepest: int) -> None:
    size = suffix_vocabulary(deepest)

    assert size >= max(16, 2 * (deepest + 1))
    assert size % 8 == 0
    assert size < 2 * (deepest + 1) + 16


def test_building_twice_gives_the_same_bytes(built: Path, tmp_path: Path) -> None:
    build_semantic_ids(write_embeddings(tmp_path / "embeddings"), small(), tmp_path / "ids")

    for path in built.iterdir():
        assert (tmp_path / "ids" / path.name).read_bytes() == path.read_bytes(), path.name


def test_rebuilding_with_fewer_levels_leaves_nothing_behind(folder: Path, tmp_path: Path) -> None:
    build_semantic_ids(write_embeddings(tmp_path / "embeddings"), small(levels=1), folder)

    assert not (folder / "centroids_1.npy").exists()
    assert SemanticIds.load(folder).codes.shape == (ITEMS, 2)


def test_new_items_come_behind_and_no_old_code_changes(folder: Path, tmp_path: Path) -> None:
    before = {name: (folder / name).read_bytes() for name in ("codes.npy", "codes_with_suffix.npy", "centroids_0.npy")}
    new = np.random.default_rng(1).normal(size=(5, 8)).astype(np.float32)

    found = assign_ids(folder, [8, 2, 10, 4, 900], new, tmp_path / "extended")

    stored = SemanticIds.load(tmp_path / "extended")
    np.testing.assert_array_equal(stored.codes, found.codes)
    np.testing.assert_array_equal(stored.item_ids, [*IDS, 8, 2, 10, 4, 900])
    assert found.codes[:ITEMS].tobytes() == np.load(folder / "codes_with_suffix.npy").tobytes()
    assert {name: (folder / name).read_bytes() for name in before} == before
    assert (tmp_path / "extended" / "centroids_0.npy").read_bytes() == before["centroids_0.npy"]
    assert stored.level_sizes == SemanticIds.load(folder).level_sizes
    summary = json.loads((tmp_path / "extended" / "summary.json").read_text())
    assert (summary["items"], summary["fitted_items"]) == (ITEMS + 5, ITEMS)


def test_an_item_like_a_known_one_gets_its_code_and_the_next_free_suffix(folder: Path) -> None:
    old = SemanticIds.load(folder).codes
    same = (old[:, :2] == old[10, :2]).all(axis=1)

    found = assign_ids(folder, [2, 4], item_vectors()[[10, 10]]).codes[ITEMS:]

    np.testing.assert_array_equal(found[:, :2], old[[10, 10], :2])
    assert found[:, 2].tolist() == [old[same, 2].max() + 1, old[same, 2].max() + 2]


def test_assigning_one_by_one_is_assigning_at_once(folder: Path, tmp_path: Path) -> None:
    new = item_vectors()[[10, 50, 10]] + np.float32(0.001)
    at_once = assign_ids(folder, [2, 4, 6], new, tmp_path / "at_once")

    for item, vector in zip([2, 4, 6], new, strict=True):
        one_by_one = assign_ids(folder, [item], vector[None])

    np.testing.assert_array_equal(one_by_one.codes, at_once.codes)


def test_assigning_in_place_keeps_the_manifest_true(folder: Path) -> None:
    write_manifest(folder)

    assign_ids(folder, [2], item_vectors()[:1])

    verify_manifest(folder)


def test_assigning_to_a_folder_that_does_not_match_its_manifest_is_refused(folder: Path) -> None:
    write_manifest(folder)
    (folder / "centroids_0.npy").write_bytes((folder / "centroids_1.npy").read_bytes())

    with pytest.raises(GenrecError, match=r"centroids_0.npy: differs from the sha256"):
        assign_ids(folder, [2], item_vectors()[:1])


def test_assigning_needs_no_torch(folder: Path) -> None:
    program = (
        "import sys, pathlib, numpy as np\n"
        "from genrec_core.quantization.update import assign_ids\n"
        f"assign_ids(pathlib.Path({str(folder)!r}), [2], np.ones((1, 8), np.float32))\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    assert SemanticIds.load(folder).item_ids[-1] == 2


@pytest.mark.parametrize(
    ("items", "vectors", "message"),
    [
        ([2, 5], np.ones((2, 8)), "item 5 has a semantic ID already"),
        ([2, 2], np.ones((2, 8)), r"item id \(2,\) appears twice"),
        ([2], np.ones((2, 8)), "1 new items but 2 vectors"),
        ([2], np.ones((1, 9)), r"shape \(1, 9\) do not fit the codebooks"),
        ([2], np.full((1, 8), np.nan), "the first is row 0"),
    ],
)
def test_new_items_that_do_not_fit_are_refused_and_nothing_changes(
    folder: Path, items: list[int], vectors: np.ndarray, message: str
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    with pytest.raises(GenrecError, match=message):
        assign_ids(folder, items, vectors.astype(np.float32))

    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_full_suffix_vocabulary_is_refused_with_the_remedy(folder: Path) -> None:
    room = SemanticIds.load(folder).level_sizes[-1]
    many = np.repeat(item_vectors()[10:11], room, axis=0)

    with pytest.raises(GenrecError, match=rf"suffix vocabulary holds {room}; build new semantic IDs with a larger"):
        assign_ids(folder, list(range(2, 2 + 2 * room, 2)), many)


def test_a_folder_with_other_things_in_it_is_not_overwritten(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").touch()

    with pytest.raises(GenrecError, match="precious: exists and is not empty"):
        assign_ids(folder, [2], item_vectors()[:1], tmp_path / "precious")


def test_no_new_items_change_nothing(folder: Path) -> None:
    before = SemanticIds.load(folder)

    np.testing.assert_array_equal(assign_ids(folder, [], np.zeros((0, 8), np.float32)).codes, before.codes)


def _swap_ids(folder: Path) -> None:
    ids = json.loads((folder / "item_ids.json").read_text())
    (folder / "item_ids.json").write_text(json.dumps([ids[1], ids[0], *ids[2:]]))


def _repeat_id(folder: Path) -> None:
    ids = json.loads((folder / "item_ids.json").read_text())
    (folder / "item_ids.json").write_text(json.dumps([ids[0], *ids[:-1]]))


def _repeat_code(folder: Path) -> None:
    codes = np.load(folder / "codes_with_suffix.npy")
    codes[7] = codes[3]
    np.save(folder / "codes_with_suffix.npy", codes)


def _lose_a_row(folder: Path) -> None:
    np.save(folder / "codes_with_suffix.npy", np.load(folder / "codes_with_suffix.npy")[:-1])


def _leave_the_vocabulary(folder: Path) -> None:
    codes = np.load(folder / "codes_with_suffix.npy")
    codes[5, 1] = 12
    np.save(folder / "codes_with_suffix.npy", codes)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_swap_ids, "items do not ascend"),
        (_repeat_id, r"item id \(1,\) appears twice, for item 1 \(row 0\) and item 1 \(row 1\)"),
        (_repeat_code, r"appears twice, for item 7 \(row 3\) and item 15 \(row 7\)"),
        (_lose_a_row, r"shape \(399, 3\), but there are 400 items and 3 levels"),
        (_leave_the_vocabulary, r"code 12 of item 11 at level 1 is outside 0\.\.11"),
        (lambda folder: (folder / "summary.json").unlink(), r"summary.json: no such file"),
        (lambda folder: (folder / "summary.json").write_text("{}"), r"summary.json: has no 'level_sizes'"),
        (lambda folder: (folder / "item_ids.json").write_text('["1", 2]'), r"item_ids.json: ids are neither"),
        (lambda folder: (folder / "item_ids.json").write_text('{"1": 2}'), r"item_ids.json: not a list of item ids"),
    ],
)
def test_a_damaged_folder_is_refused_by_name(folder: Path, damage: Any, message: str) -> None:
    damage(folder)

    with pytest.raises(GenrecError, match=message):
        SemanticIds.load(folder)
