"""The links on asset pages open the page of MLflow's UI or of the storage that they name, under ``make ui``."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Page, expect

if TYPE_CHECKING:
    from conftest import Addresses


@pytest.mark.slow
@pytest.mark.parametrize(
    ("asset", "page_of", "says"),
    [
        ("tiger_checkpoint", "/runs/", "recall@10 "),
        ("recall_metrics", "/artifacts/report.html", "report.html"),
        ("onnx_encoder", "/artifacts/model", "MLmodel"),
        ("served_release", "/models/genrec/versions/", "Version 1"),
    ],
)
def test_a_link_opens_its_page(
    built: "Addresses", page: Page, screenshots: Path, asset: str, page_of: str, says: str
) -> None:
    page.goto(f"{built.dagster}/assets/{asset}")
    page.locator(f"a[href^='{built.mlflow}/#/'][href*='{page_of}']").first.click()
    expect(page.get_by_text(says).first).to_be_visible()
    assert page.url.startswith(f"{built.mlflow}/#/")
    page.screenshot(path=screenshots / f"link_of_{asset}.png")


@pytest.mark.slow
def test_the_report_opens_by_itself_and_fills_the_window(built: "Addresses", page: Page, screenshots: Path) -> None:
    page.goto(f"{built.dagster}/assets/recall_metrics")
    with page.context.expect_page() as opened:
        page.locator(f"a[href^='{built.pages}/recall_metrics/']").first.click()
    shown = opened.value
    refused: list[str] = []
    shown.on("console", lambda message: refused.append(message.text) if message.type == "error" else None)
    shown.reload()
    expect(shown.get_by_text("Recall@10").first).to_be_visible()
    assert refused == []
    shown.screenshot(path=screenshots / "report.png")
