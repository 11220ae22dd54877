"""The demo page of `genrec serve` in a real browser: what it shows, by mouse, by keyboard alone, in light and dark."""

import re
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn
from playwright.sync_api import ConsoleMessage, Locator, Page, expect

from genrec_core.recommend.recommender import Recommender
from genrec_core.serving.app import Server, build_app
from genrec_core.serving.metrics import Metrics
from genrec_core.serving.models import ModelHolder, ServedModel
from genrec_core.settings import ServingSettings
from tests.core.tiny_model import MARKUP, give_text_model

if TYPE_CHECKING:
    pass

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


def found(page: Page) -> Locator:
    """What the search found."""
    return page.get_by_role("listbox", name="Items found").get_by_role("option")


def titles(page: Page) -> list[str]:
    return cards(page).get_by_role("heading").all_inner_texts()


def of_recommender(shop: Recommender, history: list[int], count: int, **options: Any) -> list[str]:
    (items,) = shop.recommend([history], count, **options)
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
    found(page).filter(has_text=MARKUP[:20]).click()
    search.fill("cream 4")
    found(page).filter(has_text="Cream 4").first.click()
    expect(page.get_by_role("list", name="Items of the history").get_by_role("listitem")).to_have_count(2)
    markup, cream = shop.item_ids[-2].item(), shop.find("cream 4", 1)[0]
    shown(page, of_recommender(shop, [markup, int(cream)], 10))
    assert page.get_by_text(MARKUP[:20]).count() == 1
    assert page.locator("img").count() == 0
    expect(page.get_by_role("status").filter(has_text=re.compile(r"^10 items in [\d.]+ ms$"))).to_be_visible()
    assert all(url.startswith((address, "data:")) for url in asked)


@pytest.mark.slow
def test_everything_can_be_done_by_keyboard_alone(
    address: str, page: Page, complaints: list[str], shop: Recommender
) -> None:
    page.goto(address)
    expect(cards(page)).to_have_count(10)
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to the recommendations")).to_be_focused()
    tab_to(page, page.get_by_role("combobox", name="Add an item"))
    page.keyboard.type("cream 6")
    expect(found(page).first).to_be_visible()
    page.keyboard.press("ArrowDown")
    expect(found(page).and_(page.get_by_role("option", selected=True))).to_contain_text("Cream 6")
    page.keyboard.press("Enter")
    page.keyboard.type("balm 1")
    expect(found(page).first).to_be_visible()
    page.keyboard.press("Enter")
    first, second = int(shop.find("cream 6", 1)[0]), int(shop.find("balm 1", 1)[0])
    shown(page, of_recommender(shop, [first, second], 10))
    mover = page.get_by_role("button", name=re.compile("^Move Balm .* up$"))
    tab_to(page, mover)
    page.keyboard.press("Enter")
    shown(page, of_recommender(shop, [second, first], 10))
    expect(page.get_by_role("button", name=re.compile("^Move Balm .* down$"))).to_be_focused()
    tab_to(page, page.get_by_label("auto (hybrid)"))
    page.keyboard.press("ArrowRight")
    shown(page, of_recommender(shop, [second, first], 10, ranking="generative"))
    tab_to(page, page.get_by_role("button", name=re.compile("^Why ")).first)
    page.keyboard.press("Enter")
    expect(page.get_by_text("by the generative ranking")).to_be_visible()
    withdrawn = titles(page)[0]
    tab_to(page, page.get_by_role("button", name=f"Withdraw {withdrawn} on this page"))
    page.keyboard.press("Enter")
    expect(cards(page).get_by_role("heading", name=withdrawn, exact=True)).to_have_count(0)
    expect(page.get_by_role("heading", name="Recommendations")).to_be_focused()
    tab_to(page, page.get_by_role("button", name=f"Recommend {withdrawn} again"), back=True)
    page.keyboard.press("Enter")
    shown(page, of_recommender(shop, [second, first], 10, ranking="generative"))


