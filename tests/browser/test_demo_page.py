"""The demo page of `genrec serve` in a real browser: what it shows, by mouse, by keyboard alone, in light and dark."""

import re
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import uvicorn
from playwright.sync_api import ConsoleMessage, Locator, Page, expect

from genrec_core.recommend.recommender import Recommender
from genrec_core.serving.app import Server, build_app
from genrec_core.serving.metrics import Metrics
from genrec_core.serving.models import ModelHolder, ServedModel
from genrec_core.settings import ServingSettings
from tests.core.tiny_model import MARKUP, add_titles

if TYPE_CHECKING:
    from tests.core.tiny_model import TinyModel

SECONDS = 20_000  # milliseconds for each step
# The lowest contrast of any text on the page that is not switched off, and that text.
LOWEST_CONTRAST = """() => {
  const channels = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, place) => sum + c * [0.2126, 0.7152, 0.0722][place], 0);
  const ground = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const [r, g, b, alpha = 1] = channels(getComputedStyle(each).backgroundColor);
      if (alpha > 0) return [r, g, b];
    }
    return [255, 255, 255];
  };
  let lowest = [99, ""];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const [text, element] = [walker.currentNode.data.trim(), walker.currentNode.parentElement];
    if (!text || !element.checkVisibility() || element.closest(":disabled, .visually-hidden, .skip, option")) continue;
    const lights = [light(channels(getComputedStyle(element).color)), light(ground(element))].sort((a, b) => b - a);
    const contrast = (lights[0] + 0.05) / (lights[1] + 0.05);
    if (contrast < lowest[0]) lowest = [contrast, text];
  }
  return lowest;
}"""


@pytest.fixture(scope="module")
def shop_dir(tiny_model: "TinyModel", tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = shutil.copytree(tiny_model.model_dir, tmp_path_factory.mktemp("shop") / "model")
    add_titles(folder)
    return folder


@pytest.fixture(scope="module")
def shop(shop_dir: Path) -> Recommender:
    """The model that the page shows."""
    return Recommender.open(shop_dir)


@contextmanager
def serving(folder: Path, token: str | None = None, loaded: bool = True) -> Iterator[tuple[str, ModelHolder]]:
    """The address of a server, and what holds its model."""
    metrics = Metrics()
    holder = ModelHolder(folder, 1, metrics, ServedModel)
    if loaded:
        holder.load()
    app = build_app(Server(holder, ServingSettings(threads=1), metrics, token))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/", holder
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def address(chromium: Path, shop_dir: Path) -> Iterator[str]:
    """A server whose model has titles."""
    with serving(shop_dir) as (place, _):
        yield place


@pytest.fixture
def complaints(page: Page) -> Iterator[list[str]]:
    """What the browser complains of; each test ends with none."""
    heard: list[str] = []

    def note(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            heard.append(message.text)

    page.on("console", note)
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.set_default_timeout(SECONDS)
    expect.set_options(timeout=SECONDS)
    yield heard
    assert heard == []


def cards(page: Page) -> Locator:
    return page.get_by_role("list", name="Recommended items").locator("> li")


def titles(page: Page) -> list[str]:
    return cards(page).get_by_role("heading").all_inner_texts()


def of_recommender(shop: Recommender, history: list[int], count: int, **options: object) -> list[str]:
    (items,) = shop.recommend([history], count, **options)  # type: ignore[arg-type]
    return [facts.title for facts in shop.describe(items.tolist())]


def shown(page: Page, wanted: list[str]) -> None:
    """Wait until the page shows these titles, in order."""
    expect(cards(page).get_by_role("heading")).to_have_text([re.sub(r"\s+", " ", title) for title in wanted])


def test_a_history_of_clicks_gives_the_models_list_with_titles_as_text(
    address: str, page: Page, complaints: list[str], shop: Recommender
) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    expect(page.get_by_text("so these are popular items")).to_be_visible()
    search = page.get_by_role("combobox", name="Add an item")
    search.fill("img src")
    page.get_by_role("option", name=MARKUP[:20]).click()
    search.fill("cream 4")
    page.get_by_role("option", name="Cream 4", exact=False).first.click()
    expect(page.get_by_role("list", name="Items of the history").get_by_role("listitem")).to_have_count(2)
    markup, cream = shop.item_ids[-2].item(), shop.find("cream 4", 1)[0]
    shown(page, of_recommender(shop, [markup, int(cream)], 10))
    assert page.get_by_text(MARKUP[:20]).count() == 1
    assert page.locator("img").count() == 0
    expect(page.get_by_role("status").filter(has_text=re.compile(r"^10 items in [\d.]+ ms$"))).to_be_visible()
    assert all(url.startswith((address, "data:")) for url in asked)
