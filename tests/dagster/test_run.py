"""``python -m genrec_dagster.run`` says what happened and records it, also where it fails."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from genrec_core.storage.artifacts import read_json
from genrec_dagster.run import PeakMemory, RunReport

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def failed_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    """A run over raw files one line of which does not parse."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "raw").mkdir()
    (folder / "raw" / "sequential_data.txt").write_text("u1 1 2 soap\n")
    (folder / "raw" / "datamaps.json").write_text(json.dumps({"item2id": {"A": 1, "B": 2}}))
    (folder / "raw" / "meta.json.gz").write_bytes(b"")
    unset = {"DAGSTER_HOME", "GENREC_STORAGE", "MLFLOW_TRACKING_URI"}
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment |= {"GENREC_RAW": str(folder / "raw"), "PYTHONPATH": str(REPOSITORY), "PRESET": "sample"}
    command = [sys.executable, "-m", "genrec_dagster.run"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return done, folder / ".genrec"


def test_a_failed_run_says_why_and_exits_with_one(failed_run: tuple[Any, Path]) -> None:
    done, _ = failed_run
    assert done.returncode == 1
    assert "raw_beauty ..." in done.stdout
    assert "FAILED raw_beauty: " in done.stdout
    assert "item_catalog not run" in done.stdout
    assert done.stdout.rstrip().splitlines()[-1].strip().startswith("raw_beauty: ")
    assert "sequential_data.txt" in done.stdout or "meta.json.gz" in done.stdout


def test_a_failed_run_is_recorded(failed_run: tuple[Any, Path]) -> None:
    record = read_json(failed_run[1] / "storage" / "last_run.json")
    assert record["status"] == "FAILURE"
    assert record["preset"] == "sample"
    assert record["asset_seconds"] == {}
    assert record["peak_mb"] > 50
    assert len(record["failures"]) == 1
    assert record["commit"]


def test_the_ui_shows_the_run_with_its_job(failed_run: tuple[Any, Path]) -> None:
    record = read_json(failed_run[1] / "storage" / "last_run.json")
    with dg.DagsterInstance.from_config(str(failed_run[1] / "dagster")) as instance:
        run = instance.get_run_by_id(record["run_id"])
    assert run is not None
    assert run.status == dg.DagsterRunStatus.FAILURE
    assert run.job_name == "full_graph"
    (loaded,) = yaml.safe_load((REPOSITORY / "workspace.yaml").read_text(encoding="utf-8"))["load_from"]
    location = loaded["python_module"]["location_name"]
    assert run.remote_job_origin is not None
    assert run.remote_job_origin.location_name == location
    assert run.tags_for_storage()[".dagster/repository"] == f"__repository__@{location}"


def test_memory_of_child_processes_counts() -> None:
    hungry = "import time; held = bytearray(200_000_000); time.sleep(3)"
    with PeakMemory() as memory, subprocess.Popen([sys.executable, "-c", hungry]):
        pass
    assert memory.megabytes > 200


def test_progress_names_each_asset_and_gate(capsys: pytest.CaptureFixture[str]) -> None:
    @dg.asset
    def soap() -> int:
        return 1

    @dg.asset_check(asset=soap, blocking=True)
    def is_two(soap: int) -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=soap == 2, description="measured 1, wanted 2")

    @dg.asset
    def bottle(soap: int) -> int:
        return soap

    report = RunReport({"soap", "bottle"})
    with dg.instance_for_test() as instance:
        job = dg.Definitions(
            assets=[soap, bottle], asset_checks=[is_two], jobs=[dg.define_asset_job("both")]
        ).resolve_job_def("both")
        run_id = "11111111-1111-4111-8111-111111111111"
        instance.add_event_listener(run_id, report)
        job.execute_in_process(instance=instance, run_id=run_id, raise_on_error=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "soap ..."
    assert lines[1].startswith("soap done in ")
    assert lines[2:] == ["    ERROR soap is_two: measured 1, wanted 2", "bottle not run"]
    assert list(report.asset_seconds) == ["soap"]
    assert report.failures == ["gate soap is_two: measured 1, wanted 2"]


@pytest.mark.slow
def test_a_whole_run_reports_to_nobody(looked_up: Callable[..., list[str]], tmp_path: Path) -> None:
    names = looked_up(sys.executable, "-m", "genrec_dagster.run", PRESET="sample")
    assert [name for name in names if name != "1.0.0.127.in-addr.arpa"] == []  # torchrun asks for the loopback's name
    left = [path.name for path in (tmp_path / "home").rglob("*") if path.is_file()]
    assert [name for name in left if "onnxruntime" in name or "telemetry" in name or name == "id.yaml"] == []
