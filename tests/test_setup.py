"""``.ci/setup`` installs once, says when there is nothing to do, and starts over after it was cut off.

A stand-in for the interpreter notes what it is asked for, so nothing is downloaded.
"""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]

# It agrees to every question; `-m venv FOLDER` puts a copy of it there; `-m pip` fails or waits on demand.
_INTERPRETER = """#!/bin/sh
echo "$*" >> "$CALLS"
case "$*" in
  "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  "-m pip "*) sleep "${PIP_SECONDS:-0}"; exit "${PIP_EXIT:-0}" ;;
  *ensurepip*) exit "${ENSUREPIP_EXIT:-0}" ;;
esac
"""


class Checkout:
    """A folder with the set-up script, a pyproject.toml and the stand-in."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.calls = folder, folder / "calls.txt"
        (folder / ".ci").mkdir()
        (folder / "docker" / "locks").mkdir(parents=True)
        for name in (".ci/setup", "pyproject.toml", "docker/locks/setup.txt", "docker/locks/torch.txt"):
            shutil.copy(REPOSITORY / name, folder / name)
        self.interpreter = folder / "python-3.11"
        self.interpreter.write_text(_INTERPRETER)
        self.interpreter.chmod(0o755)

    def start(self, **environment: str) -> subprocess.Popen[str]:
        """Begin a set-up."""
        values = {"PATH": os.environ["PATH"], "PYTHON": str(self.interpreter), "CALLS": str(self.calls), **environment}
        return subprocess.Popen(
            ["sh", ".ci/setup"],
            cwd=self.folder,
            env=values,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def set_up(self, **environment: str) -> tuple[int, str]:
        """Exit code and output of a whole set-up."""
        process = self.start(**environment)
        output = process.communicate(timeout=30)[0]
        return process.returncode, output

    def installs(self) -> int:
        """How often an installation began, which is with torch."""
        return self.calls.read_text().count("-r docker/locks/torch.txt") if self.calls.exists() else 0


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    folder = tmp_path / "a folder with blanks"
    folder.mkdir()
    return Checkout(folder)


def test_the_second_call_installs_nothing_and_says_so(checkout: Checkout) -> None:
    assert checkout.set_up() == (0, _output(checkout, "set-up: done"))
    assert checkout.set_up(PYTHON="/no/python/is/needed") == (0, "set-up: up to date, nothing to install\n")
    assert checkout.installs() == 1


def test_all_packages_but_torch_are_installed_by_their_hashes(checkout: Checkout) -> None:
    checkout.set_up()
    installs = [line for line in checkout.calls.read_text().splitlines() if "-m pip install" in line]
    assert [line.partition("-version-check ")[2] for line in installs] == [
        "-r docker/locks/torch.txt",
        "--require-hashes --no-deps -r docker/locks/setup.txt",
        "--no-deps --no-build-isolation -e .",
    ]


@pytest.mark.parametrize("name", ["pyproject.toml", "docker/locks/setup.txt"])
def test_a_changed_project_or_lock_is_installed(checkout: Checkout, name: str) -> None:
    checkout.set_up()
    with (checkout.folder / name).open("a") as file:
        file.write("# another pin\n")
    assert checkout.set_up()[0] == 0
    assert checkout.installs() == 2


def test_an_environment_that_was_moved_is_installed_again(checkout: Checkout) -> None:
    checkout.set_up()
    checkout.folder = checkout.folder.rename(checkout.folder.with_name("moved"))
    checkout.interpreter, checkout.calls = checkout.folder / "python-3.11", checkout.folder / "calls.txt"
    assert checkout.set_up()[0] == 0
    assert checkout.installs() == 2


def test_a_set_up_that_was_cut_off_starts_over(checkout: Checkout) -> None:
    process = checkout.start(PIP_SECONDS="30")
    while not checkout.installs():
        time.sleep(0.05)
    os.killpg(process.pid, 9)
    process.communicate(timeout=30)
    left_behind = checkout.folder / ".venv" / "half-written"
    left_behind.touch()

    code, output = checkout.set_up()
    assert code == 0
    assert "did not finish, starting over" in output
    assert not left_behind.exists()
    assert checkout.set_up()[1] == "set-up: up to date, nothing to install\n"


def test_a_failing_pip_fails_the_set_up_and_is_tried_again(checkout: Checkout) -> None:
    code, output = checkout.set_up(PIP_EXIT="1")
    assert code == 1
    assert "pip failed" in output
    assert checkout.set_up()[0] == 0
    assert checkout.installs() == 2


@pytest.mark.skipif(shutil.which("flock") is None, reason="flock is not installed")
def test_of_two_calls_at_once_one_installs(checkout: Checkout) -> None:
    both = [checkout.start(PIP_SECONDS="1") for _ in range(2)]
    outputs = sorted(process.communicate(timeout=30)[0] for process in both)
    assert outputs == sorted(["set-up: up to date, nothing to install\n", _output(checkout, "set-up: done")])
    assert checkout.installs() == 1


def test_an_environment_that_somebody_else_made_is_kept(checkout: Checkout) -> None:
    theirs = checkout.folder / ".venv" / "theirs"
    theirs.parent.mkdir()
    theirs.touch()
    assert checkout.set_up()[0] == 0
    assert theirs.exists()


def test_another_python_is_refused_by_name(checkout: Checkout) -> None:
    assert checkout.set_up(PYTHON="false") == (1, "set-up: PYTHON=false is not a Python 3.11\n")


def test_a_missing_python_is_said(checkout: Checkout, tmp_path: Path) -> None:
    commands = tmp_path / "commands"
    commands.mkdir()
    for name in ("sh", "dirname", "sha256sum", "cut", "cat"):
        (commands / name).symlink_to(shutil.which(name) or name)
    code, output = checkout.set_up(PYTHON="", PATH=str(commands))
    assert code == 1
    assert "no Python 3.11 found" in output
    assert "make PYTHON=" in output


def test_missing_ensurepip_names_the_package_to_install(checkout: Checkout) -> None:
    code, output = checkout.set_up(ENSUREPIP_EXIT="1")
    assert code == 1
    assert "apt-get install python3.11-venv" in output
    assert not (checkout.folder / ".venv").exists()


def _output(checkout: Checkout, last: str) -> str:
    folder = checkout.folder / ".venv"
    return f"set-up: installing the pinned packages into {folder} (some minutes the first time)\n{last}\n"