def tab_to(page: Page, wanted: Locator, back: bool = False) -> None:
    """Press Tab until an element has the focus."""
    for _ in range(120):
        if wanted.evaluate("each => each === document.activeElement"):
            return
        page.keyboard.press("Shift+Tab" if back else "Tab")
    pytest.fail("Tab does not reach the element")


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1360, 390])
def test_text_can_be_read_and_nothing_is_wider_than_the_window(
    address: str, page: Page, complaints: list[str], shop: Recommender, scheme: str, width: int
) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 900})
    history = "&".join(f"h={item}" for item in shop.item_ids[:4].tolist())
    page.goto(f"{address}#{history}&w={shop.item_ids[-2]}&rule=price > 3")
    page.get_by_role("button", name=re.compile("^Why ")).first.click()
    page.get_by_role("button", name=re.compile("^More like ")).nth(1).click()
    expect(page.locator(".reasons li").first).to_be_visible()
    expect(page.locator(".details .chip").first).to_be_visible()
    page.wait_for_timeout(400)  # until the list is no longer half transparent
    contrast, text = page.evaluate(LOWEST_CONTRAST)
    assert contrast >= 4.5, f"{text}: {contrast}"
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.slow
def test_reasons_are_the_models_own(address: str, page: Page, complaints: list[str], shop: Recommender) -> None:
    history = shop.item_ids[[4, 9, 30]].tolist()
    page.goto(f"{address}#{'&'.join(f'h={item}' for item in history)}&ranking=dense")
    page.get_by_role("button", name=re.compile("^Why ")).nth(2).click()
    items = shop.recommend([history], 10, ranking="dense")[0].tolist()
    why = shop.explain(history, items[2:3], ranking="dense")[0]
    rows = page.locator(".reasons li")
    expect(rows).to_have_count(3)
    for row, reason in zip(rows.all(), why.reasons, strict=True):
        assert row.locator(".item-title").inner_text() == shop.describe([reason.item_id])[0].title
        said = "raises" if reason.effect >= 0 else "lowers"
        expect(row).to_contain_text(f"{said} the score by {reason.effect:+.2f}".replace("-", "\N{MINUS SIGN}"))
    expect(page.get_by_text(f"place {why.dense_rank} by the dense head")).to_be_visible()


@pytest.mark.slow
def test_a_rule_narrows_the_list_and_a_wrong_one_is_told_beside_it(address: str, page: Page, shop: Recommender) -> None:
    history = shop.item_ids[:2].tolist()
    page.goto(f"{address}#{'&'.join(f'h={item}' for item in history)}")
    expect(cards(page)).to_have_count(10)
    before, rule = titles(page), page.get_by_role("textbox", name="Rule")
    rule.fill("brand <> even")
    rule.press("Enter")
    expect(rule).to_have_attribute("aria-invalid", "true")
    expect(page.get_by_role("alert").filter(has_text="Rule, character")).to_be_visible()
    assert titles(page) == before
    rule.fill("brand = even and price < 20")
    rule.press("Enter")
    shown(page, of_recommender(shop, history, 10, rule="brand = even and price < 20"))
    expect(rule).not_to_have_attribute("aria-invalid", "true")


@pytest.mark.slow
def test_new_users_get_what_is_chosen_and_a_random_user_is_drawn(
    address: str, page: Page, complaints: list[str], shop: Recommender
) -> None:
    page.goto(address)
    expect(cards(page)).to_have_count(10)
    for fallback in ("recent", "new"):
        page.get_by_label("New users get").select_option(fallback)
        items = shop.rank([[]], 10, fallback=fallback).of(0).tolist()
        shown(page, [facts.title for facts in shop.describe(items)])
    page.get_by_role("button", name="Random user").click()
    expect(page.get_by_label("New users get")).to_be_hidden()
    history = page.get_by_role("list", name="Items of the history").locator(".item-title").all_inner_texts()
    drawn = {tuple(facts.title for facts in shop.describe(each)): each for each in shop.example_histories()}
    shown(page, of_recommender(shop, [int(item) for item in drawn[tuple(history)]], 10))
    page.get_by_role("button", name="Clear").click()
    expect(page.get_by_label("New users get")).to_have_value("new")


