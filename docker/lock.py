"""Writes ``docker/locks/IMAGE.txt``: every package of an image with its version, from pyproject's pins and the .venv.

Run by ``make lock``, after pyproject.toml changed.
"""

import re
import tomllib
from importlib.metadata import requires, version
from pathlib import Path

from packaging.requirements import Requirement

DOCKER = Path(__file__).parent
PYPROJECT = DOCKER.parent / "pyproject.toml"
IMAGES = {  # their extras
    "inference": (),
    "serve": ("serve",),
    "torchserve": ("torchserve",),
    "dagster": ("train", "dagster", "postgres", "kubernetes"),
}


def locked(extras: tuple[str, ...]) -> dict[str, str]:
    """Version by name of the project's dependencies with ``extras``, and of all that they need in turn."""
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    lines = [line for extra in extras for line in project["optional-dependencies"][extra]]
    waiting, seen = [Requirement(line) for line in (*project["dependencies"], *lines)], set()
    versions: dict[str, str] = {}
    while waiting:
        requirement = waiting.pop()
        wanted = (requirement.name, frozenset(requirement.extras))
        if wanted in seen:
            continue
        seen.add(wanted)
        versions[_normal(requirement.name)] = version(requirement.name).partition("+")[0]  # torch's +cpu is the index's
        waiting += _needed_by(requirement)
    return dict(sorted(versions.items()))


def _needed_by(requirement: Requirement) -> list[Requirement]:
    """What an installed package needs on this platform, with the extras that ``requirement`` asks for."""
    needed = [Requirement(line) for line in requires(requirement.name) or []]
    environments = [{"extra": extra} for extra in ("", *requirement.extras)]
    return [
        found for found in needed if not found.marker or any(found.marker.evaluate(given) for given in environments)
    ]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> None:
    """Write a lock for each image."""
    for image, extras in IMAGES.items():
        lines = [f"{name}=={number}" for name, number in locked(extras).items()]
        text = "\n".join([f"# make lock wrote this: the packages of the {image} image", *lines])
        (DOCKER / "locks" / f"{image}.txt").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
