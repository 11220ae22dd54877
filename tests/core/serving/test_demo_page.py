"""The demo page's files: what is sent, with which headers, behind a prefix, and how it is turned off."""

import re
from collections.abc import Callable

import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError

from genrec_core.serving.demo_page import page_files
from genrec_core.settings import ServingSettings

ClientOf = Callable[..., TestClient]
POLICY = {
    "default-src": "'none'", "script-src": "'self'", "style-src": "'self'", "connect-src": "'self'",
    "img-src": "'self' data:", "base-uri": "'none'", "form-action": "'none'", "frame-ancestors": "'none'",
}  # fmt: skip


def test_the_page_and_its_files_are_sent_with_a_strict_policy_and_without_a_token(client_of: ClientOf) -> None:
    client = client_of(token="s3cret", loaded=False)
    types = {"/": "text/html", "/page/page.js": "text/javascript", "/page/page.css": "text/css"}
    for path, media_type in types.items():
        answer = client.get(path)
        assert answer.headers["content-type"] == f"{media_type}; charset=utf-8"
        policy = answer.headers["content-security-policy"].split("; ")
        assert dict(part.split(" ", 1) for part in policy) == POLICY
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert "genrec_request_seconds_count 0.0" in client.get("/metrics").text


def test_the_page_asks_no_other_host_and_sets_no_markup() -> None:
    files = page_files()
    page, script, style = (files[path].content for path in ("/", "/page/page.js", "/page/page.css"))
    assert not re.findall(r"https?:|//[a-z]|<style|\bstyle=|\bon[a-z]+=", page)
    assert re.findall(r"<script[^>]*>(.*?)</script>", page) == [""]
    assert not re.findall(r"https?:", script + style)
    assert not re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", script)


def test_every_element_that_the_script_names_is_in_the_page() -> None:
    files = page_files()
    named = set(re.findall(r"""\belement\("([a-z-]+)"\)""", files["/page/page.js"].content))
    assert len(named) > 20
    assert named <= set(re.findall(r'\bid="([a-z-]+)"', files["/"].content))


def test_every_input_of_the_page_has_a_label() -> None:
    page = page_files()["/"].content
    inputs = re.findall(r'<(?:input|select)\b[^>]*\bid="([a-z-]+)"', page)
    assert len(inputs) == len(re.findall(r"<(?:input|select)\b", page))
    assert set(inputs) <= set(re.findall(r'<label for="([a-z-]+)"', page))


def test_the_page_can_be_turned_off(client_of: ClientOf) -> None:
    client = client_of(page=False)
    for path in ("/", "/page/page.js", "/page/index.html"):
        assert (client.get(path).status_code, client.get(path).json()["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize("kept", ["", "/recommend"])
def test_behind_a_prefix_all_routes_answer_whether_the_proxy_keeps_it_or_not(client_of: ClientOf, kept: str) -> None:
    client = client_of(path_prefix="/recommend")
    page = client.get(f"{kept}/").text
    assert re.findall(r'(?:src|href)="(/[^"]+)"', page) == [
        "/recommend/page/page.css", "/recommend/page/page.js", "/recommend/docs", "/recommend/docs",
    ]  # fmt: skip
    assert client.get(f"{kept}/page/page.js").status_code == client.get(f"{kept}/health/ready").status_code == 200
    assert "http://testserver/recommend/predictions/mymodel</pre>" in client.get(f"{kept}/docs").text
    assert client.get(f"{kept}/openapi.json").json()["servers"] == [{"url": "/recommend"}]
    body = {"topk": 1, "instances": [{"user_id": 1, "item_ids": []}]}
    assert client.post(f"{kept}/predictions/mymodel", json=body).status_code == 200
    assert "genrec_request_seconds_count 1.0" in client.get(f"{kept}/metrics").text


def test_the_address_without_its_last_stroke_leads_to_the_page(client_of: ClientOf) -> None:
    client = client_of(path_prefix="/recommend")
    assert "page/page.js" in client.get("/recommend").text


@pytest.mark.parametrize("prefix", ["recommend", "/recommend/", "/a b", '/"><script>', "//evil.example", "/a/../b\n"])
def test_a_prefix_that_is_no_path_is_refused(prefix: str) -> None:
    with pytest.raises(ValidationError):
        ServingSettings(path_prefix=prefix)
