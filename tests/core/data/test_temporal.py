"""The temporal split, against the same done interaction by interaction; nothing after the cut is trained on."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec_core.data.histories import Histories
from genrec_core.data.split import held_out_test_part, new_users, tied_targets, training_part, validation_part
from genrec_core.data.temporal import split_by_time, split_sentence
from genrec_core.errors import GenrecError
from genrec_core.quantization.build import histories_version
from genrec_core.quantization.collaborative import collaborative_vectors
from genrec_core.search.neighbors import Neighbors
from genrec_core.settings import SemanticIdSettings, SplitSettings

ITEM_IDS = np.arange(10)
DAY = 86_400
BY_TIME = SplitSettings(split="temporal", validation_share=0.2, test_share=0.2)
DATED = SplitSettings(split="temporal", validation_from="1970-01-05", test_from="1970-01-08")
bought = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=6)  # item and day
users = st.lists(bought.map(lambda pairs: sorted(pairs, key=lambda pair: pair[1])), min_size=3, max_size=10)


def frame_of(shop: list[list[tuple[int, int]]]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "user_id": [f"u{user}" for user in range(len(shop))],
            "item_ids": [[item for item, _ in pairs] for pairs in shop],
            "times": [[day * DAY for _, day in pairs] for pairs in shop],
        },
        schema={"user_id": pl.String, "item_ids": pl.List(pl.Int64), "times": pl.List(pl.Int64)},
    )


def parts(frame: pl.DataFrame) -> list[list[list[int]]]:
    """Trained histories, then histories and targets of the validation and of the test."""
    histories = Histories.from_frame(frame, ITEM_IDS)
    trained = training_part(histories)
    shown = [[trained.of(user).tolist() for user in range(len(trained))]]
    for held_out in (validation_part(histories), held_out_test_part(histories)):
        read = [held_out.histories.of(user).tolist() for user in range(len(held_out.targets))]
        shown.append([[*history, target] for history, target in zip(read, held_out.targets.tolist(), strict=True)])
    return shown


@given(users)
def test_the_dates_split_each_user_as_a_loop_over_interactions_does(shop: list[list[tuple[int, int]]]) -> None:
    days = [day for pairs in shop for _, day in pairs]
    if not all(any(first <= day < end for day in days) for first, end in ((0, 4), (4, 7), (7, 10))):
        with pytest.raises(GenrecError, match="choose other dates or shares"):
            split_by_time(frame_of(shop), DATED)
        return
    frame = split_by_time(frame_of(shop), DATED)
    expected: list[list[list[int]]] = [[[item for item, day in pairs if day < 4] for pairs in shop], [], []]
    for number, first, end in ((1, 4, 7), (2, 7, 10)):
        for pairs in shop:
            read = [item for item, day in pairs if day < first]
            for item in (item for item, day in pairs if first <= day < end):
                if read:
                    expected[number].append([*read, item])
                read = [*read, item]
    assert parts(frame) == expected
    unseen = [pairs[0][0] for pairs in shop if pairs and pairs[0][1] >= 7]
    assert new_users(Histories.from_frame(frame, ITEM_IDS)).targets.tolist() == unseen


@given(users)
def test_a_share_never_divides_an_instant(shop: list[list[tuple[int, int]]]) -> None:
    try:
        frame = split_by_time(frame_of(shop), BY_TIME)
    except GenrecError:
        return
    held_out = frame.select(pl.col("validation_items") + pl.col("test_items"), pl.col("test_items")).to_numpy()
    days = [[day for _, day in pairs] for pairs in shop]
    for newest in held_out.T.tolist():
        before = [day for user, count in zip(days, newest, strict=True) for day in user[: len(user) - count]]
        after = [day for user, count in zip(days, newest, strict=True) for day in user[len(user) - count :]]
        assert max(before) < min(after)
    assert held_out[:, 1].sum() >= round(0.2 * sum(map(len, days)))


@given(st.lists(st.integers(0, 60), min_size=1, max_size=8), st.integers(1, 200))
def test_targets_are_spread_evenly_over_a_window_and_no_more_than_asked_for(items: list[int], most: int) -> None:
    """Each user has one item before the window and 0 to 60 in it."""
    windows = np.array([np.zeros(len(items), int), items])
    lengths = np.array(items) + 1
    rows = np.concatenate([np.arange(length) for length in lengths]).astype(np.int32)
    histories = Histories(
        [f"u{user}" for user in range(len(items))], rows, np.append(0, lengths.cumsum()), None, windows
    )
    held_out = held_out_test_part(histories, most, seed=1)
    asked = sum(count > 0 for count in items)
    assert held_out.n_users == min(most, asked)
    assert len(held_out.targets) <= most
    share = min(max(most // max(held_out.n_users, 1), 1), 20)
    for user in np.unique(held_out.users).tolist():
        places = held_out.histories.lengths[held_out.users == user]
        assert len(places) == min(items[user], share)
        steps = np.diff(np.append(places, items[user] + 1))
        assert places[0] == 1
        assert steps.max() - steps.min() <= 1


def random_shop(n_users: int = 60) -> list[list[tuple[int, int]]]:
    random = np.random.default_rng(3)
    return [
        list(zip(random.integers(0, 10, 9).tolist(), np.sort(random.integers(0, 10, 9)).tolist(), strict=True))
        for _ in range(n_users)
    ]


def test_what_is_bought_after_the_cut_changes_nothing_that_is_trained() -> None:
    shop = random_shop()
    after = [[(item if day < 4 else (item + 3) % 10, day) for item, day in pairs] for pairs in shop]
    frame, changed = (split_by_time(frame_of(version), DATED) for version in (shop, after))
    assert not frame.equals(changed)
    trained, same = (training_part(Histories.from_frame(version, ITEM_IDS)) for version in (frame, changed))
    np.testing.assert_array_equal(trained.rows, same.rows)
    np.testing.assert_array_equal(trained.offsets, same.offsets)
    assert trained.times is not None
    assert trained.times.max() < 4 * DAY
    settings = SemanticIdSettings(collaborative_dims=4)
    assert histories_version(frame, settings) == histories_version(changed, settings)
    first, second = (collaborative_vectors(part, 10, settings) for part in (trained, same))
    np.testing.assert_array_equal(first, second)
    no_text = np.zeros((10, 0), np.float32)
    neighbors, again = (Neighbors.of(no_text, 5, 0.0, part, 1.0) for part in (trained, same))
    for name, array in vars(neighbors).items():
        np.testing.assert_array_equal(array, vars(again)[name])


def test_without_times_the_remedy_is_named() -> None:
    with pytest.raises(GenrecError, match="no times; give it a time column, or set split: leave_one_out"):
        split_by_time(frame_of(random_shop()).drop("times"), BY_TIME)


def test_by_order_the_frame_stays_as_it_is() -> None:
    frame = frame_of(random_shop())
    assert split_by_time(frame, SplitSettings()) is frame


@pytest.mark.parametrize(
    ("dates", "message"),
    [
        ({"test_from": "2030-01-01"}, "to 1970-01-10, the temporal split .* tests 0; choose other dates"),
        ({"validation_from": "1970-01-09", "test_from": "1970-01-03"}, "validates 0"),
        ({"test_from": "1970-02-31"}, "1970-02-31 is no date .*; write it as YYYY-MM-DD"),
    ],
)
def test_dates_that_leave_a_part_empty_are_refused(dates: dict[str, str], message: str) -> None:
    with pytest.raises(GenrecError, match=message):
        split_by_time(frame_of(random_shop()), SplitSettings(split="temporal", **dates))


def test_the_sentence_counts_each_part_and_names_its_first_day() -> None:
    shop = [[(1, 0), (2, 1), (3, 4), (4, 7), (5, 9)], [(1, 2), (2, 3)], [(4, 8)]]
    assert split_sentence(split_by_time(frame_of(shop), DATED)) == (
        "trained: 4 interactions of 2 users; validated: 1 interactions of 1 users from 1970-01-05; "
        "tested: 3 interactions of 2 users from 1970-01-08"
    )
    assert split_sentence(frame_of(shop)) == (
        "trained: 6 interactions of 3 users; validated: 1 interactions of 1 users; tested: 1 interactions of 1 users"
    )


def test_targets_that_share_their_time_with_a_neighbour_are_counted() -> None:
    frame = frame_of([[(1, 0), (2, 1), (3, 1)], [(1, 0), (2, 1), (3, 2)], [(1, 0)]])
    histories = Histories.from_frame(frame, ITEM_IDS)
    assert tied_targets(histories, held_out_test_part(histories)) == 0.5
    by_time = Histories.from_frame(split_by_time(frame_of([[(1, 0), (2, 5), (3, 8), (4, 8)]]), DATED), ITEM_IDS)
    assert tied_targets(by_time, held_out_test_part(by_time)) == 1.0  # another item of that time could be the first
    assert tied_targets(by_time, validation_part(by_time)) == 0.0
    unknown = Histories.from_frame(frame.drop("times"), ITEM_IDS)
    assert tied_targets(unknown, held_out_test_part(unknown)) is None


def test_users_who_are_taken_keep_their_windows_and_times() -> None:
    histories = Histories.from_frame(split_by_time(frame_of(random_shop(4)), DATED), ITEM_IDS)
    taken = histories.take(np.array([2, 0]))
    assert taken.windows is not None
    assert histories.windows is not None
    assert taken.windows.tolist() == histories.windows[:, [2, 0]].tolist()
    assert training_part(taken).of(0).tolist() == training_part(histories).of(2).tolist()
