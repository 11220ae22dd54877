"""Histories, padding and the leave-one-out split, against the same done user by user."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec_core.data.histories import Histories, padded
from genrec_core.data.split import held_out_test_part, training_part, validation_part
from genrec_core.errors import GenrecError

ITEM_IDS = np.array([10, 20, 30, 40])
lists = st.lists(st.lists(st.sampled_from(ITEM_IDS.tolist()), min_size=0, max_size=7), min_size=1, max_size=12)


def histories_of(items: list[list[int]]) -> Histories:
    schema = {"user_id": pl.String, "item_ids": pl.List(pl.Int64)}
    frame = pl.DataFrame({"user_id": [f"u{user}" for user in range(len(items))], "item_ids": items}, schema=schema)
    return Histories.from_frame(frame, ITEM_IDS)


@given(lists)
def test_the_split_takes_the_last_two_items_of_each_user_and_never_shows_them_to_training(items):
    histories = histories_of(items)
    rows = [[ITEM_IDS.tolist().index(item) for item in history] for history in items]
    training = training_part(histories)
    assert [training.of(user).tolist() for user in range(len(rows))] == [
        history[:-2] if len(history) >= 3 else history for history in rows
    ]
    evaluated = [user for user, history in enumerate(rows) if len(history) >= 3]
    for held_out, position in ((validation_part(histories), -2), (held_out_test_part(histories), -1)):
        assert held_out.users.tolist() == evaluated
        assert held_out.targets.tolist() == [rows[user][position] for user in evaluated]
        assert [held_out.histories.of(index).tolist() for index in range(len(evaluated))] == [
            rows[user][:position] for user in evaluated
        ]


@given(lists, st.integers(1, 5))
def test_padding_keeps_the_newest_items_in_order(items, max_history):
    histories = histories_of(items)
    batch = padded([histories.of(user) for user in range(len(histories))], max_history)
    for user in range(len(histories)):
        newest = histories.of(user)[-max_history:].tolist()
        assert batch.lengths[user] == len(newest)
        assert batch.rows[user].tolist() == newest + [-1] * (batch.rows.shape[1] - len(newest))


def test_an_unknown_item_is_named_with_its_user():
    with pytest.raises(GenrecError, match="user u1: item 35 is not in the catalogue"):
        histories_of([[10, 20], [30, 35]])


@pytest.mark.parametrize(
    ("items", "said"),
    [
        ([["a b"], ["c"]], "user v: item c is not in the catalogue"),
        ([[5], ["0005"]], "user u: item 5 is not"),
        ([["a b"], None], "user v: item None is not"),
        ([["a b"], [None]], "user v: item None is not"),
        ([[1.0], [2.0]], "hold items as Float64"),
    ],
)
def test_histories_of_text_ids_are_mapped_letter_by_letter(items, said):
    ids = np.array(["0005", "a b", "é"])
    frame = pl.DataFrame({"user_id": ["u", "v"], "item_ids": [["é", "0005"], ["a b"]]})
    assert Histories.from_frame(frame, ids).rows.tolist() == [2, 0, 1]
    with pytest.raises(GenrecError, match=said):
        Histories.from_frame(pl.DataFrame({"user_id": ["u", "v"], "item_ids": items}, strict=False), ids)


def test_users_are_taken_in_the_order_asked():
    taken = histories_of([[10], [20, 30], [40, 10, 20]]).take(np.array([2, 0]))
    assert [taken.of(0).tolist(), taken.of(1).tolist(), taken.user_ids] == [[3, 0, 1], [0], ["u2", "u0"]]
