"""Asks which locked packages have known vulnerabilities: `make audit`. Needs PyPI, where advisories are kept too.

pip-audit asks for the page of each release. A mirror may hand on the pages of projects alone: such a page tells of the
newest release only, so that a package locked at another one was not looked up. That is a failure: else an audit without
a network would pass.

pip-audit lives in an environment of its own, as it is no part of the project.

Source: https://docs.pypi.org/api/json/ (``vulnerabilities`` of a project's and of a release's page).
"""

import json
import subprocess
import sys
import urllib.request
import venv
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any

DOCKER = Path(__file__).resolve().parent
IGNORED = DOCKER / "audit-ignored.txt"
HOME = DOCKER.parent / ".genrec" / "audit"
PIP_AUDIT = "pip-audit==2.10.1"
PAGES = "https://pypi.org/pypi"
_SECONDS = 60  # for one page


def ignored(path: Path = IGNORED) -> dict[str, str]:
    """Why each advisory that is ignored is no harm here, by its id.

    Raises:
        SystemExit: a line gives no reason.
    """
    found: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            advisory, _, reason = line.partition(" ")
            if len(reason.strip()) < 20:
                raise SystemExit(
                    f"{path}:{number}: {advisory} is ignored without a reason; say why it does no harm here"
                )
            found[advisory] = reason.strip()
    return found


def locked(folder: Path = DOCKER / "locks") -> dict[tuple[str, str], list[str]]:
    """The locks that hold each package, by its name and version.

    Raises:
        SystemExit: there is none.
    """
    found: dict[tuple[str, str], list[str]] = {}
    for lock in sorted(folder.glob("*.txt")):
        for line in lock.read_text(encoding="utf-8").splitlines():
            name, is_pin, number = line.partition("==")
            if is_pin and not line.startswith("#"):
                found.setdefault((name, number), []).append(lock.stem)
    if not found:
        raise SystemExit(f"{folder}: no lock with a package in it; make lock writes them")
    return found


def by_release(pip_audit: Path, packages: list[tuple[str, str]], work: Path) -> dict[tuple[str, str], list[Any]]:
    """Advisories of each release that pip-audit could look up, as it gives them.

    Raises:
        SystemExit: it failed as a whole, as without a network.
    """
    wanted, answer = work / "packages.txt", work / "found.json"
    found: dict[tuple[str, str], list[Any]] = {}
    for version_of in _rounds(packages):
        wanted.write_text("".join(f"{name}=={number}\n" for name, number in version_of.items()), encoding="utf-8")
        answer.unlink(missing_ok=True)
        options = ["--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json"]
        subprocess.run([pip_audit, *options, "--output", answer, "--requirement", wanted], check=False)
        if not answer.is_file():
            raise SystemExit("pip-audit looked nothing up, see above; PyPI must be reachable")
        for package in json.loads(answer.read_text(encoding="utf-8"))["dependencies"]:
            if "vulns" in package:
                found[package["name"], version_of[package["name"]]] = package["vulns"]
    return found


def _rounds(packages: list[tuple[str, str]]) -> list[dict[str, str]]:
    """Version by name, no name twice in one: pip-audit takes one version of a package."""
    rounds: list[dict[str, str]] = []
    for name, number in packages:
        free = next((each for each in rounds if name not in each), None)
        if free is None:
            rounds.append(free := {})
        free[name] = number
    return rounds


def by_project(name: str, number: str, pages: str = PAGES) -> list[Any] | None:
    """Advisories on the project's page, or None if that is about another release or cannot be read."""
    try:
        with urllib.request.urlopen(f"{pages}/{name}/json", timeout=_SECONDS) as response:
            page = json.load(response)
        if page["info"]["version"] != number:
            return None
        return [each for each in page["vulnerabilities"] if not each.get("withdrawn")]
    except (OSError, HTTPException, ValueError, KeyError, TypeError) as error:
        print(f"{name}: {error}")
        return None


def unexplained(advisories: list[Any], reasons: Mapping[str, str]) -> list[str]:
    """Ids of those that nothing explains, under no name they have."""
    return [each["id"] for each in advisories if not {each["id"], *each.get("aliases", [])} & reasons.keys()]


def main() -> int:
    """Audit the locks; 0 only if all packages were looked up and nothing is known of them but what is explained."""
    binaries = HOME / "bin"
    if not (binaries / "pip-audit").is_file():
        venv.create(HOME, with_pip=True)
        subprocess.run([binaries / "pip", "install", "--quiet", PIP_AUDIT], check=True)
    reasons, packages = ignored(), locked()
    found: dict[tuple[str, str], list[Any] | None] = dict(by_release(binaries / "pip-audit", list(packages), HOME))
    releases = len(found)
    for name, number in sorted(packages.keys() - found.keys()):
        found[name, number] = by_project(name, number)
    missed = sorted(package for package, advisories in found.items() if advisories is None)
    print(
        f"{len(packages)} packages locked: {releases} looked up by pip-audit, {len(found) - releases - len(missed)} on "
        f"their project's page, {len(missed)} not"
    )
    harmful = 0
    for (name, number), advisories in sorted(found.items(), key=lambda item: item[0]):
        for advisory in unexplained(advisories or [], reasons):
            print(f"vulnerable: {name} {number} ({', '.join(packages[name, number])}): {advisory}")
            harmful += 1
    for advisory, reason in reasons.items():
        print(f"ignored: {advisory}: {reason}")
    if missed:
        print(
            "not looked up, as another release is the newest or for a reason above: "
            + ", ".join(f"{name} {n}" for name, n in missed)
        )
    return bool(harmful or missed)


if __name__ == "__main__":
    sys.exit(main())
