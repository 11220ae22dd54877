"""The small server of the HTML pages in the storage: it shows these, and nothing else that lies there."""

import base64
import json
import struct
import threading
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

import pytest

from genrec_dagster.pages import page_address, serve

REPORT = "<!doctype html><title>Report</title>"


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two versions with a report, and files beside it that nobody may read."""
    root = tmp_path / "storage"
    for version in ("first", "second"):
        folder = root / "recall_metrics" / version
        folder.mkdir(parents=True)
        (folder / "report.html").write_text(REPORT)
        (folder / "beauty_metrics.json").write_text("{}")
    (root / "recall_metrics" / "latest.json").write_text(json.dumps({"version": "second"}))
    (root / ".work" / "recall_metrics").mkdir(parents=True)
    (root / ".work" / "recall_metrics" / "report.html").write_text("unfinished")
    (tmp_path / "codes.html").write_text("outside")
    (root / "semantic_ids" / "first").mkdir(parents=True)
    (root / "semantic_ids" / "first" / "codes.html").symlink_to(tmp_path / "codes.html")
    monkeypatch.setenv("GENREC_STORAGE", str(root))
    return root


@pytest.fixture
def port(storage: Path) -> Iterator[int]:
    with serve(0) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server.server_port
        server.shutdown()


def ask(port: int, path: str, method: str = "GET", host: str = "127.0.0.1:3001") -> tuple[HTTPResponse, str]:
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", host)
    connection.endheaders()
    answer = connection.getresponse()
    return answer, answer.read().decode()


def test_a_page_is_shown_and_may_load_nothing(port: int) -> None:
    answer, content = ask(port, "/recall_metrics/first/report.html")
    assert (answer.status, content) == (200, REPORT)
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"


def test_a_picture_is_shown_to_dagsters_pages_too(storage: Path, port: int) -> None:
    (storage / "recall_metrics" / "first" / "recall.png").write_bytes(b"picture")
    answer, content = ask(port, "/recall_metrics/first/recall.png")
    assert (answer.status, content, answer.headers["Content-Type"]) == (200, "picture", "image/png")
    assert answer.headers["Cross-Origin-Resource-Policy"] == "cross-origin"


def test_a_picture_is_drawn_as_small_as_a_table_of_dagster_shows(storage: Path, port: int) -> None:
    header = b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + struct.pack(">II", 1600, 800)
    (storage / "recall_metrics" / "first" / "recall.png").write_bytes(header)
    answer, content = ask(port, "/recall_metrics/first/recall.png?small")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "image/svg+xml")
    assert 'width="400" height="200"' in content
    assert base64.b64encode(header).decode() in content


def test_the_headers_alone_can_be_asked_for(port: int) -> None:
    answer, content = ask(port, "/recall_metrics/first/report.html", "HEAD")
    assert (answer.status, content) == (200, "")
    assert answer.headers["Content-Length"] == str(len(REPORT))


def test_the_first_page_lists_the_newest_ones(port: int) -> None:
    answer, content = ask(port, "/")
    assert answer.status == 200
    assert 'href="/recall_metrics/second/report.html"' in content
    assert "/first/" not in content


def test_an_empty_storage_says_what_to_do(port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENREC_STORAGE", str(tmp_path / "empty"))
    answer, content = ask(port, "/")
    assert answer.status == 200
    assert "make run" in content


@pytest.mark.parametrize(
    "path",
    [
        "/recall_metrics/first/beauty_metrics.json",
        "/recall_metrics/latest.json",
        "/recall_metrics/third/report.html",
        "/.work/recall_metrics/report.html",
        "/recall_metrics/../codes.html",
        "/recall_metrics/%2e%2e/codes.html",
        "/recall_metrics/..%2f..%2fcodes.html",
        "/recall_metrics//codes.html",
        "/recall_metrics/first/report.html/",
        "/recall_metrics/first/report.html%00",
        "/semantic_ids/first/codes.html",
        "/%ff/first/report.html",
    ],
)
def test_nothing_else_is_shown(port: int, path: str) -> None:
    answer, content = ask(port, path)
    assert answer.status == 404
    assert "There is no such page" in content


def test_a_page_of_another_site_cannot_read_by_a_name_that_leads_here(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ask(port, "/", host="evil.example:3001")[0].status == 403
    monkeypatch.setenv("GENREC_PAGES_URL", "https://pages.example/genrec")
    assert ask(port, "/", host="pages.example")[0].status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_nothing_can_be_written(port: int, method: str) -> None:
    assert ask(port, "/recall_metrics/first/report.html", method)[0].status == 501


@pytest.mark.parametrize(
    ("variables", "address"),
    [
        ({}, "http://127.0.0.1:3001"),
        ({"PAGES_PORT": "3055"}, "http://127.0.0.1:3055"),
        ({"GENREC_PAGES_URL": "https://pages.example/genrec/"}, "https://pages.example/genrec"),
    ],
)
def test_a_link_leads_to_where_pages_are_shown(
    variables: dict[str, str], address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PAGES_PORT", "GENREC_PAGES_URL"):
        monkeypatch.setenv(name, variables.get(name, ""))
    for folder in (Path("/s/recall_metrics/v1"), Path("/s/.work/recall_metrics/v1")):
        assert page_address(folder, "report.html") == f"{address}/recall_metrics/v1/report.html"


def test_a_link_to_a_file_that_is_not_shown_is_refused() -> None:
    with pytest.raises(ValueError, match=r"manifest\.json is not shown"):
        page_address(Path("/s/recall_metrics/v1"), "manifest.json")
