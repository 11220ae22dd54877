"""Training under torchrun: what reaches Dagster and MLflow, how it ends, and how it goes on."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import numpy as np
import polars as pl
import psutil
import pytest
from dagster._core.errors import DagsterExecutionInterruptedError

from genrec_core.embedding.item_embeddings import write_item_embeddings
from genrec_core.errors import GenrecError
from genrec_core.quantization.build import build_semantic_ids
from genrec_core.settings import SemanticIdSettings, TrainingSettings
from genrec_core.storage.artifacts import read_json
from genrec_core.storage.folders import latest
from genrec_dagster.assets.model import tiger_checkpoint
from genrec_dagster.checks import model as checks
from genrec_dagster.config import Rendezvous
from genrec_dagster.io_manager import ArtifactStorage
from genrec_dagster.kubernetes import TrainingPods
from genrec_dagster.resources import ExperimentTracker, WorkFolders
from genrec_dagster.training import JOB_FILE, TrackedJob, code_revision, new_beside_another, tracked_run, training_key

if TYPE_CHECKING:
    from conftest import SmallDisk

ITEMS, USERS = 60, 80
TINY = {
    "d_model": 16, "heads": 2, "encoder_layers": 1, "decoder_layers": 1, "d_ff": 32, "max_history": 10, "epochs": 2,
    "batch_targets": 256, "validation_users": 20, "validation_beams": 10, "validate_every": 1, "processes": 2,
}  # fmt: skip


def write_inputs(folder: Path) -> dict[str, Path]:
    """A catalogue of clustered vectors and histories that walk through neighbouring items."""
    random = np.random.default_rng(7)
    vectors = (random.normal(size=(ITEMS, 8)) + np.arange(ITEMS)[:, None] // 6).astype(np.float32)
    ids = np.arange(1, ITEMS + 1)
    inputs = {name: folder / name for name in ("user_histories", "semantic_ids", "item_embeddings")}
    write_item_embeddings(inputs["item_embeddings"], ids, [f"item {item}" for item in ids], vectors, "random", 1.0)
    build_semantic_ids(inputs["item_embeddings"], SemanticIdSettings(levels=2, codebook_size=8), inputs["semantic_ids"])
    starts = random.integers(0, ITEMS, USERS)
    walks = [[int((start + step) % ITEMS) + 1 for step in range(3 + user % 6)] for user, start in enumerate(starts)]
    inputs["user_histories"].mkdir()
    frame = pl.DataFrame({"user_id": [f"u{user}" for user in range(USERS)], "item_ids": walks})
    frame.write_parquet(inputs["user_histories"] / "frame.parquet")
    return inputs


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> ExperimentTracker:
    folder = tmp_path_factory.mktemp("mlflow")
    return ExperimentTracker(tracking_uri=f"sqlite:///{folder}/mlflow.db", artifact_root=(folder / "files").as_uri())


def source(name: str, folder: Path, storage: Path) -> dg.AssetsDefinition:
    @dg.asset(name=name)
    def copied() -> Path:
        shutil.copytree(folder, storage / "copies" / name)
        return storage / "copies" / name

    return copied


def train_asset(
    inputs: dict[str, Path],
    storage: Path,
    tracker: ExperimentTracker,
    settings: dict[str, Any],
    pipes: dg.PipesSubprocessClient | TrainingPods | None = None,
    instance: dg.DagsterInstance | None = None,
    rendezvous: Rendezvous | None = None,
) -> dg.ExecuteInProcessResult:
    """Materialise ``tiger_checkpoint`` and its checks from the given inputs."""
    sources = [source(name, folder, storage) for name, folder in inputs.items()]
    loaded = dg.load_asset_checks_from_modules([checks])
    training_checks = [check for check in loaded if check.check_key.asset_key == tiger_checkpoint.key]
    root = str(storage)
    return dg.materialize(
        [*sources, tiger_checkpoint, *training_checks],
        raise_on_error=False,
        instance=instance,
        resources={
            "io_manager": ArtifactStorage(root=root),
            "work": WorkFolders(root=root),
            "tracker": tracker,
            "pipes": pipes or dg.PipesSubprocessClient(),
            "rendezvous": rendezvous or Rendezvous(),
        },
        run_config={"ops": {"tiger_checkpoint": {"config": settings}}},
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def kill_rank(rank: int, storage: Path, after_epoch: int) -> None:
    """Kill one rank hard as soon as the training in ``storage`` has finished ``after_epoch`` epochs."""
    while not any(epochs_done(path) >= after_epoch for path in storage.glob(".training/*/state/progress.json")):
        time.sleep(0.02)
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # another process of the test has just ended
            if "genrec_dagster.training_worker" in process.cmdline() and process.environ().get("RANK") == str(rank):
                process.kill()


def test_a_training_of_other_settings_says_what_differs_from_the_one_before(tmp_path: Path) -> None:
    def job(key: str, **changes: Any) -> TrackedJob:
        folder = WorkFolders(root=str(tmp_path)).training(key)
        inputs = {name: tmp_path / name for name in ("histories", "semantic_ids", "embeddings")}
        settings = TrainingSettings(**{**TINY, **changes})
        return TrackedJob(**inputs, settings=settings, folder=folder, tracking_uri="sqlite://", mlflow_run="0")

    first = job("first")
    assert new_beside_another(first) == ""
    (first.folder / JOB_FILE).write_text(first.model_dump_json())
    (first.folder / "state").mkdir()
    assert new_beside_another(first) == ""  # it goes on
    said = new_beside_another(job("second", d_ff=64, epochs=3))
    assert said.startswith("trains from epoch 0, although the training in ")
    assert said.endswith("first is there: the settings differ in d_ff, epochs")
    assert new_beside_another(job("third")).endswith("the data differ")


def epochs_done(progress: Path) -> int:
    try:
        return int(read_json(progress)["epoch"])
    except GenrecError:  # the state is being replaced
        return 0


def test_a_killed_rank_is_named_and_the_retry_goes_on_where_it_stopped(
    inputs: dict[str, Path], tmp_path: Path, tracker: ExperimentTracker
) -> None:
    settings = {**TINY, "epochs": 25, "patience": 100}
    killer = threading.Thread(target=kill_rank, args=(1, tmp_path, 1), daemon=True)
    killer.start()
    result = train_asset(inputs, tmp_path, tracker, settings)
    assert result.success, result.all_events
    retries = [event for event in result.all_events if event.event_type == dg.DagsterEventType.STEP_UP_FOR_RETRY]
    assert len(retries) == 1
    assert "rank 1 failed" in str(retries[0])
    assert "SIGKILL" in str(retries[0])

    checkpoint = latest("tiger_checkpoint", tmp_path)
    epochs = read_json(checkpoint / "training_history.json")["epochs"]
    assert [entry["epoch"] for entry in epochs] == list(range(1, 26))
    assert all(evaluation.passed for evaluation in result.get_asset_check_evaluations())

    client = tracker.client()
    run_id = read_json(checkpoint / "experiment.json")["run_id"]
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["epochs"] == "25"
    assert {"code", "dagster_run", "training_key", "data.semantic_ids"} <= set(run.data.tags)
    assert [metric.step for metric in client.get_metric_history(run_id, "curves/loss")] == list(range(1, 26))
    assert {file.path for file in client.list_artifacts(run_id)} == {
        "config.json",
        "training_history.json",
        "training.png",
    }


def test_a_rank_that_fails_is_named_with_its_message_and_not_tried_again(
    inputs: dict[str, Path], tmp_path: Path, tracker: ExperimentTracker
) -> None:
    wrong = tmp_path / "wrong"
    shutil.copytree(inputs["semantic_ids"], wrong)
    (wrong / "item_ids.json").write_text("[1, 2]")
    result = train_asset({**inputs, "semantic_ids": wrong}, tmp_path / "storage", tracker, {**TINY, "processes": 1})
    assert not result.success
    failures = [e for e in result.all_events if e.event_type == dg.DagsterEventType.STEP_FAILURE]
    failure = failures[0].step_failure_data.user_failure_data
    assert [event.step_key for event in failures] == ["tiger_checkpoint"]
    assert re.match(
        r"rank 0 failed: GenrecError: .*codes_with_suffix.npy: shape \(60, 3\), but there are 2 items",
        failure.description,
    )
    assert not [e for e in result.all_events if e.event_type == dg.DagsterEventType.STEP_UP_FOR_RETRY]
    assert [run.info.status for run in newest_runs(tracker)] == ["FAILED"]


@pytest.mark.slow
def test_a_training_that_fills_the_disk_says_so_and_goes_on_once_there_is_room(
    inputs: dict[str, Path], small_disk: "SmallDisk", tracker: ExperimentTracker
) -> None:
    storage, settings = small_disk.folder, {**TINY, "processes": 1, "seed": 2, "epochs": 20, "patience": 100}
    with ExitStack() as filled:

        def fill() -> None:
            while not any(epochs_done(path) >= 1 for path in storage.glob(".training/*/state/progress.json")):
                time.sleep(0.02)
            filled.enter_context(small_disk.filled())

        filler = threading.Thread(target=fill, daemon=True)
        filler.start()
        failed = train_asset(inputs, storage, tracker, settings)
        filler.join()
    failure = next(e for e in failed.all_events if e.event_type == dg.DagsterEventType.STEP_FAILURE)
    assert "no space is left on this disk; free some and run again" in str(failure.event_specific_data)
    assert [run.info.status for run in newest_runs(tracker)] == ["FAILED"]
    (progress,) = storage.glob(".training/*/state/progress.json")
    before = [entry["loss"] for entry in read_json(progress)["history"]]
    assert 1 <= len(before) < 20
    assert train_asset(inputs, storage, tracker, settings).success
    epochs = read_json(latest("tiger_checkpoint", storage) / "training_history.json")["epochs"]
    assert [entry["epoch"] for entry in epochs] == list(range(1, 21))
    assert [entry["loss"] for entry in epochs][: len(before)] == before


class InterruptedPipes(dg.PipesSubprocessClient):
    """Ends as when the user stops the run while torchrun trains."""

    def run(self, **kwargs: Any) -> Any:
        raise DagsterExecutionInterruptedError


def test_an_interrupted_training_is_not_tried_again(
    inputs: dict[str, Path], tmp_path: Path, tracker: ExperimentTracker
) -> None:
    with dg.instance_for_test() as instance:
        train_asset(inputs, tmp_path, tracker, {**TINY, "seed": 1}, pipes=InterruptedPipes(), instance=instance)
        (run,) = instance.get_runs()
        kinds = [entry.dagster_event_type for entry in instance.all_logs(run.run_id)]
    assert run.status == dg.DagsterRunStatus.FAILURE  # what Dagster's in-process executor makes of an interrupt
    assert dg.DagsterEventType.STEP_UP_FOR_RETRY not in kinds
    assert [run.info.status for run in newest_runs(tracker)] == ["KILLED"]


@pytest.mark.slow
def test_a_second_machine_joins_the_training_of_a_step(
    inputs: dict[str, Path], tmp_path: Path, tracker: ExperimentTracker
) -> None:
    endpoint, nodes = f"127.0.0.1:{free_port()}", {"GENREC_NODES": "2", "GENREC_NODE_RANK": "1"}
    joined: list[subprocess.CompletedProcess[bytes]] = []

    def join() -> None:
        while not (jobs := list(tmp_path.glob(".training/*/job.json"))):
            time.sleep(0.1)
        command = [sys.executable, "-m", "genrec_dagster.training_node", str(jobs[0])]
        environment = {
            **os.environ,
            **nodes,
            "GENREC_RENDEZVOUS": endpoint,
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }
        joined.append(subprocess.run(command, env=environment, capture_output=True, check=False))

    other = threading.Thread(target=join, daemon=True)
    other.start()
    settings = {**TINY, "processes": 1}
    rendezvous = Rendezvous(nodes=2, endpoint=endpoint, timeout_seconds=180)
    result = train_asset(inputs, tmp_path, tracker, settings, rendezvous=rendezvous)
    other.join(timeout=60)
    assert result.success
    assert [done.returncode for done in joined] == [0]


def newest_runs(tracker: ExperimentTracker) -> list[Any]:
    client = tracker.client()
    return list(client.search_runs(["1"], max_results=1, order_by=["attributes.start_time DESC"]))


@pytest.mark.parametrize(
    ("error", "status"),
    [(None, "FINISHED"), (KeyboardInterrupt(), "KILLED"), (RuntimeError("no"), "FAILED")],
)
def test_an_mlflow_run_ends_as_the_training_did(
    tracker: ExperimentTracker, error: BaseException | None, status: str
) -> None:
    run_id = tracker.open_run(f"key-{status}", {}, {"epochs": 1})
    with pytest.raises(type(error)) if error else nullcontext(), tracked_run(tracker, run_id):
        if error:
            raise error
    assert tracker.client().get_run(run_id).info.status == status


def test_the_same_training_continues_its_mlflow_run(tracker: ExperimentTracker) -> None:
    first = tracker.open_run("some-key", {}, {"epochs": 1})
    tracker.client().set_terminated(first, "KILLED")
    assert tracker.open_run("some-key", {}, {"epochs": 1}) == first
    assert tracker.client().get_run(first).info.status == "RUNNING"


def test_the_training_key_depends_on_settings_and_data_only() -> None:
    settings, versions = TrainingSettings(), {"user_histories": "a", "semantic_ids": "b"}
    assert training_key(settings, versions) == training_key(settings, dict(reversed(versions.items())))
    assert training_key(settings, versions) != training_key(settings, {**versions, "semantic_ids": "c"})
    assert training_key(settings, versions) != training_key(TrainingSettings(epochs=1), versions)


LONG_TRAINING = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
from test_training import TINY, ExperimentTracker, train_asset, write_inputs

root = Path({root!r})
tracker = ExperimentTracker(tracking_uri=f"sqlite:///{{root}}/mlflow.db", artifact_root=(root / "files").as_uri())
train_asset(write_inputs(root / "inputs"), root / "storage", tracker, {{**TINY, "epochs": 10_000, "patience": 10_000}})
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_running_when_the_step_is_stopped(tmp_path: Path, number: signal.Signals) -> None:
    script = LONG_TRAINING.format(here=str(Path(__file__).parent), root=str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as step:
        deadline = time.monotonic() + 180
        while not any(epochs_done(path) >= 2 for path in tmp_path.glob("storage/.training/*/state/progress.json")):
            assert step.poll() is None, "the step ended before it trained"
            assert time.monotonic() < deadline, "the training never began"
            time.sleep(0.2)
        children = psutil.Process(step.pid).children(recursive=True)
        step.send_signal(number)
    assert len(children) >= 3
    assert not psutil.wait_procs(children, timeout=60)[1]
    tracker = ExperimentTracker(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    assert [run.info.status for run in newest_runs(tracker)] == ["KILLED"]


def test_without_git_the_packages_version_stands_for_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert code_revision().startswith("genrec ")
