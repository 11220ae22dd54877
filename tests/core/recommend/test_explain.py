"""Why an item is recommended: every number is the model's own, recomputed here through lists."""

import shutil
from math import isnan, log
from pathlib import Path

import numpy as np
import pytest

from genrec_core.bundle.item_details import BoughtTogether
from genrec_core.bundle.model_folder import ModelFolder
from genrec_core.data.ids import AnyId
from genrec_core.errors import GenrecError
from genrec_core.recommend.recommender import Recommender
from genrec_core.search.generative import RankingWeights
from genrec_core.search.key_index import KeyIndex, RoundedKeys
from genrec_core.settings import RankingMode
from tests.core.tiny_model import TinyModel

RANKINGS: list[RankingMode] = ["generative", "hybrid", "dense"]


def scores_in_lists(recommender: Recommender, history: list[AnyId], ranking: RankingMode) -> dict[AnyId, float]:
    """The score that the list of all items reports for each."""
    every = recommender.rank([history], len(recommender.item_ids), ranking=ranking, exclude_seen=False)
    return dict(zip(every.of(0).tolist(), every.scores[0].tolist(), strict=True))


def history_of(recommender: Recommender, *rows: int) -> list[AnyId]:
    ids: list[AnyId] = recommender.item_ids[list(rows)].tolist()
    return ids


@pytest.mark.parametrize("ranking", RANKINGS)
@pytest.mark.parametrize("rows", [(3, 50, 7), (8, 8, 20, 8), tuple(range(40, 58)), (0, 88)])
def test_scores_and_effects_are_those_of_lists(
    tiny_recommender: Recommender, ranking: RankingMode, rows: tuple[int, ...]
) -> None:
    history = history_of(tiny_recommender, *rows)
    listed = tiny_recommender.rank([history], 10, ranking=ranking)
    explained = tiny_recommender.explain(history, listed.of(0).tolist(), ranking=ranking, reasons=50)
    np.testing.assert_allclose([each.score for each in explained], listed.scores[0], atol=1e-4)
    for item in set(history[-12:]):
        without = scores_in_lists(tiny_recommender, [other for other in history if other != item], ranking)
        for each in explained:
            (reason,) = [reason for reason in each.reasons if reason.item_id == item]
            assert reason.effect == pytest.approx(each.score - without[each.item_id], abs=2e-4)


def test_the_items_that_the_model_reads_are_the_reasons_the_largest_effect_first(tiny_recommender: Recommender) -> None:
    history = history_of(tiny_recommender, *range(30), 29)
    (whole,) = tiny_recommender.explain(history, history_of(tiny_recommender, 70), reasons=99)
    assert {reason.item_id for reason in whole.reasons} == set(history[-12:])
    effects = [reason.effect for reason in whole.reasons]
    assert effects == sorted(effects, reverse=True)
    assert tiny_recommender.explain(history, [whole.item_id], reasons=2)[0].reasons == whole.reasons[:2]
    assert tiny_recommender.explain(history, [whole.item_id], reasons=0)[0].reasons == []


def test_places_are_those_of_the_lists_that_the_user_gets(tiny_recommender: Recommender) -> None:
    history = history_of(tiny_recommender, 3, 50, 7)
    ids = tiny_recommender.item_ids.tolist()
    lists = {mode: tiny_recommender.recommend([history], 90, ranking=mode)[0].tolist() for mode in RANKINGS}
    for each in tiny_recommender.explain(history, ids, reasons=1):
        seen = each.item_id in history
        assert each.dense_rank == (None if seen else lists["dense"].index(each.item_id) + 1)
        assert each.generative_rank == (None if seen else lists["generative"].index(each.item_id) + 1)
    kept = tiny_recommender.explain(history, history, exclude_seen=False)
    assert all(each.dense_rank is not None for each in kept)


def test_without_any_other_item_the_effect_is_measured_against_a_guess(tiny_recommender: Recommender) -> None:
    history = history_of(tiny_recommender, 5, 5)
    for each in tiny_recommender.explain(history, history_of(tiny_recommender, 9, 80)):
        (reason,) = each.reasons
        assert reason.effect == pytest.approx(each.score + log(90), abs=1e-4)


def test_a_history_without_known_items_has_no_reasons(tiny_recommender: Recommender) -> None:
    (each,) = tiny_recommender.explain([5], history_of(tiny_recommender, 9))
    assert isnan(each.score)
    assert (each.reasons, each.dense_rank, each.generative_rank) == ([], None, None)


