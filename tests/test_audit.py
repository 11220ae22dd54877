"""The audit of the locked packages passes nothing over without a reason, and nothing that it could not look up."""

import runpy
from pathlib import Path
from typing import Any

import pytest

AUDIT: dict[str, Any] = runpy.run_path(str(Path(__file__).parents[1] / "docker" / "audit.py"))


def test_whatever_is_ignored_has_a_reason(tmp_path: Path) -> None:
    assert all(len(reason) >= 20 for reason in AUDIT["ignored"]().values())
    given = tmp_path / "ignored.txt"
    given.write_text("# why\n\nGHSA-1 torch.load is called nowhere in this project\n")
    assert AUDIT["ignored"](given) == {"GHSA-1": "torch.load is called nowhere in this project"}
    given.write_text("GHSA-1 x\nGHSA-2\n")
    with pytest.raises(SystemExit, match=r"ignored.txt:1: GHSA-1 is ignored without a reason"):
        AUDIT["ignored"](given)


def test_what_cannot_be_looked_up_is_a_failure(tmp_path: Path) -> None:
    command = AUDIT["command"](tmp_path / "pip-audit", tmp_path / "a.txt", {"GHSA-1": "why", "GHSA-2": "why"})
    assert "--strict" in command
    assert command[-4:] == ["--ignore-vuln", "GHSA-1", "--ignore-vuln", "GHSA-2"]
