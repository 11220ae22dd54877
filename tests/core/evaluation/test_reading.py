"""The sentence, the examples and the departments that say what the metrics mean."""

import numpy as np
import polars as pl
import pytest

from genrec_core.data.histories import Histories
from genrec_core.data.split import HeldOut
from genrec_core.evaluation.reading import examples, item_names, seen_choice, verdict, worst_departments

NAMES = [f"Product {row}" for row in range(40)]


def held_out(users: int) -> HeldOut:
    rows = np.arange(4 * users, dtype=np.int32) % 40
    offsets = np.arange(users + 1, dtype=np.int64) * 4
    ids = [f"u{user}" for user in range(users)]
    return HeldOut(Histories(ids, rows, offsets), np.arange(users, dtype=np.int32) % 40, np.arange(users))


@pytest.mark.parametrize(
    ("recall", "popularity", "said"),
    [
        (0.114, 0.011, "for 11 of 100 users; popularity for 1."),
        (0.0576, 0.0099, "for 58 of 1,000 users; popularity for 10."),
        (0.0, 0.0, "for 0 of 1,000 users; popularity for 0."),
    ],
)
def test_the_verdict_counts_users(recall: float, popularity: float, said: str) -> None:
    metrics = {"ranking": "dense", "dense": {"recall@10": recall}, "popularity": {"recall@10": popularity}}
    assert verdict(metrics) == f"The dense ranking finds the next item among its first 10 {said}"


@pytest.mark.parametrize(
    ("lists", "setting", "exclude", "keep", "said"),
    [
        ("keep", "auto", 0.08, 0.31, "may hold items that the user already has: on validation this finds 31 of 100"),
        ("exclude", "auto", 0.02, 0.01, "has: on validation this finds 20 of 1,000 next items, the other way 10."),
        ("exclude", "auto", 0.1, 0.11, "the other way 11, which may be chance."),
        ("exclude", "exclude", 0.08, 0.31, "leave out items that the user already has, as the setting `seen` says: on"),
    ],
)
def test_the_page_says_whether_lists_hold_seen_items_and_why(
    lists: str, setting: str, exclude: float, keep: float, said: str
) -> None:
    assert said in seen_choice({"lists": lists, "setting": setting, "exclude": exclude, "keep": keep})


def test_a_catalogue_of_few_items_has_a_verdict_too() -> None:
    assert "too small" in verdict({"ranking": "dense", "dense": {}, "popularity": {}})


def test_examples_are_random_users_with_their_newest_items_and_the_place_of_the_next() -> None:
    ranks = np.tile([0, 9, 10, -1], 10)
    chosen = examples(ranks, held_out(40), NAMES, seed=1)
    assert {kind: len(users) for kind, users in chosen.items()} == {"hits": 10, "misses": 10}
    for kind, places in (("hits", {1, 10}), ("misses", {11, None})):
        for example in chosen[kind]:
            user = int(example["user"][1:])
            assert example["rank"] in places
            assert example["rank"] == (ranks[user] + 1 if ranks[user] >= 0 else None)
            assert example["history"] == [NAMES[(4 * user + step) % 40] for step in (1, 2, 3)]
            assert example["target"] == NAMES[user]
    assert [user["user"] for user in chosen["hits"]] != sorted(user["user"] for user in chosen["hits"])
    assert examples(ranks[:3], held_out(3), NAMES, seed=1)["misses"][0]["rank"] == 11


def test_the_worst_departments_are_those_with_enough_users() -> None:
    categories = pl.Series(["Beauty > Hair", "Beauty > Nails", None, "Beauty > Soap"])
    targets = np.repeat([0, 1, 2, 3], [40, 40, 40, 3])
    ranks = np.concatenate([np.tile([0, 20], 20), np.full(40, -1), np.zeros(40), np.full(3, -1)]).astype(np.int32)
    histories = Histories([], targets, np.arange(len(targets) + 1))
    rows = worst_departments(ranks, HeldOut(histories, targets, np.arange(len(targets))), categories)
    assert [(row["department"], row["users"], row["recall@10"]) for row in rows] == [
        ("Nails", 40, 0.0), ("Hair", 40, 0.5), ("unknown", 40, 1.0),
    ]  # fmt: skip
    of_pairs = worst_departments(ranks, HeldOut(histories, targets, np.arange(len(targets)) // 2), categories)
    assert of_pairs == []  # each department has 20 users with two targets


def test_an_item_without_a_title_is_called_by_its_id() -> None:
    catalog = pl.DataFrame({"item_id": [1, 2, 3], "title": ["Soap", None, " "]})
    assert item_names(catalog) == ["Soap", "item 2", "item 3"]
