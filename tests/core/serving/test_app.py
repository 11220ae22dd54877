"""The server answers what the recommender ranks, and refuses everything else with a reason and the field at fault."""

import json
import random
import string
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from fastapi.testclient import TestClient

from genrec_core.inference.recommender import Recommender

if TYPE_CHECKING:
    pass

ClientOf = Callable[..., TestClient]
PATH = "/predictions/mymodel"


def instances(recommender: Recommender, users: int) -> list[dict[str, Any]]:
    draw = random.Random(users)
    known = recommender.item_ids.tolist()
    return [{"user_id": str(user), "item_ids": draw.sample(known, draw.randint(1, 15))} for user in range(users)]


@pytest.mark.parametrize("ranking", ["generative", "hybrid", "dense"])
def test_it_answers_what_the_recommender_ranks(client_of: ClientOf, tiny_recommender: Recommender, ranking: str):
    asked = instances(tiny_recommender, 5)
    answer = client_of().post(PATH, json={"topk": 4, "instances": asked, "ranking": ranking})
    wanted = tiny_recommender.recommend([instance["item_ids"] for instance in asked], 4, ranking=ranking)
    assert answer.status_code == 200
    assert answer.json() == {
        "predictions": [
            {"user_id": instance["user_id"], "predictions": items.tolist()}
            for instance, items in zip(asked, wanted, strict=True)
        ]
    }


def test_lists_narrow_the_answer_and_a_short_one_says_so(client_of: ClientOf, tiny_recommender: Recommender):
    history, *others = tiny_recommender.item_ids.tolist()
    body = {"topk": 4, "instances": [{"user_id": 7, "item_ids": [history]}]}
    client = client_of()
    allowed = client.post(PATH, json={**body, "allow": [history, *others[:3]]}).json()["predictions"][0]
    assert set(allowed["predictions"]) == set(others[:3])
    assert (allowed["user_id"], allowed["note"]) == (7, "3 of 4: no more items are allowed and unseen")
    seen = client.post(PATH, json={**body, "allow": [history, *others[:3]], "exclude_seen": False}).json()
    assert set(seen["predictions"][0]["predictions"]) == {history, *others[:3]}
    denied = client.post(PATH, json={**body, "deny": others[:3]}).json()["predictions"][0]
    assert not set(denied["predictions"]) & set(others[:3])
    nothing = client.post(PATH, json={**body, "allow": []})
    assert (nothing.status_code, nothing.json()["error"]["field"]) == (422, "allow")


def test_unknown_items_are_counted_and_a_user_without_known_ones_gets_the_popular(
    client_of: ClientOf, tiny_recommender: Recommender
):
    known = int(tiny_recommender.item_ids[3])
    asked = [{"user_id": "a", "item_ids": [10**9, known]}, {"user_id": "b", "item_ids": []}]
    first, second = client_of().post(PATH, json={"topk": 3, "instances": asked}).json()["predictions"]
    assert first["unknown_items"] == 1
    assert "popular" not in first
    popular = tiny_recommender.item_ids[tiny_recommender.popular_rows[:3]].tolist()
    assert second == {"user_id": "b", "predictions": popular, "popular": True}


GOOD = '{"user_id": "1", "item_ids": [1]}'


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ("", 400, None),
        ("{", 400, None),
        (b'{"instances": "\xff"}', 400, None),
        ("[]", 422, "body"),
        ("{}", 422, "instances"),
        ('{"instances": []}', 422, "instances"),
        ('{"instances": [{"user_id": "1"}]}', 422, "instances.0.item_ids"),
        ('{"instances": [{"item_ids": [1]}]}', 422, "instances.0.user_id"),
        ('{"instances": [{"user_id": "1", "item_ids": [1, true]}]}', 422, "instances.0.item_ids.1"),
        ('{"instances": [{"user_id": "1", "item_ids": ["1"]}]}', 422, "instances.0.item_ids.0"),
        ('{"instances": [{"user_id": "1", "item_ids": [1.5]}]}', 422, "instances.0.item_ids.0"),
        ('{"instances": [{"user_id": "1", "item_ids": [NaN]}]}', 422, "instances.0.item_ids.0"),
        ('{"instances": [{"user_id": "1", "item_ids": [9223372036854775808]}]}', 422, "instances.0.item_ids.0"),
        ('{"instances": [{"user_id": null, "item_ids": [1]}]}', 422, "instances.0.user_id"),
        (f'{{"instances": [{GOOD}], "topk": 0}}', 422, "topk"),
        (f'{{"instances": [{GOOD}], "topk": true}}', 422, "topk"),
        (f'{{"instances": [{GOOD}], "topk": 1001}}', 422, "topk"),
        (f'{{"instances": [{GOOD}], "ranking": "best"}}', 422, "ranking"),
        (f'{{"instances": [{GOOD}], "beams": 3}}', 422, "beams"),
        (f'{{"instances": [{GOOD}], "rule": "colour = red"}}', 422, "rule"),
        ("[" * 5000, 400, None),
    ],
)
def test_a_bad_request_names_the_field_at_fault(client_of: ClientOf, body: str, status: int, field: str | None):
    answer = client_of().post(PATH, content=body)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert (error["field"], set(error)) == (field, {"code", "message", "field"})
    assert error["message"]


