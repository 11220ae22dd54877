"""What the server says of items: facts, scores and reasons beside a list, searches, similar items, withdrawals."""

import json
import random
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import numpy as np
import pytest
from fastapi.testclient import TestClient

from genrec_core.bundle.model_folder import ModelFolder
from genrec_core.recommend.recommender import Recommender
from genrec_core.serving.request_body import parse
from genrec_core.settings import ServingSettings
from tests.core.tiny_model import give_text_model

if TYPE_CHECKING:
    from genrec_core.serving.models import ServedModel

ClientOf = Callable[..., TestClient]
PATH, SIMILAR = "/predictions/mymodel", "/similar/mymodel"


@pytest.fixture
def client(client_of: ClientOf, kept_shop: "ServedModel") -> TestClient:
    """A client of a server whose model has titles."""
    return client_of(model=kept_shop)


def facts(recommender: Recommender, items: list[int]) -> list[dict[str, Any]]:
    return [asdict(item) for item in recommender.describe(items)]


def refusal(answer: Any) -> tuple[int, str, str | None]:
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["field"]


def test_a_plain_request_is_decoded_with_the_options_it_always_had() -> None:
    options = parse(b'{"instances": [{"user_id": "1", "item_ids": [1]}]}', ServingSettings()).options(20)
    assert set(json.loads(options)) == {"topk", "ranking", "exclude_seen", "allow", "deny", "rule"}


@pytest.mark.parametrize("ranking", ["generative", "hybrid", "dense"])
def test_titles_scores_and_reasons_are_those_of_the_recommender(
    client: TestClient, shop: Recommender, ranking: str
) -> None:
    history = shop.item_ids[:4].tolist()
    body = {"topk": 6, "ranking": ranking, "instances": [{"user_id": 1, "item_ids": history}]}
    plain = client.post(PATH, json=body).json()["predictions"][0]
    assert set(plain) == {"user_id", "predictions"}
    (answer,) = client.post(PATH, json={**body, "titles": True, "scores": True, "explain": True}).json()["predictions"]
    items = answer["predictions"]
    assert items == plain["predictions"]
    assert answer["items"] == facts(shop, items)
    assert answer["scores"] == pytest.approx(shop.rank([history], 6, ranking=ranking).scores[0].tolist(), abs=2e-5)
    for shown, wanted in zip(answer["explanations"], shop.explain(history, items, ranking=ranking), strict=True):
        assert (shown["ranking"], shown["score"]) == (ranking, pytest.approx(wanted.score, abs=2e-5))
        assert (shown["dense_rank"], shown["generative_rank"]) == (wanted.dense_rank, wanted.generative_rank)
        reasons = [(reason["item_id"], reason["title"], reason["effect"]) for reason in shown["reasons"]]
        titles = [shop.describe([reason.item_id])[0].title for reason in wanted.reasons]
        assert reasons == [
            (reason.item_id, title, pytest.approx(reason.effect, abs=2e-5))
            for reason, title in zip(wanted.reasons, titles, strict=True)
        ]


def test_a_user_without_known_items_gets_titles_but_neither_scores_nor_reasons(client: TestClient) -> None:
    body = {"topk": 3, "titles": True, "scores": True, "explain": True, "instances": [{"user_id": 1, "item_ids": []}]}
    (answer,) = client.post(PATH, json=body).json()["predictions"]
    assert answer["popular"] is True
    assert (len(answer["items"]), answer["scores"], answer["explanations"]) == (3, [None] * 3, [])


@pytest.mark.parametrize("fallback", ["recent", "new"])
def test_a_user_without_known_items_gets_the_fallback_that_is_named(
    client: TestClient, shop: Recommender, fallback: str
) -> None:
    users = [{"user_id": 1, "item_ids": [10**12]}, {"user_id": 2, "item_ids": shop.item_ids[:2].tolist()}]
    first, second = client.post(PATH, json={"topk": 3, "fallback": fallback, "instances": users}).json()["predictions"]
    order = shop.item_ids[::-1] if fallback == "recent" else shop.item_ids
    assert first == {"user_id": 1, "predictions": order[:3].tolist(), "fallback": fallback, "unknown_items": 1}
    assert second["predictions"] == shop.recommend([users[1]["item_ids"]], 3)[0].tolist()
    assert "fallback" not in second