def test_unknown_items_of_the_history_are_dropped_and_unknown_ones_to_explain_refused(
    tiny_recommender: Recommender,
) -> None:
    history, item = history_of(tiny_recommender, 3, 50), history_of(tiny_recommender, 9)
    assert tiny_recommender.explain([*history, 5], item) == tiny_recommender.explain(history, item)
    assert tiny_recommender.explain(history, []) == []
    with pytest.raises(GenrecError, match="item 5 is not in the model"):
        tiny_recommender.explain(history, [*item, 5])
    with pytest.raises(GenrecError, match="reasons is -1"):
        tiny_recommender.explain(history, item, reasons=-1)


def test_codes_and_texts_are_compared_with_those_of_the_model(
    tiny_recommender: Recommender, tiny_model: TinyModel
) -> None:
    codes = np.load(tiny_model.model_dir / "codes_with_suffix.npy")
    texts = np.load(tiny_model.model_dir / "new_items" / "text_vectors.npy")
    history = history_of(tiny_recommender, 0, 3, 50)
    (each,) = tiny_recommender.explain(history, history_of(tiny_recommender, 1))
    by_row = {int(np.searchsorted(tiny_recommender.item_ids, reason.item_id)): reason for reason in each.reasons}
    for row, reason in by_row.items():
        assert reason.shared_levels == int((codes[1] == codes[row]).cumprod().sum())
        assert reason.text_similarity == pytest.approx(float(texts[1] @ texts[row]), abs=1e-6)
        assert reason.bought_together is None
    assert by_row[0].text_similarity == pytest.approx(1)


def test_pairs_are_counted_where_either_item_stores_them() -> None:
    partners, counts = np.array([[1, 2], [0, 0], [3, 1], [2, 0]]), np.array([[7, 3], [7, 0], [5, 4], [5, 0]])
    together = BoughtTogether(partners.astype(np.int32), counts.astype(np.int32))
    assert together.of(0, 1) == together.of(1, 0) == 7
    assert together.of(2, 0) == 3
    assert together.of(0, 3) == 0  # item 3 has one partner in all
    assert BoughtTogether(np.array([[2], [3]]), np.array([[5], [5]])).of(0, 1) is None  # both have a better one


def test_a_model_of_one_ranking_says_so(tiny_model: TinyModel) -> None:
    recommender = Recommender.open(tiny_model.model_dir)
    recommender.weights = RankingWeights(dense=False, hybrid=0.5)
    (each,) = recommender.explain(history_of(recommender, 3, 50), history_of(recommender, 9))
    assert (each.ranking, each.dense_rank) == ("generative", None)
    assert each.generative_rank is not None


@pytest.mark.parametrize("ranking", RANKINGS)
def test_a_large_catalogue_is_explained_by_the_scores_of_its_lists(
    tiny_model: TinyModel, ranking: RankingMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("genrec_core.search.key_index.LEAST_SCORED", 40)
    monkeypatch.setattr("genrec_core.search.key_index._SCORED_OF_LIST", 1)
    recommender = Recommender.open(tiny_model.model_dir)
    scorer = recommender.scorer
    scorer.keys = RoundedKeys.of(np.load(tiny_model.model_dir / "item_keys.npy"))
    scorer.index = KeyIndex(recommender.trie, scorer.keys)
    history = history_of(recommender, 3, 50, 7)
    listed = recommender.rank([history], 10, ranking=ranking)
    explained = recommender.explain(history, listed.of(0).tolist(), ranking=ranking)
    np.testing.assert_allclose([each.score for each in explained], listed.scores[0], atol=1e-4)
    places = [each.dense_rank if ranking == "dense" else each.generative_rank for each in explained]
    assert ranking == "hybrid" or places == list(range(1, 11))


def test_withdrawn_items_have_no_place_and_leave_theirs_to_the_next(ruled_dir: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(ruled_dir, tmp_path / "model")
    before = Recommender.open(folder)
    history = history_of(before, 3, 50, 7)
    first, second = before.recommend([history], 2, ranking="dense")[0].tolist()
    ModelFolder(folder).withdraw(np.array([first]))
    gone, best = Recommender.open(folder).explain(history, [first, second], ranking="dense")
    assert (gone.dense_rank, best.dense_rank) == (None, 1)
    assert gone.score > best.score
