"""The server's ``/docs`` in a real browser, which asks no other host for it."""

import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
from playwright.sync_api import Page, expect

from genrec_core.serving.app import Server, build_app
from genrec_core.serving.metrics import Metrics
from genrec_core.serving.models import ModelHolder
from genrec_core.settings import ServingSettings


@pytest.fixture
def address() -> Iterator[str]:
    """A server whose model is not loaded."""
    metrics = Metrics()
    app = build_app(Server(ModelHolder(None, 1, metrics), ServingSettings(), metrics, None))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.mark.slow
def test_the_docs_are_shown_without_another_host(address: str, page: Page) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{address}/docs")
    expect(page.get_by_role("heading", name="POST /predictions/mymodel")).to_be_visible()
    expect(page.get_by_role("heading", name="GET /health/ready")).to_be_visible()
    expect(page.get_by_role("cell", name="instances[].item_ids")).to_be_visible()
    assert {url.rpartition("/")[0] for url in asked} == {address}
