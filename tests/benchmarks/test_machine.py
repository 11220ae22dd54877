"""What is said about the machine and about repeated measurements."""

from pathlib import Path

import pytest

from tests.benchmarks import machine


def test_the_spread_holds_median_least_most_and_repeats() -> None:
    assert machine.spread([3.0, 1.0, 2.0, 10.0]) == {"median": 2.5, "least": 1.0, "most": 10.0, "repeats": 4}


def test_the_peak_grows_with_what_a_process_holds() -> None:
    before = machine.peak_mb()
    block = bytearray(b"x" * (64 << 20))
    assert machine.peak_mb() >= max(before, 64)
    assert len(block) == 64 << 20


def test_the_machine_is_described() -> None:
    found = machine.describe()
    assert found["machine"]["cpu"]
    assert found["machine"]["memory_gb"] > 0
    assert {"python", "numpy", "onnxruntime"} <= set(found["versions"])


def test_outside_a_checkout_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "__file__", str(tmp_path / "machine.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert machine.commit() is None
