"""The locks hold what pyproject.toml asks for, and every image has its target. `make test-images` runs the images."""

import itertools
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).parents[1]
DOCKER = REPOSITORY / "docker"
IMAGES = ("inference", "serve", "torchserve", "dagster")
PROJECT: dict[str, Any] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def lock_of(name: str) -> dict[str, str]:
    """Version by package; every line that names one must bring hashes."""
    text = (DOCKER / "locks" / f"{name}.txt").read_text(encoding="utf-8")
    versions = dict(
        re.findall(r"^([a-z0-9-]+)==(\S+)(?: ;[^\\]*)? \\\n    --hash=sha256:[0-9a-f]{64}", text, re.MULTILINE)
    )
    assert len(versions) == len(re.findall(r"^\w", text, re.MULTILINE))
    return versions


def extras_of(name: str) -> list[str]:
    """The extras that a lock is made for, as the script says that writes it."""
    script = (DOCKER / "locks" / "lock").read_text(encoding="utf-8").replace("\\\n", " ")
    (line,) = re.findall(rf"^write {name} .*$", script, re.MULTILINE)
    words = shlex.split(line)
    return [word for before, word in itertools.pairwise(words) if before == "--extra"]


@pytest.mark.parametrize("name", ["setup", *IMAGES])
def test_a_lock_holds_a_version_of_every_dependency_that_is_in_its_range(name: str) -> None:
    locked = lock_of(name) | {"torch": (DOCKER / "locks" / "torch.txt").read_text().strip().partition("==")[2]}
    extras = [line for extra in extras_of(name) for line in PROJECT["optional-dependencies"][extra]]
    for dependency in map(Requirement, [*PROJECT["dependencies"], *extras]):
        version = locked.get(canonicalize_name(dependency.name))
        assert version, f"{dependency.name}: not in docker/locks/{name}.txt; run make lock"
        assert dependency.specifier.contains(version), (
            f"{dependency}: docker/locks/{name}.txt has {version}; run make lock"
        )


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_has_the_versions_that_the_tests_run_with(image: str) -> None:
    assert lock_of(image).items() <= lock_of("setup").items()


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
