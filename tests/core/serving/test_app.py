"""The server answers what the recommender ranks, and refuses everything else with a reason and the field at fault."""

import asyncio
import copy
import json
import random
import re
import string
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from genrec_core.errors import GenrecError
from genrec_core.recommend.recommender import IN_TURN, Recommender
from genrec_core.serving.decoders import DecoderFailedError
from genrec_core.serving.docs_page import docs_page
from genrec_core.serving.request_body import RefusedError

if TYPE_CHECKING:
    from genrec_core.serving.models import ServedModel

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
    assert (allowed["user_id"], allowed["note"]) == (7, "3 of 4: no more items may be recommended")
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
        ("9" * 5000, 400, None),
        (b"\xff\xfe{\x00}\x00", 400, None),
        ('{"instances": [{"user_id": "1", "item_ids": [1], "user_id": "2"}]}', 422, "user_id"),
        (f'{{"instances": [{GOOD}], "topk": 4, "topk": 5}}', 422, "topk"),
        ('{"instances": [{"user_id": "\\ud800", "item_ids": [1]}]}', 400, None),
        (f'{{"instances": [{GOOD}], "\\ud83d\\ude00\\n": 1}}', 422, "\\U0001f600\n"),
        (f'{{"instances": [{GOOD}], "exclude_seen": 1}}', 422, "exclude_seen"),
        (f'{{"instances": [{GOOD}], "rule": ["brand"]}}', 422, "rule"),
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
    small = client_of(queue=2).post(PATH, json={"instances": [user] * 3})  # waiting for a free queue would not help
    assert (small.status_code, small.json()["error"]["field"]) == (422, "instances")


def test_a_compressed_body_is_refused_and_its_content_type_does_not_matter(client_of: ClientOf):
    client, body = client_of(), '{"instances": [{"user_id": "1", "item_ids": [1]}], "topk": 1}'
    answer = client.post(PATH, content=body, headers={"content-encoding": "gzip"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "content_encoding")
    for form in ("text/plain", "application/x-www-form-urlencoded"):  # what curl -d says of any body
        assert client.post(PATH, content=body, headers={"content-type": form}).status_code == 200


def test_before_the_model_is_loaded_it_is_alive_and_not_ready(client_of: ClientOf):
    client = client_of(loaded=False)
    assert client.get("/health/live").status_code == 200
    for answer in (client.get("/health/ready"), client.get("/model"), client.post(PATH, json={"instances": []})):
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_ready")
        assert answer.headers["retry-after"] == "1"


def test_it_is_not_ready_while_no_process_decodes(client_of: ClientOf, kept_model: "ServedModel"):
    client, (decoder,) = client_of(), kept_model.decoders
    seen: list[tuple[int, dict[str, Any]]] = []

    def replace() -> None:
        answer = client.get("/health/ready")
        seen.append((answer.status_code, answer.json()))
        if len(seen) == 1:
            raise GenrecError("the storage is away")

    assert client.get("/health/ready").status_code == 200
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoder, "_replace", replace)
        assert not asyncio.run(decoder.replace())
        assert client.get("/health/ready").json()["error"]["code"] == "decoder_lost"
        assert client.get("/health/live").status_code == 200
        assert asyncio.run(decoder.replace())
    assert [status for status, _ in seen] == [503, 503]
    assert "every decoding process ended" in seen[0][1]["error"]["message"]
    assert client.get("/health/ready").status_code == 200


