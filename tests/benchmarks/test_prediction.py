"""The benchmark of ``genrec predict`` on the tiny model: every request is served, in a process that is measured."""

from typing import TYPE_CHECKING

import pytest

from genrec_core.errors import GenrecError
from tests.benchmarks.prediction import run

if TYPE_CHECKING:
    from pathlib import Path

    from tests.core.tiny_model import TinyModel


def test_a_file_is_served_and_measured(tiny_model: "TinyModel") -> None:
    figures = run(tiny_model.model_dir, users=300, topk=5, ranking="dense", repeats=1)
    assert figures["users"] == 300
    assert 30 < figures["peak_mb"] < 1000
    assert len(figures["peak_mb_by_quarter"]) == 4
    assert max(figures["peak_mb_by_quarter"]) <= figures["peak_mb"] + 1
    assert 0 < figures["first_answer_s"]["median"] < 60
    assert 0.1 < figures["first_answer_cpu_s"]["median"] < 20
    assert figures["users_per_s"] > 0


def test_a_folder_without_a_model_is_an_error(tmp_path: "Path") -> None:
    with pytest.raises(GenrecError, match=r"item_ids\.npy: no such file"):
        run(tmp_path / "nothing", users=2, repeats=1)


def test_a_command_that_fails_is_an_error(tmp_path: "Path", tiny_model: "TinyModel") -> None:
    (tmp_path / "item_ids.npy").write_bytes((tiny_model.model_dir / "item_ids.npy").read_bytes())
    with pytest.raises(GenrecError, match="ended with exit code 2"):
        run(tmp_path, users=2, repeats=1)
