"""Runs whose process was killed are failed, in Dagster and in MLflow, and leave nothing half-written."""

import os
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import dagster as dg
import psutil
import pytest

from genrec_core.storage.artifacts import locked
from genrec_dagster.liveness import WORKER_TAG, fail_lost_runs, is_gone, lost_runs, this_worker
from genrec_dagster.resources import ExperimentTracker, WorkFolders, discard_run
from genrec_dagster.training import only_training, tracked_run

KILLED_IN_ITS_STEP = """
import os, signal, sys
from pathlib import Path
import dagster as dg
from genrec_dagster.io_manager import ArtifactStorage
from genrec_dagster.resources import ExperimentTracker, WorkFolders

root, uri = sys.argv[1], sys.argv[2]

@dg.asset
def first() -> dict:
    return {"whole": True}

@dg.asset
def second(context: dg.AssetExecutionContext, first: dict, work: WorkFolders) -> dict:
    with work.new(context) as folder:
        (folder / "half").write_text("written")
        tracker = ExperimentTracker(tracking_uri=uri, artifact_root=None)
        tracker.open_run("key", {"dagster_run": context.run.run_id}, {})
        part = Path(root) / "second" / f".{context.run.run_id}.0.part"
        part.mkdir(parents=True)
        os.kill(os.getpid(), signal.SIGKILL)

with dg.DagsterInstance.get() as instance:
    resources = {"io_manager": ArtifactStorage(root=root), "work": WorkFolders(root=root)}
    dg.materialize([first, second], instance=instance, resources=resources)
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    return tmp_path


def test_a_killed_run_is_failed_everywhere_and_leaves_nothing_half_written(home: Path) -> None:
    storage = home / "storage"
    tracker = ExperimentTracker(tracking_uri=f"sqlite:///{home}/mlflow.db", artifact_root=(home / "files").as_uri())
    command = [sys.executable, "-c", KILLED_IN_ITS_STEP, str(storage), tracker.tracking_uri]
    assert subprocess.run(command, cwd=home, capture_output=True, check=False).returncode == -signal.SIGKILL
    with dg.DagsterInstance.get() as instance:
        (run,) = instance.get_runs()
        assert run.status == dg.DagsterRunStatus.STARTED
        assert fail_lost_runs(instance, tracker, storage) == [run.run_id]
        assert instance.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.FAILURE
        assert fail_lost_runs(instance, tracker, storage) == []
    assert [found.info.status for found in tracked(tracker)] == ["FAILED"]
    assert (storage / "first" / run.run_id / "manifest.json").is_file()
    assert not [path for path in storage.rglob("*") if path.name == "half" or path.suffix == ".part"]


def test_a_killed_run_that_dagster_failed_by_itself_is_closed_too(home: Path) -> None:
    storage = home / "storage"
    tracker = ExperimentTracker(tracking_uri=f"sqlite:///{home}/mlflow.db", artifact_root=(home / "files").as_uri())
    command = [sys.executable, "-c", KILLED_IN_ITS_STEP, str(storage), tracker.tracking_uri]
    assert subprocess.run(command, cwd=home, capture_output=True, check=False).returncode == -signal.SIGKILL
    with dg.DagsterInstance.get() as instance:
        (run,) = instance.get_runs()
        instance.report_run_failed(run, "as the run monitoring does")
        assert fail_lost_runs(instance, tracker, storage) == []
    assert [found.info.status for found in tracked(tracker)] == ["FAILED"]
    assert not [path for path in storage.rglob("*") if path.name == "half" or path.suffix == ".part"]


@pytest.mark.parametrize(("stored", "status"), [(True, "FINISHED"), (False, "FAILED")])
def test_a_training_that_ended_but_was_not_stored_has_failed(home: Path, stored: bool, status: str) -> None:
    tracker = ExperimentTracker(tracking_uri=f"sqlite:///{home}/mlflow.db", artifact_root=(home / "files").as_uri())

    @dg.asset
    def tiger_checkpoint(context: dg.AssetExecutionContext) -> None:
        with tracked_run(tracker, tracker.open_run("key", {"dagster_run": context.run.run_id}, {})):
            pass
        if not stored:
            raise OSError("the store is away")

    @dg.asset(deps=[tiger_checkpoint])
    def recall_metrics() -> None:
        raise OSError("the store is away")

    with dg.DagsterInstance.get() as instance:
        gone = this_worker().rsplit(":", 1)[0] + ":1.00"
        assets, tags = [tiger_checkpoint, recall_metrics], {WORKER_TAG: gone}
        assert not dg.materialize(assets, instance=instance, tags=tags, raise_on_error=False).success
        assert fail_lost_runs(instance, tracker, home) == []
    assert [found.info.status for found in tracked(tracker)] == [status]


def tracked(tracker: ExperimentTracker) -> list:
    client = tracker.client()
    return client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])


def test_a_run_that_was_killed_while_it_was_canceled_is_canceled(home: Path) -> None:
    tracker = ExperimentTracker(tracking_uri=f"sqlite:///{home}/mlflow.db", artifact_root=(home / "files").as_uri())
    with dg.DagsterInstance.get() as instance:
        gone = this_worker().rsplit(":", 1)[0] + ":1.00"
        tags = {WORKER_TAG: gone}
        run = instance.create_run_for_job(job_def=empty_job(), status=dg.DagsterRunStatus.CANCELING, tags=tags)
        tracker.open_run("key", {"dagster_run": run.run_id}, {})
        assert fail_lost_runs(instance, tracker, home) == [run.run_id]
        assert instance.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.CANCELED
    assert [found.info.status for found in tracked(tracker)] == ["KILLED"]


def test_what_a_killed_run_left_of_a_partition_goes_and_the_rest_stays(tmp_path: Path) -> None:
    left, other = tmp_path / "asset" / "partition" / ".one.0.part", tmp_path / "asset" / "partition" / ".two.0.part"
    whole = tmp_path / "asset" / "partition" / "one"
    for folder in (left, other, whole):
        folder.mkdir(parents=True)
    discard_run(tmp_path, "one")
    assert (left.exists(), other.exists(), whole.exists()) == (False, True, True)


def test_a_version_that_a_killed_run_was_replacing_is_put_back(tmp_path: Path) -> None:
    aside = tmp_path / "asset" / ".one.1-0.old"
    aside.mkdir(parents=True)
    (aside / "manifest.json").write_text("{}")
    discard_run(tmp_path, "one")
    assert (tmp_path / "asset" / "one" / "manifest.json").is_file()


def test_a_run_whose_process_lives_goes_on(home: Path) -> None:
    tracker = ExperimentTracker(tracking_uri=f"sqlite:///{home}/mlflow.db")
    with dg.DagsterInstance.get() as instance:
        status, tags = dg.DagsterRunStatus.STARTED, {WORKER_TAG: this_worker()}
        run = instance.create_run_for_job(job_def=empty_job(), status=status, tags=tags)
        assert fail_lost_runs(instance, tracker, home) == []
        assert instance.get_run_by_id(run.run_id).status == status


def test_the_sensor_fails_lost_runs(home: Path) -> None:
    resources = {
        "tracker": ExperimentTracker(tracking_uri=f"sqlite:///{home}/mlflow.db"),
        "work": WorkFolders(root=str(home)),
    }
    with dg.DagsterInstance.get() as instance:
        status, gone = dg.DagsterRunStatus.STARTED, this_worker().rsplit(":", 1)[0] + ":1.00"
        run = instance.create_run_for_job(job_def=empty_job(), status=status, tags={WORKER_TAG: gone})
        messages = [lost_runs(dg.build_sensor_context(instance, resources=resources)).skip_message for _ in range(2)]
    assert messages == [f"failed {run.run_id}: their processes are gone", "all runs are alive"]


def empty_job() -> dg.JobDefinition:
    @dg.op
    def nothing() -> None: ...

    @dg.job
    def empty() -> None:
        nothing()

    return empty


def test_a_process_is_known_by_its_start_and_machine() -> None:
    host, number, started = this_worker().rsplit(":", 2)
    assert not is_gone(this_worker())
    assert is_gone(f"{host}:{number}:{float(started) - 1:.2f}")
    assert not is_gone(f"elsewhere:{number}:1.00")
    gone = subprocess.Popen(["true"])
    gone.wait()
    assert is_gone(f"{host}:{gone.pid}:1.00")
    assert psutil.pid_exists(os.getpid())


def test_a_second_run_of_a_training_waits_for_the_first(tmp_path: Path) -> None:
    said, entered = [], threading.Event()
    first = ExitStack()
    first.enter_context(locked(tmp_path / "step.lock"))

    def second() -> None:
        with only_training(tmp_path, said.append):
            entered.set()

    thread = threading.Thread(target=second)
    thread.start()
    assert not entered.wait(0.5)
    assert "another run trains the same model" in said[0]
    first.close()
    assert entered.wait(10)
    thread.join()
