"""The recommender: filters, popular items, dropped items, and lists that do not depend on the company of a user."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from genrec_core.bundle.onnx_scorer import OnnxScorer
from genrec_core.data.histories import HistoryBatch
from genrec_core.data.lengths import length_class
from genrec_core.errors import GenrecError
from genrec_core.recommend.recommender import IN_TURN, Recommender
from genrec_core.settings import RankingMode
from genrec_core.storage.artifacts import write_manifest

if TYPE_CHECKING:
    from tests.core.tiny_model import TinyModel


def histories_of(recommender: Recommender, users: int, longest: int = 30) -> list[list[int]]:
    random = np.random.default_rng(users)
    return [random.choice(recommender.item_ids, random.integers(1, longest)).tolist() for _ in range(users)]


def test_lists_are_unique_known_unseen_and_long_enough(tiny_recommender: Recommender) -> None:
    histories = histories_of(tiny_recommender, 30)
    for history, items in zip(histories, tiny_recommender.recommend(histories, 40), strict=True):
        assert len(set(items.tolist())) == len(items) == 40
        assert set(items.tolist()) <= set(tiny_recommender.item_ids.tolist()) - set(history)


@pytest.mark.parametrize("ranking", ["generative", "hybrid", "dense"])
def test_every_ranking_gives_the_lists_of_the_torch_model(
    tiny_model: "TinyModel", tiny_recommender: Recommender, ranking: RankingMode
) -> None:
    ids = tiny_recommender.item_ids
    histories = [ids[[3, 50, 7]].tolist(), ids[[88]].tolist(), ids[20:40].tolist()]
    ours = tiny_recommender.recommend(histories, 20, ranking=ranking)
    wanted = tiny_model.torch_recommender().recommend(histories, 20, ranking=ranking)
    for found, expected in zip(ours, wanted, strict=True):
        assert found.tolist() == expected.tolist()


def test_the_rankings_differ(tiny_recommender: Recommender) -> None:
    history = [tiny_recommender.item_ids[[3, 50, 7]].tolist()]
    modes: list[RankingMode] = ["generative", "hybrid", "dense"]
    lists = {tuple(tiny_recommender.recommend(history, 20, ranking=mode)[0].tolist()) for mode in modes}
    assert len(lists) == 3


def test_a_model_without_a_dense_head_generates_and_says_so_when_asked_for_more(
    tiny_model: "TinyModel", tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_model.model_dir, tmp_path / "model")
    settings = json.loads((folder / "recommender.json").read_text())
    (folder / "recommender.json").write_text(json.dumps({**settings, "dense": False}))
    write_manifest(folder)
    recommender = Recommender.open(folder)
    history = [recommender.item_ids[[3, 50, 7]].tolist()]
    generative, hybrid = (recommender.recommend(history, 9, ranking=mode)[0] for mode in ("generative", "hybrid"))
    assert generative.tolist() == hybrid.tolist()
    with pytest.raises(GenrecError, match="trained without a dense head; choose generative"):
        recommender.recommend(history, 9, ranking="dense")


def test_seen_items_may_be_kept(tiny_recommender: Recommender) -> None:
    history = tiny_recommender.item_ids[:5].tolist()
    (items,) = tiny_recommender.recommend([history], 90, exclude_seen=False)
    assert sorted(items.tolist()) == sorted(tiny_recommender.item_ids.tolist())


def test_seen_items_older_than_what_the_model_reads_are_left_out(tiny_recommender: Recommender) -> None:
    history = tiny_recommender.item_ids[:60].tolist()
    (items,) = tiny_recommender.recommend([history], 90)
    assert sorted(items.tolist()) == tiny_recommender.item_ids[60:].tolist()


def test_a_users_list_does_not_depend_on_the_batch(tiny_recommender: Recommender) -> None:
    histories = histories_of(tiny_recommender, 25)
    together = tiny_recommender.rank(histories, 20)
    for user, history in enumerate(histories):
        alone = tiny_recommender.rank([history], 20)
        np.testing.assert_array_equal(alone.items[0], together.items[user])
        np.testing.assert_allclose(alone.scores[0], together.scores[user], atol=1e-5)
    small = tiny_recommender.rank(histories, 20, batch_users=3)
    np.testing.assert_array_equal(small.items, together.items)


def test_histories_of_like_length_are_decoded_together(
    tiny_model: "TinyModel", tiny_recommender: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[list[int]] = []
    start = OnnxScorer.start

    def counted(scorer: OnnxScorer, histories: HistoryBatch) -> object:
        batches.append(histories.lengths.tolist())
        return start(scorer, histories)

    monkeypatch.setattr(OnnxScorer, "start", counted)
    histories = [tiny_recommender.item_ids[:length].tolist() for length in (12, 2, 0, 7, 3, 30)]
    tiny_recommender.rank(histories, 5, batch_users=3, pool=IN_TURN)
    assert batches == [[12, 12], [2, 3, 7]]  # the longest first; none is longer than what the model reads


def test_how_long_histories_are_alike() -> None:
    assert {length_class(length, 50) for length in (1, 25, 50, 90)} == {0}
    assert [length_class(length, 200) for length in (1, 64, 100, 101, 300)] == [1, 1, 1, 0, 0]
    assert [length_class(length, 512) for length in (1, 64, 65, 129, 257)] == [3, 3, 2, 1, 0]
    assert length_class(3, 12) == 0


def test_allow_and_deny_lists_hold_for_everyone(tiny_recommender: Recommender) -> None:
    allow, deny = tiny_recommender.item_ids[10:30].tolist(), tiny_recommender.item_ids[20:25].tolist()
    histories = [*histories_of(tiny_recommender, 5), []]
    for items in tiny_recommender.recommend(histories, 90, exclude_seen=False, allow=[*allow, -7], deny=[*deny, -7]):
        assert sorted(items.tolist()) == sorted(set(allow) - set(deny))


def test_filters_that_leave_nothing_are_an_error(tiny_recommender: Recommender) -> None:
    with pytest.raises(GenrecError, match="leave no item"):
        tiny_recommender.recommend([[]], 5, allow=[-1])
    with pytest.raises(GenrecError, match="leave no item"):
        tiny_recommender.recommend([[]], 5, deny=tiny_recommender.item_ids.tolist())


def test_a_user_without_known_items_gets_the_popular_ones(
    tiny_model: "TinyModel", tiny_recommender: Recommender
) -> None:
    ranking = tiny_recommender.rank([[], [-1, -2], tiny_recommender.item_ids[:1].tolist()], 7)
    popular = tiny_recommender.item_ids[np.argsort(-tiny_model.popularity)[:7]].tolist()
    assert ranking.of(0).tolist() == ranking.of(1).tolist() == popular
    assert ranking.popular.tolist() == [True, True, False]
    assert ranking.unknown.tolist() == [0, 2, 0]


def test_popular_items_keep_to_the_lists_too(tiny_model: "TinyModel", tiny_recommender: Recommender) -> None:
    deny = tiny_recommender.item_ids[np.argsort(-tiny_model.popularity)[:3]].tolist()
    (items,) = tiny_recommender.recommend([[]], 4, deny=deny)
    assert items.tolist() == tiny_recommender.item_ids[np.argsort(-tiny_model.popularity)[3:7]].tolist()


def test_unknown_items_change_nothing_but_their_count(tiny_recommender: Recommender) -> None:
    known = tiny_recommender.item_ids[:3].tolist()
    plain, mixed = (tiny_recommender.rank([history], 10) for history in (known, [-5, *known, 10**15]))
    np.testing.assert_array_equal(plain.items, mixed.items)
    assert (plain.unknown.tolist(), mixed.unknown.tolist()) == ([0], [2])


def test_more_items_than_there_are_gives_what_there_is(tiny_recommender: Recommender) -> None:
    history = tiny_recommender.item_ids[:4].tolist()
    ranking = tiny_recommender.rank([history, []], 100)
    assert ranking.counts.tolist() == [86, 90]
    assert ranking.items.shape == (2, 100)


def test_items_in_any_order_of_rows_are_mapped(tiny_model: "TinyModel", tiny_recommender: Recommender) -> None:
    recommender = tiny_model.torch_recommender()
    order = np.random.default_rng(0).permutation(90)
    shuffled = Recommender(
        recommender.scorer,
        recommender.item_ids[order],
        np.load(tiny_model.model_dir / "codes_with_suffix.npy"),
        recommender.trie.level_sizes,
        tiny_model.popularity,
        12,
        recommender.weights,
    )
    rows = [3, 50, 7]
    plain = recommender.recommend([recommender.item_ids[rows].tolist()], 10)[0]
    found = shuffled.recommend([shuffled.item_ids[rows].tolist()], 10)[0]
    renamed = dict(zip(recommender.item_ids.tolist(), shuffled.item_ids.tolist(), strict=True))
    assert found.tolist() == [renamed[item] for item in plain.tolist()]


def test_fewer_beams_than_items_asked_for_are_refused(tiny_recommender: Recommender) -> None:
    with pytest.raises(GenrecError, match="5 beams cannot find 10 items"):
        tiny_recommender.recommend([[1]], 10, beams=5)
    with pytest.raises(GenrecError, match="top_k is 0"):
        tiny_recommender.recommend([[1]], 0)


def test_no_users_is_no_error(tiny_recommender: Recommender) -> None:
    assert tiny_recommender.recommend([], 5) == []


def test_a_damaged_or_unfinished_model_folder_is_refused(tiny_model: "TinyModel", tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model.model_dir, tmp_path / "model"))
    with (folder / "popularity.npy").open("ab") as file:
        file.write(b"x")
    with pytest.raises(GenrecError, match=r"popularity\.npy: differs from the sha256"):
        Recommender.open(folder)
    (folder / "manifest.json").unlink()
    with pytest.raises(GenrecError, match="never finished"):
        Recommender.open(folder)


def test_only_who_is_ranked_alone_has_other_cores_used(
    tiny_recommender: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: list[tuple[int, bool]] = []
    start = OnnxScorer.start

    def note(scorer: OnnxScorer, histories: HistoryBatch) -> object:
        noted.append((len(histories.lengths), histories.alone))
        return start(scorer, histories)

    monkeypatch.setattr(OnnxScorer, "start", note)
    one, long = tiny_recommender.item_ids[:3].tolist(), tiny_recommender.item_ids[:12].tolist()
    alone = tiny_recommender.rank([one], 5)
    beside = tiny_recommender.rank([one], 5, pool=IN_TURN)
    tiny_recommender.rank([one, long], 5, batch_users=1)
    assert noted == [(1, True), (1, False), (1, False), (1, False)]
    np.testing.assert_array_equal(alone.items, beside.items)
    np.testing.assert_allclose(alone.scores, beside.scores, atol=1e-5)
