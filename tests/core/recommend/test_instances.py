"""A request of several users: what is accepted, what is refused and how, and that the recommender answers it."""

import json
from typing import Any

import pytest

from genrec_core.errors import GenrecError
from genrec_core.recommend.instances import InvalidRequestError, answer_instances, read_instances
from genrec_core.recommend.recommender import Recommender

ONE = {"user_id": "1", "item_ids": [1, 2]}


def test_the_answer_is_the_recommenders_own(tiny_recommender: Recommender) -> None:
    items = tiny_recommender.item_ids.tolist()
    histories = {"a": items[:3], "b": [items[4], 5, items[5]], "c": [], "d": [5]}  # no item has the id 5
    users = [{"user_id": user, "item_ids": history} for user, history in histories.items()]
    requests = [read_instances({"topk": 4, "instances": part}) for part in (users[:1], users[1:])]
    answers = answer_instances(tiny_recommender, requests)
    expected = tiny_recommender.recommend([items[:3], [items[4], items[5]], [], []], 4)
    assert [[user["user_id"] for user in answer["predictions"]] for answer in answers] == [["a"], ["b", "c", "d"]]
    found = [user["predictions"] for answer in answers for user in answer["predictions"]]
    assert found == [ids.tolist() for ids in expected]
    json.dumps(answers)


def test_options_are_handed_on(tiny_recommender: Recommender) -> None:
    items = tiny_recommender.item_ids.tolist()
    user = {"user_id": 7, "item_ids": items[:2]}
    options = {"exclude_seen": False, "ranking": "generative", "allow": items[:5], "deny": [items[4]]}
    answer = answer_instances(tiny_recommender, [read_instances({"topk": 9, "instances": [user], **options})])
    expected = tiny_recommender.recommend(
        [items[:2]], 9, exclude_seen=False, ranking="generative", allow=items[:5], deny=[items[4]]
    )
    assert answer == [{"predictions": [{"user_id": 7, "predictions": expected[0].tolist()}]}]
    assert sorted(expected[0].tolist()) == items[:4]


def test_a_rule_is_handed_on(ruled: Recommender) -> None:
    user = {"user_id": 7, "item_ids": ruled.item_ids[:2].tolist()}
    request = read_instances({"topk": 90, "instances": [user], "rule": "brand = odd and price < 30"})
    (answer,) = answer_instances(ruled, [request])
    assert sorted(answer["predictions"][0]["predictions"]) == ruled.item_ids[3:30:2].tolist()
    with pytest.raises(GenrecError, match="'brnad' is no field"):
        answer_instances(ruled, [read_instances({"instances": [user], "rule": "brnad = odd"})])


def test_text_and_what_was_decoded_from_it_are_read_alike() -> None:
    body = {"topk": 4, "instances": [ONE]}
    assert read_instances(body) == read_instances(json.dumps(body)) == read_instances(json.dumps(body).encode())


def test_only_the_users_may_differ_between_requests_ranked_together() -> None:
    alike = [{"topk": 4, "instances": [ONE]}, {"topk": 4, "instances": [ONE, ONE]}]
    assert len({read_instances(body).options() for body in alike}) == 1
    others = [{"topk": 5}, {"topk": 4, "deny": [1]}, {"topk": 4, "allow": [1]}, {"topk": 4, "ranking": "dense"},
              {"topk": 4, "rule": "brand = OPI"}]  # fmt: skip
    assert len({read_instances({**body, "instances": [ONE]}).options() for body in others}) == len(others)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"{", "request"),
        ("[]", "request"),
        (b"\xff", "request"),
        (None, "request"),
        ({"topk": 4}, "instances"),
        ({"instances": []}, "instances"),
        ({"instances": [{"user_id": "1"}]}, "instances.0.item_ids"),
        ({"instances": [{"user_id": "1", "item_ids": [1, "2"]}]}, "instances.0.item_ids.1"),
        ({"instances": [{"user_id": "1", "item_ids": [True]}]}, "instances.0.item_ids.0"),
        ({"instances": [{"user_id": "1", "item_ids": [1 << 63]}]}, "instances.0.item_ids.0"),
        ({"instances": [{"user_id": "1", "item_ids": [float("nan")]}]}, "instances.0.item_ids.0"),
        ({"instances": [ONE], "topk": 0}, "topk"),
        ({"instances": [ONE], "topk": 1001}, "topk"),
        ({"instances": [ONE], "top_k": 4}, "top_k"),
        ({"instances": [ONE], "ranking": "best"}, "ranking"),
    ],
)
def test_a_bad_request_is_refused_by_field(body: Any, field: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        read_instances(body)
    (fault,) = refused.value.faults
    assert fault["field"] == field
    assert fault["reason"]
    assert field in str(refused.value)


def test_of_many_faults_the_first_ten_are_told() -> None:
    with pytest.raises(InvalidRequestError) as refused:
        read_instances({"instances": [{"user_id": "1", "item_ids": ["x"] * 5000}]})
    assert len(refused.value.faults) == 10


def test_lists_that_leave_no_item_are_refused(tiny_recommender: Recommender) -> None:
    with pytest.raises(GenrecError, match="leave no item"):
        answer_instances(tiny_recommender, [read_instances({"instances": [ONE], "allow": [5]})])