@pytest.mark.slow
def test_a_link_brings_the_same_view(address: str, page: Page, complaints: list[str], shop: Recommender) -> None:
    page.goto(address)
    search = page.get_by_role("combobox", name="Add an item")
    search.fill("balm 7")
    found(page).first.click()
    page.get_by_label("Items", exact=True).select_option("5")
    page.get_by_label("dense", exact=True).check()
    page.get_by_label("Items of the history", exact=True).select_option("false")
    balm = int(shop.find("balm 7", 1)[0])
    shown(page, of_recommender(shop, [balm], 5, ranking="dense", exclude_seen=False))
    page.get_by_role("button", name=re.compile("^Withdraw ")).first.click()
    expect(page.get_by_role("button", name=re.compile("^Recommend .* again$"))).to_have_count(1)
    expect(cards(page)).to_have_count(5)
    wanted, link = titles(page), page.url
    page.goto("about:blank")
    page.goto(link)
    shown(page, wanted)
    expect(page.get_by_label("Items", exact=True)).to_have_value("5")


@pytest.mark.slow
def test_the_page_asks_for_the_token_and_waits_for_the_model(chromium: Path, shop_dir: Path, page: Page) -> None:
    page.set_default_timeout(SECONDS)
    expect.set_options(timeout=SECONDS)
    with serving(shop_dir, token="s3cret", loaded=False) as (address, holder):
        page.goto(address)
        token = page.get_by_label("Token", exact=True)
        for wrong in ("wrong", "s3cret"):
            token.fill(wrong)
            page.get_by_role("button", name="Use this token").click()
            if wrong == "wrong":
                expect(page.get_by_text("This is not the server's token.")).to_be_visible()
        expect(page.get_by_text("The model is being opened.")).to_be_visible()
        holder.load()
        expect(cards(page)).to_have_count(10)
        assert "s3cret" not in page.url
        assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]


@pytest.mark.slow
def test_an_item_is_added_where_the_server_has_a_token(
    address: str, shop_dir: Path, tmp_path: Path, page: Page
) -> None:
    page.set_default_timeout(6 * SECONDS)
    expect.set_options(timeout=6 * SECONDS)
    page.goto(address)
    page.get_by_text("Add an item to the catalogue").click()
    expect(page.get_by_text("This server has no token")).to_be_visible()
    expect(page.get_by_role("button", name="Add the item")).to_be_hidden()
    folder = shutil.copytree(shop_dir, tmp_path / "model")
    give_text_model(folder, tmp_path)
    with serving(folder, token="s3cret") as (guarded, _):
        page.goto(guarded)
        page.get_by_label("Token", exact=True).fill("s3cret")
        page.get_by_role("button", name="Use this token").click()
        expect(cards(page)).to_have_count(10)
        page.get_by_label("New users get").select_option("new items")
        page.get_by_text("Add an item to the catalogue").click()
        page.get_by_label("Title").fill("Soap of <olives>")
        page.get_by_label("Price").fill("4.5")
        page.get_by_label("Id", exact=True).fill("five")
        page.get_by_role("button", name="Add the item").click()
        expect(page.get_by_role("alert").get_by_text("The id must be a whole number")).to_be_visible()
        page.get_by_label("Id", exact=True).fill("5")
        page.get_by_role("button", name="Add the item").click()
        expect(page.get_by_text("Soap of <olives> is item 5 now and can be recommended.")).to_be_visible()
        expect(cards(page).first.get_by_role("heading")).to_have_text("Soap of <olives>")
        page.get_by_label("Title").fill("Another")
        page.get_by_label("Id", exact=True).fill("5")
        page.get_by_role("button", name="Add the item").click()
        expect(page.get_by_role("alert").get_by_text("item 5")).to_be_visible()