def test_a_fault_of_the_server_is_told_without_its_trace(
    client_of: ClientOf, kept_model: "ServedModel", monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    async def fail(*_: object) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(kept_model.decoders[0], "decode", fail)
    answer = client_of().post(PATH, json={"instances": [{"user_id": "1", "item_ids": [1]}]})
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal")
    assert "secret" not in answer.text
    assert "secret detail" in caplog.text


def test_a_fault_inside_the_decoding_process_leaves_it_working(
    kept_model: "ServedModel", tiny_recommender: Recommender
):
    options = {"topk": 2, "ranking": "hybrid", "exclude_seen": True, "allow": None, "deny": [], "rule": None}
    decoder = kept_model.decoders[0]
    with pytest.raises(DecoderFailedError, match="Traceback"):
        asyncio.run(decoder.decode(json.dumps({**options, "topk": "x"}), [[1]]))
    with pytest.raises(RefusedError, match="leave no item"):
        asyncio.run(decoder.decode(json.dumps({**options, "allow": [-1]}), [[1]]))
    history = tiny_recommender.item_ids[:3].tolist()
    wanted = tiny_recommender.recommend([history], 2)[0].tolist()
    assert [answer.items for answer in asyncio.run(decoder.decode(json.dumps(options), [history]))] == [wanted]


def test_head_of_a_health_route_is_answered_as_get_without_a_body(client_of: ClientOf):
    for loaded, status in ((True, 200), (False, 503)):
        client = client_of(loaded=loaded)
        for path, wanted in (("/health/live", 200), ("/health/ready", status)):
            assert client.head(path).status_code == client.get(path).status_code == wanted


def test_the_docs_name_every_route_and_field_and_nothing_of_another_host(client_of: ClientOf):
    client = client_of(name="shop")
    answer = client.get("/docs")
    assert answer.headers["content-type"].startswith("text/html")
    for path in client.get("/openapi.json").json()["paths"]:
        assert f" {path}</code>" in answer.text
    for field in ("topk", "instances", "instances[].user_id", "instances[].item_ids", "rule"):
        assert f"<td>{field}</td>" in answer.text
    assert "http://testserver/predictions/shop</pre>" in answer.text
    assert not re.findall(r"<script|<link|\b(?:src|href|url)\b", answer.text)


def test_the_docs_show_markup_as_text():
    about = {"title": "<i>", "description": "<b>"}
    page = docs_page({"info": about, "paths": {"/<u>": {"get": {"summary": "<script>"}}}}, "http://x/'><script>")
    assert "<script" not in page
    assert not re.findall(r"<[ibu]>", page)


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
    shown = facts["name"], facts["items"], facts["rankings"], facts["exclude_seen"]
    assert shown == ("shop", 90, ["generative", "hybrid", "dense"], True)
    body = client.get("/openapi.json").json()["paths"]["/predictions/shop"]["post"]["requestBody"]
    assert "instances" in body["content"]["application/json"]["schema"]["required"]


def test_metrics_count_requests_users_and_batches(client_of: ClientOf, tiny_recommender: Recommender):
    client = client_of()
    client.post(PATH, json={"instances": instances(tiny_recommender, 3)})
    client.post(PATH, content="{}")
    client.get("/nowhere")
    found = client.get("/metrics").text
    for line in (
        'genrec_requests_total{status="200"} 1.0',
        'genrec_requests_total{status="422"} 1.0',
        'genrec_requests_total{status="404"} 1.0',
        "genrec_users_total 3.0",
        "genrec_queue_users 0.0",
        "genrec_request_seconds_count 3.0",
        'genrec_reloads_total{result="loaded"} 1.0',
    ):
        assert line in found


ODD: list[Any] = [
    *(None, True, -1, 0, 7, 1.5, 1e300, 1 << 63, -(1 << 63), "", "x", "1", "9" * 5000, "\ud800"),
    *([], {}, [[]], [1] * 2000, [None], {"user_id": 1}, "dense"),
]


OPTIONAL = [
    *("ranking", "exclude_seen", "allow", "deny", "item_ids", "unheard_of"),
    *("titles", "scores", "explain", "fallback"),
]


def malformed(draw: random.Random, items: list[int]) -> bytes:
    """A good body with something done to what it says, or to its bytes."""
    good = {"topk": 4, "instances": [{"user_id": "1", "item_ids": draw.sample(items, 4)}], "deny": items[:1]}
    return _bent(draw, good) if draw.random() < 0.5 else _broken(draw, bytearray(json.dumps(good).encode()))


def _odd(draw: random.Random) -> Any:
    """One of its own: what is bent further must not bend the next body too, or come to hold itself."""
    return copy.deepcopy(draw.choice(ODD))


def _bent(draw: random.Random, body: dict[str, Any]) -> bytes:
    for _ in range(draw.choice([1, 1, 2])):
        instances = body.get("instances")
        instance = instances[0] if isinstance(instances, list) and instances else None
        at = draw.choice([body, instance]) if isinstance(instance, dict) else body
        name = draw.choice([*at, *OPTIONAL])
        value = at.get(name)
        if isinstance(value, list) and value and draw.random() < 0.6:
            at[name] = [_odd(draw) if draw.random() < 0.5 else one for one in value]
        elif draw.random() < 0.3:
            at.pop(name, None)
        else:
            at[name] = _odd(draw)
    return json.dumps(body).encode()


def _broken(draw: random.Random, body: bytearray) -> bytes:
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


def is_right(answer: dict[str, Any], body: bytes, recommender: Recommender) -> bool:
    """Whether an answer holds what the recommender gives for the body as any JSON parser reads it."""
    asked = json.loads(body)
    options = {name: asked[name] for name in ("exclude_seen", "ranking") if name in asked}
    allowed = recommender.allowed(asked.get("allow"), asked.get("deny"))
    topk = min(asked.get("topk", 128), len(recommender.item_ids))
    users = asked["instances"]
    histories = [user["item_ids"] for user in users]
    ranking = recommender.rank(histories, topk, allowed=allowed, pool=IN_TURN, **options)  # rounded as the server's
    wanted = [(user["user_id"], ranking.of(place).tolist()) for place, user in enumerate(users)]
    return [(user["user_id"], user["predictions"]) for user in answer["predictions"]] == wanted


@pytest.mark.parametrize("count", [2000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_malformed_bodies_are_refused_or_served_rightly_and_never_fail(
    client_of: ClientOf, tiny_recommender: Recommender, count: int
):
    client, draw, seen = client_of(max_topk=100), random.Random(11), dict[int, int]()
    items = np.sort(tiny_recommender.item_ids).tolist()
    for _ in range(count):
        body = malformed(draw, items)
        answer = client.post(PATH, content=body)
        seen[answer.status_code] = seen.get(answer.status_code, 0) + 1
        content = answer.json()
        if answer.status_code == 200:
            assert is_right(content, body, tiny_recommender)
        else:
            assert answer.status_code in (400, 422), body
            assert set(content["error"]) == {"code", "message", "field"}
    print(f"{count} bodies by status: {seen}")
    assert set(seen) == {200, 400, 422}
