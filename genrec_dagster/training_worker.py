"""One rank of a training; torchrun starts it as ``python -m genrec_dagster.training_worker JOB_FILE``."""

import math
import os
import signal
import sys
import traceback
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import FrameType
from typing import NoReturn

from dagster_pipes import PipesContext, open_dagster_pipes
from filelock import FileLock
from torch.distributed.elastic.multiprocessing.errors import get_error_handler, record

from genrec_core.storage.artifacts import read_json, recovered
from genrec_core.tiger.distributed import World, distributed
from genrec_core.tiger.torchrun import TORCHRUN_PID, end_with_parent
from genrec_core.tiger.training import TrainingData, TrainingEvent, train, write_probe
from genrec_dagster.experiment import metric_name
from genrec_dagster.resources import ExperimentTracker
from genrec_dagster.training import TrainingJob

STOPPING = (signal.SIGINT, signal.SIGTERM)


class Reporter:
    """Sends what rank 0 sees to Dagster's log and to MLflow.

    Args:
        pipes: the open connection to the step.
        job: the training.
    """

    def __init__(self, pipes: PipesContext, job: TrainingJob) -> None:
        self.log, self.job = pipes.log, job
        self.client = ExperimentTracker(tracking_uri=job.tracking_uri).client()

    def __call__(self, event: TrainingEvent) -> None:
        """Report one event."""
        line = describe(event, self.job.settings.epochs)
        if event.kind == "step":
            self.log.debug(line)
            return
        self.log.info(line)
        self._log_metrics(event.values, event.epoch)

    def catch_up(self) -> None:
        """Log the epochs of an earlier attempt that MLflow has not seen: the last one, if it died in between."""
        progress = recovered(self.job.folder / "state") / "progress.json"
        if not progress.is_file():
            return
        seen = {metric.step for metric in self.client.get_metric_history(self.job.mlflow_run, "loss")}
        for entry in read_json(progress)["history"]:
            if entry["epoch"] not in seen:
                self._log_metrics(entry, entry["epoch"])

    def killed(self) -> None:
        """Note that this training was stopped; a step that still lives then writes how it really ended."""
        self.client.set_terminated(self.job.mlflow_run, "KILLED")

    def _log_metrics(self, values: Mapping[str, float], epoch: int) -> None:
        for name, value in values.items():
            if math.isfinite(value) and name != "epoch":
                self.client.log_metric(self.job.mlflow_run, metric_name(name), value, step=epoch)


def describe(event: TrainingEvent, epochs: int) -> str:
    """One line for the log."""
    shown = {name.replace("_", " "): value for name, value in event.values.items() if name != "epoch"}
    values = ", ".join([f"{name} {value:,.5g}" for name, value in shown.items()] + [event.note] * bool(event.note))
    place = f"epoch {event.epoch}/{epochs}" if event.kind == "epoch" else event.kind
    return f"{place}: {values}" if values else place


def run(job: TrainingJob, world: World) -> None:
    """Train; rank 0 reports and leaves a probe of the best model beside it."""
    data = TrainingData.load(job.histories, job.semantic_ids, job.embeddings)
    with _connection(world) as pipes:
        reporter = Reporter(pipes, job) if pipes else None
        if reporter:
            reporter.catch_up()
        try:
            best = train(data, job.settings, job.folder, world, reporter)
            if world.rank == 0:
                write_probe(best, data)
        except BaseException:  # a rank that is stopped may first lose its peer, which looks like a failure
            if reporter:
                reporter.killed()
            raise


def _connection(world: World) -> AbstractContextManager[PipesContext | None]:
    return open_dagster_pipes() if world.rank == 0 else nullcontext()


def _only_writer(folder: Path) -> AbstractContextManager[object]:
    """Rank 0 waits until that of an earlier attempt, which its launcher's death is ending, has left the folder."""
    return FileLock(folder / "rank.lock") if os.environ["RANK"] == "0" else nullcontext()


def _stop(number: int, frame: FrameType | None) -> None:
    """Leave on the first signal; those that follow would break what is written on the way out."""
    for later in STOPPING:
        signal.signal(later, signal.SIG_IGN)
    sys.exit(128 + number)


def leave(error: BaseException) -> NoReturn:
    """End this process at once, the error recorded for torchrun.

    Python's own way out waits for gloo, and gloo for peers that never come: the rank would hang, and torchrun with it.
    Nothing is lost, as every file is written aside and renamed.
    """
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else 1
    else:
        get_error_handler().record_exception(error)
        traceback.print_exception(error)
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@record
def main() -> None:
    """Read the job and train it as one of torchrun's ranks."""
    end_with_parent(int(os.environ[TORCHRUN_PID]))
    for number in STOPPING:
        signal.signal(number, _stop)
    job = TrainingJob.model_validate_json(Path(sys.argv[1]).read_text(encoding="utf-8"))
    with _only_writer(job.folder), distributed() as world:
        try:
            run(job, world)
        except BaseException as error:
            leave(error)


if __name__ == "__main__":
    main()