def test_a_fallback_that_the_model_lacks_is_refused_by_name(client_of: ClientOf) -> None:
    client, body = client_of(), {"topk": 3, "fallback": "recent", "instances": [{"user_id": 1, "item_ids": []}]}
    assert refusal(client.post(PATH, json=body)) == (422, "cannot_rank", "fallback")
    assert refusal(client.post(PATH, json={**body, "fallback": "old"})) == (422, "invalid_field", "fallback")


def test_example_histories_are_drawn_from_those_of_the_model(
    client: TestClient, client_of: ClientOf, shop: Recommender
) -> None:
    drawn = [client.get("/history/example") for _ in range(40)]
    histories = shop.example_histories()
    assert [len(history) for history in histories] == [3, 2]
    assert {answer.headers["cache-control"] for answer in drawn} == {"no-store"}
    seen = [answer.json()["items"] for answer in drawn]
    for history in histories:
        assert facts(shop, history) in seen
    assert all(items in [facts(shop, history) for history in histories] for items in seen)
    assert refusal(client_of().get("/history/example")) == (404, "no_examples", None)


def test_details_are_limited(client_of: ClientOf, kept_shop: "ServedModel", shop: Recommender) -> None:
    client = client_of(model=kept_shop, max_explained=2, max_explained_users=1, max_titles=10, max_topk=20)
    one = {"user_id": 1, "item_ids": shop.item_ids[:3].tolist()}
    answer = client.post(PATH, json={"topk": 9, "explain": True, "instances": [one]}).json()["predictions"][0]
    assert (len(answer["predictions"]), len(answer["explanations"])) == (9, 2)
    two = {"instances": [one, one], "topk": 9}
    assert client.post(PATH, json=two).status_code == 200
    assert refusal(client.post(PATH, json={**two, "explain": True})) == (422, "too_many", "explain")
    assert refusal(client.post(PATH, json={**two, "titles": True})) == (422, "too_many", "titles")
    assert refusal(client.post(PATH, json={**two, "titles": 1})) == (422, "invalid_field", "titles")


@pytest.mark.parametrize("by", ["model", "text", "codes"])
def test_similar_items_are_those_of_the_recommender(client: TestClient, shop: Recommender, by: str) -> None:
    items = shop.item_ids[[3, 7]].tolist()
    answer = client.post(SIMILAR, json={"item_ids": items, "topk": 5, "by": by, "titles": True, "scores": True})
    wanted = shop.similar(items, 5, by=by)
    content = answer.json()
    assert content["predictions"] == wanted.items.tolist()
    assert not set(content["predictions"]) & set(items)
    assert content["items"] == facts(shop, content["predictions"])
    assert content["scores"] == pytest.approx(wanted.scores.tolist(), abs=1e-5)
    plain = client.post(SIMILAR, json={"item_ids": items, "topk": 5, "by": by}).json()
    assert plain == {"predictions": content["predictions"]}


def test_similar_items_obey_rules_and_lists(client: TestClient, shop: Recommender) -> None:
    item, *others = shop.item_ids.tolist()
    odd = client.post(SIMILAR, json={"item_ids": [item], "topk": 90, "rule": "brand = odd", "titles": True}).json()
    assert {each["brand"] for each in odd["items"]} == {"Odd"}
    allowed = client.post(SIMILAR, json={"item_ids": [item], "allow": others[:4], "deny": others[:1]}).json()
    assert set(allowed["predictions"]) == set(others[1:4])
    assert refusal(client.post(SIMILAR, json={"item_ids": [item], "rule": "colour = red"}))[::2] == (422, "rule")


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ("{", 400, None),
        ("{}", 422, "item_ids"),
        ('{"item_ids": []}', 422, "item_ids"),
        ('{"item_ids": [1.5]}', 422, "item_ids.0"),
        ('{"item_ids": [123456789]}', 422, "item_ids"),
        ('{"item_ids": [1], "by": "colour"}', 422, "by"),
        ('{"item_ids": [1], "topk": 1001}', 422, "topk"),
        ('{"item_ids": [1], "ranking": "dense"}', 422, "ranking"),
    ],
)
def test_a_bad_request_for_similar_items_names_the_field(
    client: TestClient, body: str, status: int, field: str | None
) -> None:
    assert refusal(client.post(SIMILAR, content=body))[::2] == (status, field)


