"""Items like given items, against the cosines and the codes of all pairs."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec_core.bundle.model_folder import ModelFolder
from genrec_core.errors import GenrecError
from genrec_core.recommend import similar
from genrec_core.recommend.recommender import Recommender
from genrec_core.recommend.similar import Directions, SimilarBy, best_rows, most_shared_levels
from genrec_core.search.generative import RankingWeights
from genrec_core.search.key_index import RoundedKeys
from tests.core.tiny_model import TinyModel

WAYS: list[SimilarBy] = ["model", "text", "codes"]


def directions(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize(("by", "name"), [("model", "item_keys.npy"), ("text", "new_items/text_vectors.npy")])
def test_the_most_similar_have_the_largest_cosine(
    tiny_model: TinyModel, tiny_recommender: Recommender, by: SimilarBy, name: str
) -> None:
    vectors, ids = directions(np.load(tiny_model.model_dir / name)), tiny_recommender.item_ids
    for rows in ([7], [3, 50, 7]):
        found = tiny_recommender.similar([*ids[rows].tolist(), 5], 90, by=by)
        cosines = vectors @ directions(vectors[rows].mean(axis=0, keepdims=True))[0]
        others = np.delete(np.arange(90), rows)
        assert found.items.tolist() == ids[others[np.argsort(-cosines[others], kind="stable")]].tolist()
        np.testing.assert_allclose(found.scores, np.sort(cosines[others])[::-1], atol=1e-5)
        assert tiny_recommender.similar(ids[rows].tolist(), 4, by=by).items.tolist() == found.items[:4].tolist()


def test_by_codes_the_longest_common_beginning_comes_first_and_then_the_model(
    tiny_model: TinyModel, tiny_recommender: Recommender
) -> None:
    codes, ids = np.load(tiny_model.model_dir / "codes_with_suffix.npy"), tiny_recommender.item_ids
    found = tiny_recommender.similar(ids[[1, 40]].tolist(), 88, by="codes")
    shared = (codes[:, None] == codes[None, [1, 40]]).cumprod(axis=2).sum(axis=2).max(axis=1)
    rows = np.searchsorted(ids, found.items)
    assert found.scores.tolist() == shared[rows].tolist() == sorted(np.delete(shared, [1, 40]), reverse=True)
    by_model = tiny_recommender.similar(ids[[1, 40]].tolist(), 88).items.tolist()
    for level in set(shared.tolist()):
        alike = found.items[found.scores == level].tolist()
        assert alike == sorted(alike, key=by_model.index)


@pytest.mark.parametrize("by", WAYS)
def test_masks_and_withdrawn_items_leave_the_others_in_order(ruled_dir: Path, tmp_path: Path, by: SimilarBy) -> None:
    folder = shutil.copytree(ruled_dir, tmp_path / "model")
    before = Recommender.open(folder)
    item = before.item_ids[[7]].tolist()
    every = before.similar(item, 90, by=by).items.tolist()
    ModelFolder(folder).withdraw(np.array(every[:2]))
    after = Recommender.open(folder)
    assert after.similar(item, 90, by=by).items.tolist() == every[2:]
    odd = after.similar(item, 90, by=by, allowed=after.allowed(rule="brand = Odd")).items.tolist()
    facts = {each.item_id: each.brand for each in before.describe(every)}
    assert odd == [other for other in every[2:] if facts[other] == "Odd"]
    assert after.similar(item, 5, by=by, allowed=after.allowed(allow=item)).items.tolist() == []


def test_what_the_model_lacks_is_named(tiny_model: TinyModel) -> None:
    recommender = Recommender.open(tiny_model.model_dir)
    recommender.weights = RankingWeights(dense=False, hybrid=0.5)
    item = recommender.item_ids[[7]].tolist()
    with pytest.raises(GenrecError, match="similar by model: this model has no dense head; choose by text or by codes"):
        recommender.similar(item, 5)
    assert len(recommender.similar(item, 5, by="codes").items) == 5
    with pytest.raises(GenrecError, match="none of the items is in the model"):
        recommender.similar([5], 5)
    with pytest.raises(GenrecError, match="k is 0"):
        recommender.similar(item, 0)


def test_rounded_vectors_in_pieces_give_nearly_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = np.random.default_rng(1).normal(size=(100, 8)).astype(np.float32)
    keys[5] = 0
    exact = Directions(keys).cosines(np.array([3, 50]))
    assert exact[5] == 0
    monkeypatch.setattr(similar, "_CHUNK", 33)
    np.testing.assert_allclose(Directions(RoundedKeys.of(keys)).cosines(np.array([3, 50])), exact, atol=1e-3)


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=1), st.integers(1, 8))
def test_the_best_rows_are_those_of_a_sort(items: list[tuple[int, bool]], k: int) -> None:
    scores, open_ = np.array([score for score, _ in items], dtype=np.float32), np.array([left for _, left in items])
    wanted = sorted((row for row, (_, left) in enumerate(items) if left), key=lambda row: -scores[row])
    assert best_rows(scores, open_, k).tolist() == wanted[:k]


def test_shared_levels_count_the_whole_beginning(tiny_model: TinyModel, tiny_recommender: Recommender) -> None:
    codes = np.load(tiny_model.model_dir / "codes_with_suffix.npy")
    wanted = (codes == codes[1]).cumprod(axis=1).sum(axis=1)
    assert most_shared_levels(tiny_recommender.trie, np.array([1])).tolist() == wanted.tolist()
