"""The audit of the locked packages passes nothing over without a reason, and nothing that it could not look up."""

import json
import runpy
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

AUDIT: dict[str, Any] = runpy.run_path(str(Path(__file__).parents[1] / "docker" / "audit.py"))
ADVISORY = {"id": "PYSEC-1", "aliases": ["CVE-1", "GHSA-1"]}


class _Pages(BaseHTTPRequestHandler):
    """Projects' pages as PyPI gives them."""

    def do_GET(self) -> None:
        pages = {
            "/good/json": {"info": {"version": "2.0"}, "vulnerabilities": []},
            "/bad/json": {
                "info": {"version": "2.0"},
                "vulnerabilities": [ADVISORY, {"id": "PYSEC-2", "withdrawn": "2026-01-01T00:00:00Z"}],
            },
            "/other/json": {"info": {}},
        }
        page = pages.get(self.path)
        self.send_response(200 if page else 404)
        self.end_headers()
        self.wfile.write(json.dumps(page).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def pages() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Pages) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_whatever_is_ignored_has_a_reason(tmp_path: Path) -> None:
    assert all(len(reason) >= 20 for reason in AUDIT["ignored"]().values())
    given = tmp_path / "ignored.txt"
    given.write_text("# why\n\nGHSA-1 torch.load is called nowhere in this project\n")
    assert AUDIT["ignored"](given) == {"GHSA-1": "torch.load is called nowhere in this project"}
    given.write_text("GHSA-1 x\nGHSA-2\n")
    with pytest.raises(SystemExit, match=r"ignored.txt:1: GHSA-1 is ignored without a reason"):
        AUDIT["ignored"](given)


def test_an_advisory_is_explained_under_any_of_its_names() -> None:
    assert AUDIT["unexplained"]([ADVISORY], {}) == ["PYSEC-1"]
    assert AUDIT["unexplained"]([ADVISORY], {"CVE-2": "why"}) == ["PYSEC-1"]
    assert AUDIT["unexplained"]([ADVISORY], {"GHSA-1": "why"}) == []


def test_every_lock_is_audited() -> None:
    packages = AUDIT["locked"]()
    assert {lock for locks in packages.values() for lock in locks} == {"dagster", "inference", "serve", "torchserve"}
    numpy = [locks for (name, _), locks in packages.items() if name == "numpy"]
    assert numpy == [["dagster", "inference", "serve", "torchserve"]]


def test_an_audit_of_nothing_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no lock with a package in it"):
        AUDIT["locked"](tmp_path)


def test_two_versions_of_a_package_are_asked_apart() -> None:
    assert AUDIT["_rounds"]([("a", "1"), ("b", "1"), ("a", "2")]) == [{"a": "1", "b": "1"}, {"a": "2"}]


def test_a_projects_page_tells_of_its_newest_release_only(pages: str) -> None:
    assert AUDIT["by_project"]("good", "2.0", pages) == []
    assert AUDIT["by_project"]("bad", "2.0", pages) == [ADVISORY]
    assert AUDIT["by_project"]("good", "1.0", pages) is None


@pytest.mark.parametrize("name", ["missing", "other"])
def test_a_page_that_cannot_be_read_is_not_a_clean_one(name: str, pages: str) -> None:
    assert AUDIT["by_project"](name, "2.0", pages) is None


def test_an_audit_that_looked_nothing_up_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="looked nothing up"):
        AUDIT["by_release"](Path("/bin/false"), [("a", "1")], tmp_path)