def test_items_are_found_by_title_and_by_id(client: TestClient, shop: Recommender) -> None:
    last = shop.item_ids[-1].item()
    for query, limit in (("crea", 5), ("", 3), ("balm 1", 4), (str(last), 20)):
        answer = client.get("/items", params={"query": query, "topk": limit})
        assert answer.json()["items"] == facts(shop, shop.find(query, limit))
        assert answer.json()["items"]
    assert client.get("/items", params={"query": "zzz"}).json() == {"items": []}
    assert answer.json()["items"][0] == {
        "item_id": last, "title": f"item {last}", "brand": "Odd", "categories": None, "price": 89.5,
    }  # fmt: skip


def test_items_are_described_by_their_ids(client: TestClient, shop: Recommender) -> None:
    first, markup = shop.item_ids[[0, -2]].tolist()
    answer = client.get("/items", params=[("item_id", markup), ("item_id", first), ("item_id", 10**12)])
    assert answer.json()["items"] == facts(shop, [markup, first, 10**12])
    assert answer.headers["content-type"] == "application/json"  # a browser never reads the markup in it as a page


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("topk=0", "topk"),
        ("topk=101", "topk"),
        ("topk=x", "topk"),
        ("query=" + "x" * 201, "query"),
        ("query=a&query=b", "query"),
        ("item_id=x", "item_id"),
        ("item_id=1&query=a", "item_id"),
        ("colour=red", "colour"),
    ],
)
def test_a_bad_query_names_the_field(client: TestClient, query: str, field: str) -> None:
    status, _, at = refusal(client.get(f"/items?{query}"))
    assert (status, at) == (422, field)


def test_odd_queries_are_answered(client: TestClient) -> None:
    for query in ("%00", "%ff", "%ED%A0%80", "%F0%9F%98%80", "a%20%22%27(", "%5B", "*", "+", "%250a"):
        assert client.get(f"/items?query={query}").status_code == 200


def test_lookups_are_counted_apart_from_users(client: TestClient, shop: Recommender) -> None:
    client.get("/items", params={"query": "cream"})
    client.post(SIMILAR, json={"item_ids": shop.item_ids[:1].tolist()})
    shown = client.get("/metrics").text
    for line in ("genrec_lookups_total 2.0", "genrec_users_total 0.0", 'genrec_requests_total{status="200"} 2.0'):
        assert line in shown


def test_item_routes_ask_for_the_token_and_wait_for_the_model(client_of: ClientOf, kept_shop: "ServedModel") -> None:
    for client, code in (
        (client_of(model=kept_shop, token="s3cret"), "no_token"),
        (client_of(model=kept_shop, loaded=False), "not_ready"),
    ):
        for answer in (
            client.get("/items"),
            client.get("/history/example"),
            client.post(SIMILAR, json={"item_ids": [1]}),
            client.post("/admin/withdraw", json={"item_ids": [1]}, headers={"Authorization": ""}),
        ):
            assert answer.json()["error"]["code"] in (code, "loopback_only")


def test_the_model_says_what_it_can(client: TestClient, client_of: ClientOf) -> None:
    names = ("ranking", "takes_rules", "release", "fallbacks", "examples")
    facts, bare = client.get("/model").json(), client_of().get("/model").json()
    assert [facts[name] for name in names] == ["hybrid", True, None, ["popular", "recent", "new"], True]
    assert [bare[name] for name in names] == ["hybrid", False, None, ["popular"], False]


