"""The command behind ``make bench``."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks import __main__ as command
from tests.benchmarks import capacity, decoding, graph

FIGURES = {"users_per_second": {"10": 5.0}, "threads": 1}


def test_the_figures_are_printed_as_lines_and_then_as_one_json_object(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, object] = {}

    def run(model_dir: Path | None = None, beams: tuple[int, ...] = (100,), repeats: int = 5) -> dict[str, object]:
        """Decode."""
        options.update(model_dir=model_dir, beams=beams, repeats=repeats)
        return FIGURES

    monkeypatch.setattr(decoding, "run", run)
    assert command.main(["decode", "--beams", "10", "20", "--model_dir", "model"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert lines == ["users_per_second.10: 5.0", "threads: 1"]
    assert json.loads(last) == FIGURES
    assert options == {"model_dir": Path("model"), "beams": [10, 20], "repeats": 5}


def test_the_figures_are_kept_where_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(graph, "run", lambda: FIGURES)
    assert command.main(["graph", "--save"]) == 0
    assert json.loads((tmp_path / "results" / "graph.json").read_text()) == FIGURES


def test_large_numbers_may_be_written_short(monkeypatch: pytest.MonkeyPatch) -> None:
    items = []

    def run(items_: int = 1) -> dict[str, object]:
        items.append(items_)
        return {}

    monkeypatch.setattr(capacity, "run", run)
    monkeypatch.setattr(capacity, "as_markdown", str)
    assert command.main(["capacity", "--items_", "1e8"]) == 0
    assert items == [10**8]


@pytest.mark.parametrize("value", ["0", "1.5", "many"])
def test_what_is_no_whole_number_is_refused(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["decode", "--repeats", value])
    assert "--repeats" in capsys.readouterr().err


def test_an_unknown_name_or_a_missing_run_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["encode"]) == 2
    assert "encode: no such benchmark; choose one of graph, train" in capsys.readouterr().err


def test_without_a_name_the_usual_ones_run_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []

    def call(arguments: list[str]) -> int:
        names.append(arguments[-1])
        return int(arguments[-1] == "trie")

    monkeypatch.setattr(subprocess, "call", call)
    assert command.main([]) == 1
    assert names == ["graph", "train", "decode", "server", "trie"]
    assert sys.executable
