"""Every launchpad as its page opens it: nothing is typed, and it can be launched."""

import re

import pytest
from playwright.sync_api import Page, expect

from genrec_dagster.definitions import defs

ASSETS = sorted(key.to_user_string() for key in defs.resolve_asset_graph().get_all_asset_keys())
JOBS = sorted(job.name for job in defs.jobs or [])
MATERIALIZE, LAUNCH = re.compile(r"^Materialize( all)?$"), "Launch Run"  # "all" where there are several assets
NO_ERRORS = "No errors"


def test_the_launchpad_of_a_training_opens_ready_to_launch(empty_ui: str, page: Page) -> None:
    open_by_button(page, f"{empty_ui}/assets/tiger_checkpoint", MATERIALIZE)
    expect_ready(page, "Materialize")


@pytest.mark.slow
@pytest.mark.parametrize("asset", ASSETS)
def test_the_launchpad_of_an_asset_opens_ready_to_launch(empty_ui: str, page: Page, asset: str) -> None:
    open_by_button(page, f"{empty_ui}/assets/{asset}", MATERIALIZE)
    expect_ready(page, "Materialize")


@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS)
def test_the_launchpad_of_a_job_opens_ready_to_launch(empty_ui: str, page: Page, job: str) -> None:
    address = f"{empty_ui}/locations/genrec/jobs/{job}"
    if defs.resolve_job_def(job).asset_layer.executable_asset_keys:
        open_by_button(page, address, MATERIALIZE)
        expect_ready(page, "Materialize")
    else:
        page.goto(f"{address}/playground")
        expect_ready(page, LAUNCH)


@pytest.mark.slow
def test_the_launchpad_of_the_whole_graph_opens_ready_to_launch(empty_ui: str, page: Page) -> None:
    open_by_button(page, f"{empty_ui}/asset-groups", MATERIALIZE)
    expect_ready(page, "Materialize")


def open_by_button(page: Page, address: str, name: "re.Pattern[str]") -> None:
    """Open the launchpad of a page's button, and confirm that what is upstream was never built."""
    page.goto(address)
    page.locator("button").filter(has=page.get_by_text(name)).first.click(modifiers=["Shift"])
    valid, confirm = page.get_by_text(NO_ERRORS, exact=True), page.get_by_role("button", name="Confirm")
    valid.or_(confirm).first.wait_for()
    if confirm.is_visible():
        confirm.click()


def expect_ready(page: Page, button: str) -> None:
    """The launchpad shows no errors and its button can be clicked."""
    expect(page.get_by_text(NO_ERRORS, exact=True)).to_be_visible()
    expect(page.locator("button").filter(has=page.get_by_text(button, exact=True)).last).to_be_enabled()