PIECES = [
    *(
        "query=",
        "topk=",
        "item_id=",
        "colour=",
        "&",
        "&",
        "=",
        "?",
        "/",
        ";",
        "+",
        "%20",
        "%00",
        "%0a",
        "%ff",
        "%ED%A0%80",
    ),
    *(
        "%",
        "%2",
        "%F0%9F%98%80",
        "%C3%A9",
        "%27%22",
        "%28%5B%5C",
        "cream",
        "Balm",
        "1",
        "7",
        "0",
        "-1",
        "1.5",
        "1e3",
        "nan",
    ),
    *("9" * 19, "9" * 30, "x" * 201, "\u0661"),
]


def malformed_query(draw: random.Random, items: list[int]) -> str:
    """The query of ``GET /items``: a good one with something put in, or nothing but pieces."""
    if draw.random() < 0.2:
        return "".join(draw.choices(PIECES, k=draw.randrange(12)))
    good = draw.choice(
        [f"query=cream+{draw.randrange(99)}&topk=4", f"item_id={draw.choice(items)}&item_id=5", "topk=9"]
    )
    place = draw.randrange(len(good) + 1)
    return good[:place] + draw.choice(PIECES) + good[place:]


def malformed_similar(draw: random.Random, items: list[int]) -> bytes:
    """The body of ``POST /similar``: a good one with another value, another field, or another byte."""
    body: dict[str, Any] = {"item_ids": draw.sample(items, 2), "topk": 4, "by": draw.choice(["model", "text", "codes"])}
    for _ in range(draw.choice([0, 1, 1, 2])):
        name = draw.choice([*body, "allow", "deny", "rule", "titles", "scores", "ranking"])
        odd = [None, True, -1, 0, 1.5, 1 << 64, "", "x", "price < 9", [], {}, [[]], [1] * 2000, "\ud800", items[:5]]
        body[name] = draw.choice(odd)
    content = bytearray(json.dumps(body).encode())
    if draw.random() < 0.3:
        content[draw.randrange(len(content))] = draw.randrange(256)
    return bytes(content)


def is_right_query(answer: dict[str, Any], query: str, recommender: Recommender) -> bool:
    """Whether an answer holds the items that the recommender finds, or describes, for a query."""
    pairs = parse_qsl(query, keep_blank_values=True)
    wanted = [int(value) for name, value in pairs if name == "item_id"]
    if not wanted:
        asked = dict(pairs)
        wanted = [int(item) for item in recommender.find(asked.get("query", ""), int(asked.get("topk", 20)))]
    return answer["items"] == facts(recommender, wanted)


def is_right_similar(answer: dict[str, Any], body: bytes, recommender: Recommender) -> bool:
    """Whether an answer holds the items that the recommender finds similar."""
    asked = json.loads(body)
    allowed = recommender.allowed(asked.get("allow"), asked.get("deny"), asked.get("rule"))
    count = min(asked.get("topk", 10), len(recommender.item_ids))
    wanted = recommender.similar(asked["item_ids"], count, by=asked.get("by", "model"), allowed=allowed)
    return bool(answer["predictions"] == wanted.items.tolist())


@pytest.mark.parametrize("count", [300, pytest.param(20_000, marks=pytest.mark.slow)])
def test_malformed_queries_and_bodies_are_refused_or_answered_rightly(
    client: TestClient, shop: Recommender, count: int
) -> None:
    draw, items, statuses = random.Random(5), np.sort(shop.item_ids).tolist(), set()
    for _ in range(count):
        query, body = malformed_query(draw, items), malformed_similar(draw, items)
        for answer, right in (
            (client.get(f"/items?{query}"), lambda content, query=query: is_right_query(content, query, shop)),
            (client.post(SIMILAR, content=body), lambda content, body=body: is_right_similar(content, body, shop)),
        ):
            statuses.add(answer.status_code)
            content = answer.json()
            if answer.status_code == 200:
                assert right(content), (query, body)
            else:
                assert answer.status_code in (400, 422), (query, body, content)
                assert set(content["error"]) == {"code", "message", "field"}
    assert statuses == {200, 400, 422}


