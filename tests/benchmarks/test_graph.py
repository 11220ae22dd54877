"""The graph benchmark repeats what the last run recorded."""

import json
from pathlib import Path

import pytest

from genrec_core.errors import GenrecError
from genrec_core.storage.artifacts import write_json
from tests.benchmarks import graph

RECORD = {
    "run_id": "a1",
    "status": "SUCCESS",
    "asset_seconds": {"raw_beauty": 0.5, "tiger_checkpoint": 61.25},
    "peak_mb": 812.5,
    "commit": "0123abc",
}


def test_the_record_is_reported_with_the_commit_that_ran(tmp_path: Path) -> None:
    write_json(tmp_path / "last_run.json", RECORD)
    found = json.loads(json.dumps(graph.run(tmp_path)))
    assert RECORD.items() <= found.items()
    assert found["machine"]["cores"] >= 1


def test_the_storage_of_the_environment_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_json(tmp_path / "last_run.json", RECORD)
    monkeypatch.setenv("GENREC_STORAGE", str(tmp_path))
    assert graph.run()["run_id"] == "a1"


def test_without_a_run_the_error_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(GenrecError, match=r"last_run\.json: no run is recorded there; run the graph first"):
        graph.run(tmp_path)


def test_a_record_without_a_field_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "last_run.json", {"run_id": "a1", "status": "SUCCESS"})
    with pytest.raises(GenrecError, match="lacks asset_seconds, peak_mb"):
        graph.run(tmp_path)
