"""Shares of pairs agree with a loop over all pairs, and the verdict says what they say."""

from itertools import combinations

import numpy as np
import polars as pl
import pytest

from genrec_core.embedding.item_embeddings import l2_normalized
from genrec_core.evaluation import meaning
from genrec_core.evaluation.meaning import (
    CodeMeaning,
    Share,
    alike_nearest,
    alike_share,
    code_meaning,
    department_numbers,
    nearest_of_some,
    purity_share,
)

RANDOM = np.random.default_rng(7)
DEPARTMENTS, FIRST = RANDOM.integers(0, 3, 40), RANDOM.integers(0, 5, 40)
VECTORS = l2_normalized(RANDOM.normal(size=(40, 6)).astype(np.float32))


def test_the_share_of_alike_pairs_is_that_of_a_loop() -> None:
    pairs = list(combinations(range(40), 2))
    alike = [DEPARTMENTS[one] == DEPARTMENTS[other] for one, other in pairs]
    assert alike_share(DEPARTMENTS) == pytest.approx(np.mean(alike))
    near = [DEPARTMENTS[one] == DEPARTMENTS[other] for one, other in pairs if FIRST[one] == FIRST[other]]
    assert alike_share(DEPARTMENTS, FIRST) == pytest.approx(np.mean(near))
    assert alike_share(DEPARTMENTS[:1]) is None


def test_purity_is_the_share_of_the_largest_department_of_each_number() -> None:
    largest = [max(np.bincount(DEPARTMENTS[number == FIRST])) for number in set(FIRST.tolist())]
    share = purity_share(FIRST, DEPARTMENTS)
    assert share.measured == pytest.approx(sum(largest) / 40)
    assert purity_share(DEPARTMENTS, DEPARTMENTS).measured == 1
    assert 0 < share.chance < 1


@pytest.mark.parametrize("at_once", [40, 1000])
def test_neighbours_are_the_nearest_ones(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(meaning, "_COSINES_AT_ONCE", at_once)
    rows, near = nearest_of_some(VECTORS, 5)
    assert rows.tolist() == list(range(40))
    cosines = VECTORS @ VECTORS.T
    np.fill_diagonal(cosines, -2)
    assert [set(row) for row in near.tolist()] == [set(row) for row in np.argsort(-cosines)[:, :5].tolist()]
    assert nearest_of_some(VECTORS[:1], 5)[1].size == 0


def test_neighbours_without_a_department_do_not_count() -> None:
    unknown = np.where(np.arange(40) % 4 == 0, -1, DEPARTMENTS)
    rows, near = nearest_of_some(VECTORS, 5)
    pairs = [
        unknown[row] == unknown[other]
        for row, others in zip(rows, near, strict=True)
        for other in others
        if unknown[row] >= 0 and unknown[other] >= 0
    ]
    share = alike_nearest(VECTORS, unknown)
    assert share is not None
    assert share.measured == pytest.approx(np.mean(pairs))
    assert alike_nearest(VECTORS, np.full(40, -1)) is None
    assert alike_nearest(VECTORS, np.zeros(40, dtype=np.int64)) is None


def test_codes_are_judged_by_departments_or_else_by_texts() -> None:
    codes = np.column_stack([DEPARTMENTS, np.arange(40)]).astype(np.int32)
    judged = code_meaning(codes, DEPARTMENTS, VECTORS)
    assert judged.department is not None
    assert judged.department.measured == 1
    assert judged.verdict.startswith("Codes say what an item is: items with the same first number share")
    by_text = code_meaning(codes, np.full(40, -1), np.eye(3, dtype=np.float32)[DEPARTMENTS])
    assert by_text.text is not None
    assert by_text.text.measured == 1
    assert by_text.verdict.startswith("Codes say what a text is about")
    assert "Nothing judges" in code_meaning(codes[:1], np.array([-1]), VECTORS[:1]).verdict


@pytest.mark.parametrize(
    ("measured", "words"), [(0.65, "Codes say what"), (0.35, "Codes say a little of"), (0.29, "Codes hardly say")]
)
def test_the_verdict_follows_the_share(measured: float, words: str) -> None:
    assert CodeMeaning(Share(measured, 0.28), None, None).verdict.startswith(words)
    assert Share(0.65, 0.28).words == "2.3 times as often as chance (65 % against 28 %)"


def test_unknown_departments_have_no_number() -> None:
    numbers, names = department_numbers(pl.DataFrame({"categories": ["A > B", None, "A > C", "A > B"]}))
    assert (numbers.tolist(), names) == ([0, -1, 1, 0], ["B", "C"])
