"""Frames of polars and pandas go in, and frames of the same kind with the same lists come out."""

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from genrec_core.errors import GenrecError
from genrec_core.recommend.frames import FrameKind, read_histories
from genrec_core.recommend.recommender import Recommender

KINDS = {"polars": pl.DataFrame, "pandas": pd.DataFrame}


@pytest.fixture(params=KINDS)
def library(request: pytest.FixtureRequest) -> Any:
    return KINDS[request.param]


def columns(frame: Any) -> dict[str, list[Any]]:
    return {name: frame[name].to_list() for name in frame.columns}


def test_a_row_a_user_gives_the_lists_of_the_plain_call(library: Any, ruled: Recommender) -> None:
    ids = ruled.item_ids.tolist()
    histories = [[ids[3], ids[50]], [ids[7]], ids[20:40]]
    frame = ruled.recommend(library({"user_id": ["b", "a", "c"], "item_ids": histories}), 5, rule="brand = Odd")
    assert type(frame) is library
    found = columns(frame)
    assert list(found) == ["user_id", "rank", "item_id", "score", "title"]
    assert found["user_id"] == ["b"] * 5 + ["a"] * 5 + ["c"] * 5
    assert found["rank"] == [1, 2, 3, 4, 5] * 3
    lists = ruled.recommend(histories, 5, rule="brand = Odd")
    assert found["item_id"] == np.concatenate(lists).tolist()
    assert found["title"] == [facts.title for facts in ruled.describe(found["item_id"])]
    scores = ruled.rank(histories, 5, allowed=ruled.allowed(rule="brand = Odd")).scores
    assert found["score"] == pytest.approx(scores.ravel().tolist())


@pytest.mark.parametrize("times", [[3, 1, 2, 9], [datetime(2024, 1, day) for day in (3, 1, 2, 9)]])
def test_a_row_an_interaction_is_ordered_by_time(library: Any, tiny_recommender: Recommender, times: list[Any]) -> None:
    ids = tiny_recommender.item_ids.tolist()
    table = {"customer": [8, 8, 8, 5], "itemId": [ids[3], ids[1], ids[2], ids[40]], "ts": times, "rating": [1, 2, 3, 4]}
    read = read_histories(library(table), text_ids=False)
    assert (read.users, read.histories) == ([8, 5], [ids[1:4], [ids[40]]])
    found = columns(tiny_recommender.recommend(library(table)))
    assert list(found) == ["user_id", "rank", "item_id", "score"]  # the model holds no titles
    assert found["item_id"] == np.concatenate(tiny_recommender.recommend(read.histories)).tolist()


def test_rows_without_times_keep_their_order(library: Any) -> None:
    read = read_histories(library({"user": ["a", "b", "a"], "item": [9, 5, 1]}), text_ids=False)
    assert (read.users, read.histories) == (["a", "b"], [[9, 1], [5]])


def test_numbers_become_text_where_ids_are_text(library: Any) -> None:
    assert read_histories(library({"user": [1, 1], "item": [7, 8]}), text_ids=True).histories == [["7", "8"]]


def test_users_without_a_known_item_have_no_scores_and_short_lists_fewer_rows(
    library: Any, tiny_recommender: Recommender
) -> None:
    ids = tiny_recommender.item_ids.tolist()
    frame = library({"user_id": ["new", "old"], "item_ids": [[], [ids[0]]]})
    found = tiny_recommender.recommend(frame, 5, allow=ids[:3])
    assert found["user_id"].to_list() == ["new"] * 3 + ["old"] * 2
    assert [score is None or score != score for score in found["score"].to_list()] == [True] * 3 + [False] * 2


def test_a_frame_read_from_parquet_holds_arrays(tiny_recommender: Recommender, tmp_path: Path) -> None:
    ids = tiny_recommender.item_ids.tolist()
    pl.DataFrame({"user_id": ["a"], "item_ids": [ids[:4]]}).write_parquet(tmp_path / "histories.parquet")
    read = read_histories(pd.read_parquet(tmp_path / "histories.parquet"), text_ids=False)
    assert read.histories == [ids[:4]]


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ({"user": [1]}, "no column is known as the item"),
        ({"user": [1], "item": [None]}, "row 0 has no item"),
        ({"user": ["a", "b"], "item": [1, 2], "time": [datetime(2024, 1, 1), None]}, "row 1 has no time"),
        ({"user": ["a"], "item": [1.5]}, "user a: item 1.5 is not an integer id"),
        ({"user": ["a", "a"], "item_ids": [[1], [2]]}, "1 rows repeat a user"),
        ({"user": ["a"], "customer": ["b"], "item": [1]}, "could both be the user"),
    ],
)
def test_a_frame_that_cannot_be_read_is_refused(library: Any, table: dict[str, Any], reason: str) -> None:
    with pytest.raises(GenrecError, match=reason):
        read_histories(library(table), text_ids=False)


@pytest.mark.parametrize("histories", [[35, 12], ["B01"], "B01", [np.int64(5)]])
def test_one_history_in_place_of_a_list_of_them_is_refused(tiny_recommender: Recommender, histories: Any) -> None:
    with pytest.raises(GenrecError, match="is no history; give a list for each user"):
        tiny_recommender.recommend(histories)


@pytest.mark.parametrize("kind", KINDS)
def test_other_answers_become_frames(kind: FrameKind, ruled: Recommender, tiny_recommender: Recommender) -> None:
    ids = ruled.item_ids.tolist()
    near = ruled.similar(ids[:2], 4)
    table = ruled.frame(near, kind)
    assert type(table) is KINDS[kind]
    assert columns(table) == {
        "rank": [1, 2, 3, 4],
        "item_id": near.items.tolist(),
        "score": near.scores.tolist(),
        "title": [facts.title for facts in ruled.describe(near.items.tolist())],
    }
    assert "title" not in tiny_recommender.frame(near, kind).columns
    facts = columns(ruled.frame(ruled.describe(ids[:2]), kind))
    assert facts["title"] == ["Item 0", "Item 1"]
    assert list(facts) == ["item_id", "title", "brand", "categories", "price"]
    why = ruled.explain(ids[:3], [ids[50], ids[60]], reasons=2)
    rows = columns(ruled.frame(why, kind))
    assert rows["item_id"] == [ids[50], ids[50], ids[60], ids[60]]
    assert rows["because_of"] == [reason.item_id for each in why for reason in each.reasons]
    assert rows["effect"] == [reason.effect for each in why for reason in each.reasons]
    assert rows["because_of_title"] == [ruled.describe([item])[0].title for item in rows["because_of"]]


def test_an_explanation_without_reasons_has_a_row(ruled: Recommender) -> None:
    why = ruled.explain(ruled.item_ids[:2].tolist(), ruled.item_ids[50:51].tolist(), reasons=0)
    rows = columns(ruled.frame(why))
    assert (rows["because_of"], rows["effect"], rows["because_of_title"]) == ([None], [None], [None])
    with pytest.raises(GenrecError, match="no answer of similar"):
        ruled.frame([1, 2])
