"""What an export stores of the training part, and what becomes of it when items are added."""

import shutil
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from genrec_core.bundle.item_additions import add_items
from genrec_core.bundle.item_details import NEVER, BoughtTogether, extend_item_details
from genrec_core.bundle.model_folder import ModelFolder
from genrec_core.bundle.new_items import NewItems
from genrec_core.data.histories import Histories
from genrec_core.errors import GenrecError
from genrec_core.export.item_details import drawn_histories, partners_of, save_item_details
from genrec_core.recommend.recommender import Recommender
from genrec_core.settings import ExportSettings
from genrec_core.storage.artifacts import write_manifest
from tests.core.tiny_model import DIM, ITEMS, TinyModel

DAY = 86_400


def histories_of(*items: list[int], times: list[list[int]] | None = None) -> Histories:
    offsets = np.concatenate([[0], np.cumsum([len(history) for history in items])])
    flat = None if times is None else np.array([time for own in times for time in own], dtype=np.int64)
    rows = np.array([row for history in items for row in history], dtype=np.int32)
    return Histories([f"user-{number}" for number in range(len(items))], rows, offsets, flat)


TRAINED = histories_of(
    [3, 4, 5, 3], [4, 3], [7], [3, 9, 10, 11, 12, 13, 3],
    times=[[0, DAY, 2 * DAY, 99 * DAY], [5, 100 * DAY], [71 * DAY], [50 * DAY] * 6 + [95 * DAY]],
)  # fmt: skip


@pytest.fixture
def detailed(tiny_model: TinyModel, tmp_path: Path) -> Path:
    """A model folder with what the histories above say."""
    folder = Path(shutil.copytree(tiny_model.model_dir, tmp_path / "model"))
    save_item_details(ModelFolder(folder), TRAINED, ITEMS, ExportSettings())
    write_manifest(folder)
    return folder


def test_partners_are_the_items_bought_most_often_within_five_items() -> None:
    random = np.random.default_rng(0)
    walks = [random.integers(0, 12, random.integers(1, 30)).tolist() for _ in range(20)]
    wanted = Counter(
        frozenset((walk[first], walk[second]))
        for walk in walks
        for first, second in combinations(range(len(walk)), 2)
        if second - first <= 5 and walk[first] != walk[second]
    )
    rows, counts = partners_of(histories_of(*walks), 13, most=4)
    assert rows.shape == counts.shape == (13, 4)
    for item in range(13):
        own = sorted((count for pair, count in wanted.items() if item in pair), reverse=True)
        assert counts[item].tolist() == (own + [0] * 4)[:4]
        assert [wanted[frozenset((item, int(row)))] for row in rows[item, : len(own)]] == own[:4]


def test_an_explanation_says_how_often_items_were_bought_together(detailed: Path) -> None:
    recommender = Recommender.open(detailed)
    ids = recommender.item_ids
    (each,) = recommender.explain(ids[[4, 9, 20]].tolist(), ids[[3]].tolist())
    together = {reason.item_id: reason.bought_together for reason in each.reasons}
    assert together == {ids[4]: 3, ids[9]: 2, ids[20]: 0}


def test_example_histories_are_the_newest_items_of_some_users_without_their_ids(detailed: Path) -> None:
    recommender = Recommender.open(detailed)
    ids, stored = recommender.item_ids, recommender.example_histories()
    histories = [TRAINED.of(user) for user in (0, 1, 3)]  # a user with one item is no example
    assert sorted(stored) == sorted(ids[rows].tolist() for rows in histories)
    assert not any(b"user-" in path.read_bytes() for path in detailed.rglob("*.npy"))
    long = histories_of(*([list(range(user, user + 30)) for user in range(40)]))
    drawn = drawn_histories(long, 7)
    assert drawn.shape == (7, 20)
    assert all(row.tolist() == list(range(row[0], row[0] + 20)) and row[0] >= 10 for row in drawn)


def test_a_model_may_store_no_histories(tiny_model: TinyModel, tiny_recommender: Recommender, tmp_path: Path) -> None:
    assert tiny_recommender.example_histories() == []
    save_item_details(ModelFolder(tmp_path), TRAINED, ITEMS, ExportSettings(example_histories=0))
    assert not (tmp_path / "example_histories.npy").exists()


