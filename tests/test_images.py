"""The images' locks hold what pyproject.toml pins, and every image has its target. `make test-images` runs them."""

import re
import runpy
import tomllib
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[1]
DOCKER = REPOSITORY / "docker"
LOCK: dict[str, Any] = runpy.run_path(str(DOCKER / "lock.py"))
IMAGES: dict[str, tuple[str, ...]] = LOCK["IMAGES"]


def lock_of(image: str) -> dict[str, str]:
    lines = (DOCKER / "locks" / f"{image}.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


@pytest.mark.parametrize("image", IMAGES)
def test_a_lock_holds_every_pin_and_all_that_is_needed_in_turn(image: str) -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [line for extra in IMAGES[image] for line in project["optional-dependencies"][extra]]
    locked, remedy = lock_of(image), "run make lock"
    for pin in [*project["dependencies"], *extras]:
        name, _, version = pin.partition("==")
        assert locked.get(name) == version, remedy
    assert set(LOCK["locked"](IMAGES[image])) == set(locked), remedy


@pytest.mark.parametrize("image", ["inference", "serve"])
def test_an_image_that_only_serves_has_no_training_library(image: str) -> None:
    assert not set(lock_of(image)) & {"torch", "transformers", "polars", "dagster", "mlflow"}


def test_every_image_has_a_target_that_runs_as_nobody() -> None:
    text = (DOCKER / "Dockerfile").read_text(encoding="utf-8")
    targets = dict(re.findall(r"^FROM runtime AS (\w+)\n(.*?)(?=^FROM|\Z)", text, re.MULTILINE | re.DOTALL))
    assert set(targets) == set(IMAGES)
    for lines in targets.values():
        assert "\nUSER 10001\n" in lines
        assert "\nENTRYPOINT [" in lines