def test_a_withdrawal_that_cannot_be_says_why_and_changes_nothing(
    client_of: ClientOf, kept_shop: "ServedModel", shop: Recommender
) -> None:
    client, headers = client_of(token="s3cret", model=kept_shop), {"Authorization": "Bearer s3cret"}
    for items, status, field in (
        ([], 422, "item_ids"),
        (["x"], 422, "item_ids.0"),
        ([10**12], 409, "item_ids"),
        (shop.item_ids.tolist(), 409, "item_ids"),
    ):
        answer = client.post("/admin/withdraw", json={"item_ids": items}, headers=headers)
        assert refusal(answer)[::2] == (status, field)
    assert client.get("/model", headers=headers).json()["version"] == kept_shop.version


@pytest.mark.parametrize("path", ["/admin/reload", "/admin/withdraw", "/admin/add-items"])
def test_without_a_token_neither_a_page_of_a_browser_nor_a_proxy_changes_the_model(
    client_of: ClientOf, kept_shop: "ServedModel", path: str
) -> None:
    body = {"item_ids": [10**12]}  # refused later: the model has none such, and it is no item to add
    here = client_of(model=kept_shop, client=("127.0.0.1", 50000))
    assert here.post(path, json=body).status_code in (200, 409, 422)
    for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"X-Forwarded-For": "10.0.0.9"}):
        assert refusal(here.post(path, json=body, headers=headers))[:2] == (403, "loopback_only")
    assert refusal(client_of(model=kept_shop).post(path, json=body))[:2] == (403, "loopback_only")


def test_withdrawn_items_leave_the_lists_at_once_and_come_back(
    start_server: Callable[..., Any], shop_dir: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(shop_dir, tmp_path / "model")
    server = start_server("--threads", "1", model_dir=folder)

    def post(path: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(server.url + path, json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def first() -> int:
        user = {"user_id": 1, "item_ids": np.load(folder / "item_ids.npy")[:3].tolist()}
        return int(post(PATH, {"topk": 1, "instances": [user]})["predictions"][0]["predictions"][0])

    item, version = first(), ModelFolder(folder).version
    done = post("/admin/withdraw", {"item_ids": [item]})
    assert done == {"changed": 1, "withdrawn": 1, "left": 89, "version": ModelFolder(folder).version}
    assert first() != item
    again = post("/admin/withdraw", {"item_ids": [item], "restore": True})
    assert (again["changed"], again["withdrawn"], first()) == (1, 0, item)
    assert again["version"] not in (version, done["version"])  # an empty list is another state than none


def test_an_added_item_is_found_and_recommended_at_once(
    start_server: Callable[..., Any], shop_dir: Path, tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    folder = shutil.copytree(shop_dir, tmp_path / "model")
    give_text_model(folder, tmp_path)
    server = start_server("--threads", "1", model_dir=folder)

    def post(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        request = urllib.request.Request(server.url + path, json.dumps(body).encode())
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)["error"]

    new = {"item_id": 5, "title": "Soap of olives", "brand": "Fiora", "price": 4.5}
    assert post("/admin/add-items", {"items": [new]}) == (200, {"added": 1, "version": ModelFolder(folder).version})
    with urllib.request.urlopen(f"{server.url}/items?query=olives", timeout=30) as answer:
        assert json.load(answer)["items"] == [{**new, "categories": None}]
    user = {"user_id": 1, "item_ids": np.load(folder / "item_ids.npy")[:3].tolist()}
    status, listed = post(PATH, {"topk": 1, "allow": [5], "instances": [user]})
    assert (status, listed["predictions"][0]["predictions"]) == (200, [5])
    version = ModelFolder(folder).version
    for items, code, said in (
        ([new], 409, "item 5"),
        ([{"title": "Soap"}], 409, "items, line 1: item None is not an integer id"),
        ([], 422, "at least 1 item"),
        ([5], 422, "dictionary"),
    ):
        status, error = post("/admin/add-items", {"items": items})
        assert (status, said in error["message"]) == (code, True), error
    assert ModelFolder(folder).version == version