def test_users_without_a_known_item_get_what_is_popular_recent_or_new(detailed: Path) -> None:
    recommender = Recommender.open(detailed)
    rank = {row: place for place, row in enumerate(recommender.popular_rows.tolist())}
    lists = {
        fallback: np.searchsorted(recommender.item_ids, recommender.recommend([[]], 90, fallback=fallback)[0]).tolist()
        for fallback in ("popular", "recent", "new")
    }
    assert lists["popular"] == recommender.popular_rows.tolist()
    assert lists["recent"][:2] == [3, 7]  # three times and once since day 70
    assert lists["recent"][2:] == sorted(set(range(90)) - {3, 7}, key=rank.__getitem__)
    assert lists["new"][:9] == [7, *sorted([9, 10, 11, 12, 13], key=rank.__getitem__), 5, 4, 3]
    assert lists["new"][9:] == sorted(set(range(90)) - {*range(3, 6), 7, *range(9, 14)}, key=rank.__getitem__)


def test_a_fallback_obeys_masks_and_changes_no_other_list(detailed: Path) -> None:
    recommender = Recommender.open(detailed)
    ids = recommender.item_ids.tolist()
    history = ids[20:23]
    lists = recommender.rank([history, [5]], 3, fallback="new", allowed=recommender.allowed(deny=[ids[7]]))
    assert lists.popular.tolist() == [False, True]
    assert ids[7] not in lists.of(1).tolist()
    assert set(lists.of(1).tolist()) < {ids[row] for row in range(9, 14)}
    plain = recommender.rank([history, [5]], 3, allowed=recommender.allowed(deny=[ids[7]]))
    assert lists.of(0).tolist() == plain.of(0).tolist()
    assert np.isnan(lists.scores[1]).all()


def test_without_times_only_the_popular_items_are_known(tiny_recommender: Recommender, tmp_path: Path) -> None:
    with pytest.raises(GenrecError, match="fallback recent: the model holds no times of its training part"):
        tiny_recommender.rank([[]], 3, fallback="recent")
    save_item_details(ModelFolder(tmp_path), histories_of([1, 2], [3]), ITEMS, ExportSettings())
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "example_histories.npy", "partner_counts.npy", "partners.npy",
    ]  # fmt: skip


def test_added_items_are_the_newest_and_were_never_bought(detailed: Path) -> None:
    folder = ModelFolder(detailed)
    extend_item_details(folder, 2)
    extend_item_details(folder, 1)
    seen, recent = folder.array("first_seen.npy"), folder.array("recent.npy")
    assert (seen[90:] - seen[:90].max()).tolist() == [1, 1, 2]
    assert seen[0] == NEVER
    assert recent[90:].tolist() == [0, 0, 0]
    together = BoughtTogether(folder.array("partners.npy"), folder.array("partner_counts.npy"))
    assert len(together.partners) == len(together.counts) == 93
    assert together.of(92, 3) == together.of(0, 91) == 0


def test_a_model_with_added_items_opens_and_gives_them_as_new(detailed: Path, tmp_path: Path) -> None:
    new = NewItems(np.array([5000, 5001]), ["one", "two"], [{}, {}])
    vectors = np.random.default_rng(3).normal(size=(2, DIM)).astype(np.float32)
    add_items(detailed, new, vectors, tmp_path / "larger")
    recommender = Recommender.open(tmp_path / "larger")
    assert recommender.recommend([[]], 3, fallback="new")[0].tolist() == [5000, 5001, recommender.item_ids[7]]
    (each,) = recommender.explain([5001], [recommender.item_ids[3]])
    assert each.reasons[0].bought_together == 0
    assert recommender.example_histories() == Recommender.open(detailed).example_histories()


def test_arrays_of_other_items_are_refused(detailed: Path) -> None:
    folder = ModelFolder(detailed)
    folder.save_array("recent.npy", folder.array("recent.npy")[1:])
    write_manifest(detailed)
    with pytest.raises(GenrecError, match=r"recent\.npy: holds 89 rows for 90 items; export the model again"):
        Recommender.open(detailed)
