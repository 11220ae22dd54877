"""Semantic IDs of a changed catalogue: what did not change keeps its code, and what makes all codes new is said."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from genrec_core.embedding.item_embeddings import write_item_embeddings
from genrec_core.errors import GenrecError
from genrec_core.quantization.semantic_ids import CODES_WITH_SUFFIX, FINGERPRINTS, SUMMARY, SemanticIds
from genrec_core.quantization.update import Update, assign_ids, update_semantic_ids
from genrec_core.settings import SemanticIdSettings
from genrec_core.storage.artifacts import write_manifest

ITEMS = 300
IDS = np.arange(ITEMS) * 2 + 1  # odd ids; even ones are free for items that come between them
VECTORS = np.random.default_rng(0).normal(size=(ITEMS, 8)).astype(np.float32)


def settings(**given: Any) -> SemanticIdSettings:
    return SemanticIdSettings.model_validate({"levels": 2, "codebook_size": 8, "iterations": 10, **given})


def histories(shift: int = 0) -> pl.DataFrame:
    """Walks along neighbouring items; the training part of one begins ``shift`` items later."""
    starts = [shift, *range(1, 100)]
    walks = [IDS[start : start + 6].tolist() for start in starts]
    return pl.DataFrame({"user_id": [f"u{start}" for start in starts], "item_ids": walks})


def updated(
    target: Path,
    known: Path | None,
    items: dict[int, np.ndarray],
    given: SemanticIdSettings | None = None,
    bought: pl.DataFrame | None = None,
    model: str = "test",
) -> Update:
    """The semantic IDs of ``items``, id to vector, in ``target``."""
    ids, embeddings = sorted(items), target.with_name(f"{target.name}-embeddings")
    vectors = np.stack([items[item] for item in ids])
    write_item_embeddings(embeddings, np.array(ids), [f"Title: {item};" for item in ids], vectors, model, 1.0)
    return update_semantic_ids(
        embeddings, given or settings(), target, known, histories() if bought is None else bought
    )


def catalogue() -> dict[int, np.ndarray]:
    return dict(zip(IDS.tolist(), VECTORS, strict=True))


def codes_of(folder: Path) -> dict[int, tuple[int, ...]]:
    ids = SemanticIds.load(folder)
    return dict(zip(ids.item_ids.tolist(), map(tuple, ids.codes.tolist()), strict=True))


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("known") / "ids"
    assert updated(target, None, catalogue()).refitted == "there were none yet"
    return target


def test_an_unchanged_catalogue_gives_the_same_files(known: Path, tmp_path: Path) -> None:
    update = updated(tmp_path / "ids", known, catalogue())
    assert (update.kept, update.assigned, update.removed, update.refitted) == (ITEMS, 0, 0, None)
    files = sorted(path.name for path in known.iterdir())
    assert sorted(path.name for path in (tmp_path / "ids").iterdir()) == files
    assert all((known / name).read_bytes() == (tmp_path / "ids" / name).read_bytes() for name in files)


def test_only_items_that_came_or_changed_get_codes(known: Path, tmp_path: Path) -> None:
    items, before = catalogue(), codes_of(known)
    items[4], items[1000], items[7] = VECTORS[5], -VECTORS[9], -VECTORS[3]
    del items[21], items[23]
    update = updated(tmp_path / "ids", known, items)
    assert (update.kept, update.assigned, update.removed, update.refitted) == (ITEMS - 3, 3, 2, None)
    after = codes_of(tmp_path / "ids")
    assert list(after) == sorted(items)
    assert {item for item in before if after.get(item) != before[item]} - {7} == {21, 23}
    by_hand = assign_ids(known, [4, 1000], np.stack([items[4], items[1000]]), tmp_path / "by hand")
    assert [code[:-1] for code in map(tuple, by_hand.codes[-2:].tolist())] == [after[4][:-1], after[1000][:-1]]
    assert update.summary["fit"]["assigned"] == 3
    assert updated(tmp_path / "next", tmp_path / "ids", items).kept == len(items)
    assert codes_of(tmp_path / "next") == after


def test_the_code_of_an_item_that_is_gone_is_not_given_again(known: Path, tmp_path: Path) -> None:
    twin = -VECTORS[9]
    updated(tmp_path / "both", known, catalogue() | {4: twin, 6: twin})
    updated(tmp_path / "swapped", tmp_path / "both", catalogue() | {6: twin, 8: twin})
    both, swapped = codes_of(tmp_path / "both"), codes_of(tmp_path / "swapped")
    assert both[4][:-1] == both[6][:-1] == swapped[8][:-1]
    assert swapped[6] == both[6]
    assert swapped[8] not in both.values()


@pytest.mark.parametrize(
    ("given", "bought", "items", "why"),
    [
        ({"codebook_size": 9}, histories(), catalogue(), "codebook_size changed"),
        ({"refit": "always"}, histories(), catalogue(), "refit is always"),
        ({}, histories(shift=50), catalogue(), "the histories changed"),
        ({}, histories(), {item: -vector for item, vector in catalogue().items()}, "100.0% of the items changed"),
        ({"refit_share": 0.001}, histories(), catalogue() | {1000: VECTORS[0]}, "0.3% of the items changed"),
    ],
)
def test_what_makes_all_codes_new_is_said(
    known: Path, tmp_path: Path, given: dict[str, Any], bought: pl.DataFrame, items: dict[int, np.ndarray], why: str
) -> None:
    update = updated(tmp_path / "ids", known, items, settings(**given), bought)
    assert why in (update.refitted or "")
    assert (update.kept, update.assigned) == (0, 0)
    assert (update.summary["fit"]["assigned"], update.summary["fit"]["items"]) == (0, len(items))


def test_items_that_changed_since_the_last_fit_add_up(known: Path, tmp_path: Path) -> None:
    given, items, before = settings(refit_share=0.02), catalogue(), known
    reasons = []
    for number in range(1, 8):
        items[1000 + number] = -VECTORS[number]
        reasons.append(updated(tmp_path / f"{number}", before, items, given).refitted)
        before = tmp_path / f"{number}"
    assert reasons[:6] == [None] * 6
    assert reasons[6] == "2.3% of the items changed since the last fit (most: 2.0%)"


def test_histories_whose_training_part_is_the_same_change_nothing(known: Path, tmp_path: Path) -> None:
    held_out = histories().with_columns(pl.col("item_ids").list.head(4).list.concat(pl.lit([1, 3])))
    assert updated(tmp_path / "ids", known, catalogue(), bought=held_out).refitted is None
    assert updated(tmp_path / "never", known, catalogue(), settings(refit="never"), histories(50)).refitted is None


def without_file(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def without_fit(folder: Path) -> None:
    summary = json.loads((folder / SUMMARY).read_text())
    del summary["fit"]
    (folder / SUMMARY).write_text(json.dumps(summary))


def with_half_of_the_fingerprints(folder: Path) -> None:
    np.save(folder / FINGERPRINTS, np.load(folder / FINGERPRINTS)[: ITEMS // 2])


def of_other_code(folder: Path) -> None:
    summary = json.loads((folder / SUMMARY).read_text())
    summary["fit"]["method"] += 1
    (folder / SUMMARY).write_text(json.dumps(summary))


def unlike_its_manifest(folder: Path) -> None:
    write_manifest(folder)
    of_other_code(folder)


def as_it_was(folder: Path) -> None:
    pass


WIDER = {item: np.append(vector, np.float32(1)) for item, vector in catalogue().items()}


@pytest.mark.parametrize(
    ("damage", "items", "model", "given", "why"),
    [
        (without_file(SUMMARY), catalogue(), "test", {}, "summary.json"),
        (without_file(FINGERPRINTS), catalogue(), "test", {}, "item_fingerprints.npy: no such file"),
        (without_file(CODES_WITH_SUFFIX), catalogue(), "test", {}, "codes_with_suffix.npy: no such file"),
        (without_fit, catalogue(), "test", {}, "has no 'fit'"),
        (with_half_of_the_fingerprints, catalogue(), "test", {}, "item_fingerprints.npy: 150 rows for 300 items"),
        (unlike_its_manifest, catalogue(), "test", {}, "differs from the sha256 in manifest.json"),
        (of_other_code, catalogue(), "test", {}, "the code changed"),
        (as_it_was, catalogue(), "test", {"levels": 3, "seed": 1}, "levels changed, seed changed"),
        (as_it_was, catalogue() | {1000 + i: VECTORS[0] for i in range(40)}, "test", {}, "suffix vocabulary holds"),
        (as_it_was, WIDER, "test", {}, "the vectors had 8 dimensions and have 9"),
        (as_it_was, {i: -v for i, v in catalogue().items()}, "other", {}, "the text model changed from test to other"),
    ],
)
def test_never_refuses_codes_that_cannot_be_kept_and_auto_fits_them_again(
    known: Path,
    tmp_path: Path,
    damage: Callable[[Path], None],
    items: dict[int, np.ndarray],
    model: str,
    given: dict[str, Any],
    why: str,
) -> None:
    old = Path(shutil.copytree(known, tmp_path / "old"))
    damage(old)
    with pytest.raises(GenrecError, match=f"refit is never, but the codes so far cannot be kept: .*{why}.*to auto"):
        updated(tmp_path / "never", old, items, settings(refit="never", **given), model=model)
    assert not (tmp_path / "never").exists()
    assert why in (updated(tmp_path / "auto", old, items, settings(**given), model=model).refitted or "")


def test_never_fits_the_first_codes_and_keeps_them_whatever_share_of_the_items_changes(tmp_path: Path) -> None:
    given = settings(refit="never", refit_share=0.001)
    assert updated(tmp_path / "first", None, catalogue(), given).refitted == "there were none yet"
    update = updated(tmp_path / "next", tmp_path / "first", catalogue() | {1: -VECTORS[0], 1000: VECTORS[0]}, given)
    assert (update.kept, update.assigned, update.refitted) == (ITEMS - 1, 2, None)


def test_a_text_model_that_only_moved_to_another_folder_changes_no_code(known: Path, tmp_path: Path) -> None:
    update = updated(tmp_path / "ids", known, catalogue(), model="/elsewhere/test")
    assert (update.kept, update.refitted) == (ITEMS, None)


def test_codes_of_an_option_that_is_gone_are_kept(known: Path, tmp_path: Path) -> None:
    old = shutil.copytree(known, tmp_path / "old")
    summary = json.loads((old / SUMMARY).read_text())
    summary["settings"] |= {"balance": 1.0, "collisions": "nearest_free"}
    (old / SUMMARY).write_text(json.dumps(summary))
    update = updated(tmp_path / "ids", old, catalogue())
    assert (update.kept, update.refitted) == (ITEMS, None)


def test_codes_that_were_assigned_by_hand_are_kept(known: Path, tmp_path: Path) -> None:
    assign_ids(known, [1000, 4], -VECTORS[:2], tmp_path / "by hand")
    items = catalogue() | {1000: -VECTORS[0], 4: -VECTORS[1]}
    update = updated(tmp_path / "ids", tmp_path / "by hand", items)
    assert (update.kept, update.refitted) == (len(items), None)
    assert codes_of(tmp_path / "ids") == codes_of(tmp_path / "by hand")
    assert update.summary["fit"]["assigned"] == 2


def test_a_code_without_a_free_suffix_makes_all_codes_new(known: Path, tmp_path: Path) -> None:
    alike = {1000 + number: VECTORS[0] for number in range(40)}
    update = updated(tmp_path / "ids", known, catalogue() | alike)
    assert "suffix vocabulary" in (update.refitted or "")
    assert len(set(codes_of(tmp_path / "ids").values())) == ITEMS + 40
