"""The pictures of README, taken from the real UIs of a finished run: `make screenshots`."""

import re
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from playwright.sync_api import Page, Route, expect

from genrec_core.storage.folders import latest
from genrec_dagster.pages import pages_url
from genrec_dagster.resources import TRAINING_VIEW

ASSETS = 11
LARGEST = 300_000  # bytes
SETTLED = 1500  # milliseconds, for what is still being drawn
# The newest run of a training, and its run in MLflow.
NEWEST_TRAINING = """
import dagster as dg
with dg.DagsterInstance.get() as instance:
    event = instance.get_latest_materialization_event(dg.AssetKey("tiger_checkpoint"))
    if event:
        link = event.asset_materialization.metadata["mlflow_run"].value
        print(event.run_id, link.partition("?")[0].rpartition("/")[2])
"""
# The gate that failed last: its asset and its name.
FAILED_GATE = """
import dagster as dg
from genrec_dagster.definitions import defs
with dg.DagsterInstance.get() as instance:
    keys = [spec.key for check in defs.asset_checks for spec in check.check_specs if spec.blocking]
    records = instance.event_log_storage.get_latest_asset_check_execution_by_key(keys)
    failed = [(record.create_timestamp, key) for key, record in records.items() if record.status.value == "FAILED"]
    for _, key in sorted(failed)[-1:]:
        print(key.asset_key.to_user_string(), key.name)
"""
# Judges the metrics in storage by a bound that no model meets. What is downstream is in the run too, and not reached.
FAIL_A_GATE = """
import dagster as dg
from genrec_dagster.definitions import defs
from genrec_dagster.checks.model import recall_at_10
selection = dg.AssetSelection.checks(recall_at_10) | dg.AssetSelection.assets("onnx_encoder").without_checks()
job = dg.Definitions.merge(defs, dg.Definitions(jobs=[dg.define_asset_job("demanding", selection=selection)]))
with dg.DagsterInstance.get() as instance:
    job.resolve_job_def("demanding").execute_in_process(
        run_config={"resources": {"gates": {"config": {"recall_at_10": 0.5}}}}, instance=instance, raise_on_error=False
    )
"""


@pytest.fixture
def trained(gallery: Any) -> tuple[str, str]:
    """The Dagster run of the newest training, and the MLflow run."""
    found = gallery.python(NEWEST_TRAINING).split()
    if len(found) != 2:
        pytest.skip(f"{gallery.shown} holds no finished training")
    return found[0], found[1]


@pytest.mark.slow
def test_picture_of_the_lineage(gallery: Any, page: Page) -> None:
    page.set_viewport_size({"width": 1900, "height": 860})
    groups = ",".join(f"global@global:{group}" for group in ("catalog", "model", "serving"))
    with gallery.dagster() as address:
        page.goto(f"{address}/runs")
        page.get_by_text("Hide navigation").click()
        page.goto(f"{address}/asset-groups?expanded={quote(groups)}")
        built = page.locator("svg foreignObject [style*='--color-accent-green']")
        expect(built.nth(ASSETS - 1)).to_be_visible()
        take(page, gallery, "graph.png")


@pytest.mark.slow
def test_picture_of_the_demo_page_with_an_explanation(gallery: Any, page: Page) -> None:
    page.set_viewport_size({"width": 1500, "height": 980})
    with gallery.server() as address:
        page.goto(address)
        page.get_by_role("button", name="Random user").click()
        page.get_by_role("button", name=re.compile("^Why")).first.click()
        expect(page.get_by_text(re.compile("history")).first).to_be_visible()
        take(page, gallery, "demo.png")


@pytest.mark.slow
def test_picture_of_the_codes(gallery: Any, page: Page) -> None:
    page.set_viewport_size({"width": 1500, "height": 900})
    codes = latest("semantic_ids", gallery.shown / "storage") / "codes.html"
    page.goto(codes.as_uri())
    page.locator("summary").first.click()
    page.mouse.wheel(0, 520)
    take(page, gallery, "codes.png")


@pytest.mark.slow
def test_picture_of_an_asset_and_its_plots(gallery: Any, page: Page) -> None:
    page.set_viewport_size({"width": 1500, "height": 900})
    with gallery.pages() as shown, gallery.dagster() as address:
        page.route(
            re.compile(rf"^{re.escape(pages_url())}/"), lambda route: route.continue_(url=shown + path_of(route))
        )
        page.goto(f"{address}/assets/item_embeddings")
        picture = page.get_by_role("img", name="a map of the items by text")
        expect(picture).to_be_visible()
        assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0  # not a broken one
        picture.scroll_into_view_if_needed()
        take(page, gallery, "item_embeddings.png")


@pytest.mark.slow
def test_picture_of_a_training_run(gallery: Any, page: Page, trained: tuple[str, str]) -> None:
    page.set_viewport_size({"width": 1500, "height": 900})
    with gallery.dagster() as address:
        page.goto(f"{address}/runs/{trained[0]}?logs={quote(': loss')}")  # the lines of the epochs
        expect(page.get_by_text(re.compile(r"epoch 1/\d+: loss")).first).to_be_visible()
        option = page.get_by_text("Hide not started steps").bounding_box()
        assert option is not None
        page.mouse.click(option["x"] - 175, option["y"] + option["height"] / 2)  # the time scale, left of it
        take(page, gallery, "training.png")


@pytest.mark.slow
def test_picture_of_a_failed_gate(gallery: Any, page: Page, trained: tuple[str, str]) -> None:
    page.set_viewport_size({"width": 1500, "height": 900})
    if not gallery.python(FAILED_GATE):
        gallery.python(FAIL_A_GATE)
    asset, gate = gallery.python(FAILED_GATE).split()
    with gallery.dagster() as address:
        page.goto(f"{address}/assets/{asset}?view=checks&checkDetail={gate}")
        expect(page.get_by_text("Failed", exact=True).first).to_be_visible()
        expect(page.get_by_text(", wanted ").first).to_be_visible()
        take(page, gallery, "failed_gate.png")


@pytest.mark.slow
def test_picture_of_the_training_in_mlflow(gallery: Any, page: Page, trained: tuple[str, str]) -> None:
    page.set_viewport_size({"width": 1500, "height": 640})
    with gallery.mlflow() as address:
        page.goto(f"{address}/#/experiments/1/runs/{trained[1]}/model-metrics{TRAINING_VIEW}")
        page.get_by_role("button", name="Close", exact=True).click()  # the assistant
        expect(page.get_by_text("validation_recall_at_10", exact=True).first).to_be_visible()
        take(page, gallery, "mlflow.png")


def path_of(route: Route) -> str:
    """The path and the query of a request."""
    asked = urlsplit(route.request.url)
    return f"{asked.path}?{asked.query}"


def take(page: Page, gallery: Any, name: str) -> None:
    """Write a picture once the page is drawn, if it shows no error and no place of this machine."""
    page.wait_for_timeout(SETTLED)
    for unwanted in (str(gallery.shown), str(gallery.copy), str(Path.home()), "An unexpected error"):
        assert not seen(page, unwanted), f"{name} would show {unwanted}"
    picture = gallery.pictures / name
    page.screenshot(path=picture)
    assert picture.stat().st_size < LARGEST


def seen(page: Page, text: str) -> bool:
    """Whether some element with this text lies in the part of the page that the window shows."""
    assert page.viewport_size is not None
    boxes = [element.bounding_box() for element in page.get_by_text(text).all()]
    return any(box and box["y"] < page.viewport_size["height"] and box["y"] + box["height"] > 0 for box in boxes)