def test_limits_are_held(client_of: ClientOf):
    client = client_of(max_instances=2, max_history=3, max_topk=5, max_listed=2, max_body_kb=1)
    user = {"user_id": "1", "item_ids": [1]}
    bodies = {
        "instances": {"instances": [user] * 3, "topk": 5},
        "instances.1.item_ids": {"instances": [user, {"user_id": "2", "item_ids": [1] * 4}], "topk": 5},
        "topk": {"instances": [user], "topk": 6},
        "deny": {"instances": [user], "deny": [1, 2, 3], "topk": 5},
    }
    for field, body in bodies.items():
        answer = client.post(PATH, json=body)
        assert (answer.status_code, answer.json()["error"]["field"]) == (422, field)
    large = json.dumps({"instances": [{**user, "user_id": "x" * 2000}]})
    assert client.post(PATH, content=large).status_code == 413
    assert client.post(PATH, content=(part.encode() for part in large)).status_code == 413  # no length declared
    assert client.post(PATH, content="{}", headers={"content-encoding": "gzip"}).status_code == 415


def test_the_token_is_asked_for_everywhere_but_health_and_metrics(client_of: ClientOf):
    client, body = client_of(token="s3cret"), {"instances": [{"user_id": "1", "item_ids": [1]}]}
    for ask in (lambda **more: client.post(PATH, json=body, **more), lambda **more: client.get("/model", **more)):
        refused = ask()
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        assert ask(headers={"Authorization": "Bearer wrong"}).status_code == 403
        assert ask(headers={"Authorization": "Bearer s3cret"}).status_code == 200
    assert client.post("/admin/reload").status_code == 401
    for path in ("/health/live", "/health/ready", "/metrics"):
        assert client.get(path).status_code == 200


def test_without_a_token_only_this_machine_may_reload(client_of: ClientOf):
    refused = client_of().post("/admin/reload")  # the test client's address is no loopback one
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "loopback_only")


def test_paths_methods_and_facts(client_of: ClientOf, tiny_recommender: Recommender):
    client = client_of(name="shop")
    assert client.post("/predictions/mymodel").json()["error"]["code"] == "not_found"
    wrong = client.get("/predictions/shop")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")
    facts = client.get("/model").json()
    assert (facts["name"], facts["items"], facts["rankings"]) == ("shop", 90, ["generative", "hybrid", "dense"])
    body = client.get("/openapi.json").json()["paths"]["/predictions/shop"]["post"]["requestBody"]
    assert "instances" in body["content"]["application/json"]["schema"]["required"]


def test_metrics_count_requests_users_and_batches(client_of: ClientOf, tiny_recommender: Recommender):
    client = client_of()
    client.post(PATH, json={"instances": instances(tiny_recommender, 3)})
    client.post(PATH, content="{}")
    found = client.get("/metrics").text
    for line in (
        'genrec_requests_total{status="200"} 1.0',
        'genrec_requests_total{status="422"} 1.0',
        "genrec_users_total 3.0",
        "genrec_queue_users 0.0",
        "genrec_request_seconds_count 2.0",
        'genrec_reloads_total{result="loaded"} 1.0',
    ):
        assert line in found


def malformed(draw: random.Random) -> bytes:
    """A good body with something done to it."""
    body = bytearray(b'{"topk": 4, "instances": [{"user_id": "1", "item_ids": [1, 2, 3, 4]}], "deny": [5]}')
    for _ in range(draw.randint(1, 6)):
        place, kind = draw.randrange(len(body)), draw.randrange(4)
        if kind == 0:
            body[place] = draw.randrange(256)
        elif kind == 1:
            del body[place : place + draw.randint(1, 9)]
        elif kind == 2:
            body[place:place] = draw.choice([b"-", b"1e999", b"null", b"[[[", b"9" * 30, b"NaN", b'"', b"\\u0000"])
        else:
            body[place:place] = draw.choice(string.printable).encode() * draw.randint(1, 50)
        if not body:
            body += b" "
    return bytes(body)


@pytest.mark.parametrize("count", [1500, pytest.param(100_000, marks=pytest.mark.slow)])
def test_malformed_bodies_are_refused_or_served_never_failed(client_of: ClientOf, count: int):
    client, draw, seen = client_of(), random.Random(11), set()
    for _ in range(count):
        answer = client.post(PATH, content=malformed(draw))
        seen.add(answer.status_code)
        assert answer.status_code in (200, 400, 422)
        content = answer.json()
        if answer.status_code == 200:
            assert all(len(one["predictions"]) <= 1000 for one in content["predictions"])
        else:
            assert set(content["error"]) == {"code", "message", "field"}
    assert seen == {200, 400, 422}
