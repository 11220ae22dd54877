"""The graph as a person meets it: in the Dagster UI, with a click on "Materialize all"."""

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Locator, Page, expect

ASSETS = {
    "raw_beauty": 3,
    "item_catalog": 4,
    "user_histories": 5,
    "item_embeddings": 4,
    "semantic_ids": 3,
    "tiger_checkpoint": 3,
    "recall_metrics": 5,
    "onnx_encoder": 2,
    "model_release": 3,
    "served_release": 1,
    "batch_predictions": 4,
}  # and how many checks each has
GROUPS = ("catalog", "model", "serving")
RUN_MILLISECONDS = 600_000


@pytest.mark.slow
def test_a_materialized_graph_is_green_and_tells_its_metrics(
    dagster_ui: str, page: Page, screenshots: Path, small_run: dict[str, Any]
) -> None:
    open_graph(page, dagster_ui)
    materialize_all(page, config=small_run)
    expect_run_ends(page, "Success")
    open_graph(page, dagster_ui)
    for asset in ASSETS:
        expect_colour(page, asset, "green")
    page.screenshot(path=screenshots / "graph.png")
    for asset, checks in ASSETS.items():
        page.goto(f"{dagster_ui}/assets/{asset}?view=checks")
        expect(page.get_by_text(f"Checks ({checks})")).to_be_visible()
        expect(page.get_by_text("Succeeded", exact=True)).to_have_count(checks)
    expect_metrics(page, dagster_ui, screenshots / "metrics.png")


@pytest.mark.slow
def test_a_failed_gate_is_shown_and_nothing_after_it_is_materialized(
    dagster_ui: str, page: Page, screenshots: Path
) -> None:
    open_graph(page, dagster_ui)
    materialize_all(page)  # 200 users are too few for the preset's model to learn which codes there are
    expect_run_ends(page, "Failure")
    page.goto(f"{dagster_ui}/assets/recall_metrics?view=checks&checkDetail=generation_misses")
    expect(page.get_by_text("Failed", exact=True).first).to_be_visible()
    expect(page.get_by_text(re.compile(r"measured .*, wanted a miss share below 0\.01")).first).to_be_visible()
    page.screenshot(path=screenshots / "failed_gate.png")
    for asset in ("onnx_encoder", "model_release", "batch_predictions"):
        page.goto(f"{dagster_ui}/assets/{asset}?view=events")
        expect(page.get_by_text("did not materialize this asset")).to_be_visible()
    open_graph(page, dagster_ui)
    expect_colour(page, "tiger_checkpoint", "green")
    page.screenshot(path=screenshots / "failed_graph.png")


@pytest.mark.slow
def test_with_an_inbox_materialize_all_launches_a_run_and_a_file_is_served(
    ui_with_inbox: tuple[str, Path], page: Page, small_run: dict[str, Any]
) -> None:
    address, inbox = ui_with_inbox
    open_graph(page, address)
    materialize_all(page, config=small_run, label=f"Materialize all ({len(ASSETS)})")
    expect_run_ends(page, "Success")
    (inbox / "daily.txt").write_text("1 2 3\n2 4\n")
    page.goto(f"{address}/assets/request_predictions?view=checks")
    expect(page.get_by_text("Checks (4)")).to_be_visible()
    # served_as_asked warns, as the tiny shop has fewer items than the preset asks for.
    expect(page.get_by_text("Succeeded", exact=True)).to_have_count(3, timeout=RUN_MILLISECONDS)


@pytest.mark.slow
def test_a_run_of_the_command_line_stands_in_the_timeline_and_on_its_jobs_page(ui_after_a_run: str, page: Page) -> None:
    page.goto(f"{ui_after_a_run}/overview")
    expect(page.get_by_role("link", name="full_graph").first).to_be_visible()
    page.goto(f"{ui_after_a_run}/locations/genrec/jobs/full_graph/runs")
    expect(page.get_by_text("Failure", exact=True)).to_be_visible()


def open_graph(page: Page, address: str) -> None:
    """Show the lineage of all assets, groups unfolded."""
    unfolded = ",".join(f"global@global:{group}" for group in GROUPS)
    page.goto(f"{address}/asset-groups?expanded={quote(unfolded)}")
    for asset in ASSETS:
        expect(node(page, asset)).to_be_visible()


def node(page: Page, asset: str) -> Locator:
    """An asset's box in the lineage."""
    return page.locator("svg foreignObject").filter(has=page.get_by_text(asset, exact=True)).last


def materialize_all(page: Page, config: dict[str, object] | None = None, label: str = "Materialize all") -> None:
    """Click "Materialize all", with values for the launchpad if there are any, and go to the run's page.

    The label counts the assets where the page cannot build all.
    """
    button = page.get_by_role("button", name=label)
    if config is None:
        button.click()
        page.get_by_role("link", name="View", exact=True).click()
    else:
        button.click(modifiers=["Shift"])
        launchpad = page.get_by_role("dialog")
        editor = launchpad.locator(".CodeMirror")
        editor.wait_for()
        editor.evaluate("(editor, text) => editor.CodeMirror.setValue(text)", json.dumps(config, indent=2))
        launchpad.get_by_role("button", name="Materialize").click()
    page.wait_for_url("**/runs/*")


def expect_run_ends(page: Page, status: str) -> None:
    """Wait for the run on the page to end, and with ``status``."""
    ends = [page.get_by_text(end, exact=True) for end in ("Success", "Failure", "Canceled")]
    ended = ends[0].or_(ends[1]).or_(ends[2]).first
    ended.wait_for(timeout=RUN_MILLISECONDS)
    expect(ended).to_have_text(status)


def expect_colour(page: Page, asset: str, colour: str) -> None:
    """Wait until an asset's box has a border of ``colour``."""
    box = node(page, asset).locator(f"[style*='--color-accent-{colour}']")
    expect(box.first).to_be_visible()


def expect_metrics(page: Page, address: str, picture: Path) -> None:
    """The metrics' page shows the table beside popularity, and opens the plot."""
    page.goto(f"{address}/assets/recall_metrics")
    for text in ("recall@10", "ndcg@10", "popularity", "history kept"):
        expect(page.get_by_text(text, exact=True).first).to_be_visible()
    page.get_by_text("[Show Markdown]").last.scroll_into_view_if_needed()
    page.screenshot(path=picture)
