"""One rank of a training. torchrun starts it as ``python -m genrec_dagster.training_worker JOB_FILE``."""

import math
import os
import signal
import sys
import traceback
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from types import FrameType
from typing import NoReturn

from dagster_pipes import PipesContext, open_dagster_pipes
from torch.distributed.elastic.multiprocessing.errors import get_error_handler, record

from genrec_core.storage.artifacts import locked, read_json, recovered
from genrec_core.tiger.distributed import World, distributed
from genrec_core.tiger.refit import RefitData, RefitTrainer
from genrec_core.tiger.torchrun import TORCHRUN_PID, end_with_parent
from genrec_core.tiger.training import Trainer, TrainingData, TrainingEvent, train, write_probe
from genrec_dagster.experiment import metric_name
from genrec_dagster.resources import ExperimentTracker
from genrec_dagster.training import TrainingJob

_STOPPING = (signal.SIGINT, signal.SIGTERM)


_CURVES = ("loss", "validation_")  # what an epoch's metrics begin with that MLflow keeps
_FACTS = ("targets", "parameters", "best_epoch", "seconds")  # of a whole training, kept as metrics


class Reporter:
    """Sends the events of rank 0 to Dagster's log and to MLflow.

    MLflow shows metrics by the part of their name before the slash, in alphabetical order: the curves come first.
    """

    def __init__(self, pipes: PipesContext, job: TrainingJob) -> None:
        self.log, self.job, self.epochs = pipes.log, job, 0
        self._facts: dict[str, float] = {}  # logged at the end: MLflow's list shows the metrics as they were logged
        self.client = ExperimentTracker(tracking_uri=job.tracking_uri).client()

    def __call__(self, event: TrainingEvent) -> None:
        """Report one event."""
        self.epochs = int(event.values.get("epochs", self.epochs))
        line = describe(event, self.epochs)
        if event.kind == "step":
            self.log.debug(line)
            return
        self.log.info(line)
        if event.kind == "epoch":
            self._log_curves(event.values, event.epoch)
        else:
            self._note_facts(event)

    def catch_up(self) -> None:
        """Log the epochs of an earlier attempt that MLflow lacks. It may have died between state and MLflow."""
        progress = recovered(self.job.folder / "state") / "progress.json"
        if not progress.is_file():
            return
        logged = {metric.step for metric in self.client.get_metric_history(self.job.mlflow_run, "curves/loss")}
        for entry in read_json(progress)["history"]:
            if entry["epoch"] not in logged:
                self._log_curves(entry, entry["epoch"])

    def _log_curves(self, values: Mapping[str, float], epoch: int) -> None:
        for name, value in values.items():
            if name.startswith(_CURVES) and math.isfinite(value):
                self.client.log_metric(self.job.mlflow_run, metric_name(f"curves/{name}"), value, step=epoch)

    def _note_facts(self, event: TrainingEvent) -> None:
        """Keep size and duration as metrics, and what the training chose itself, such as its epochs, as tags."""
        for name in event.values.keys() - set(_FACTS):
            self.client.set_tag(self.job.mlflow_run, f"chosen.{name}", f"{event.values[name]:g}")
        self._facts |= {name: event.values[name] for name in _FACTS if name in event.values}
        if event.kind == "end":
            for name, value in self._facts.items():
                self.client.log_metric(self.job.mlflow_run, f"training/{name}", value)


def describe(event: TrainingEvent, epochs: int) -> str:
    """The line of an event in the log."""
    place = f"epoch {event.epoch}/{epochs}" if event.kind == "epoch" else event.kind
    facts = [f"{name.replace('_', ' ')} {value:,.5g}" for name, value in event.values.items() if name != "epoch"]
    facts += [event.note] if event.note else []
    return f"{place}: {', '.join(facts)}" if facts else place


def run(job: TrainingJob, world: World) -> None:
    """Train. Rank 0 reports, and writes a probe of the best model beside it."""
    data = TrainingData.load(job.histories, job.semantic_ids, job.embeddings)
    trainer: type[Trainer] | None = None
    if job.measured:
        data, trainer = RefitData.of(data, job.measured), RefitTrainer
    if world.rank != 0:
        train(data, job.settings, job.folder, world, trainer=trainer)
        return
    with open_dagster_pipes() as pipes:
        reporter = Reporter(pipes, job)
        reporter.catch_up()
        try:
            best = train(data, job.settings, job.folder, world, reporter, trainer)
            write_probe(best, data)
        except BaseException:
            # A rank that is stopped may first lose its peer, which looks like a failure. If the step still lives, it
            # then writes how the training really ended.
            reporter.client.set_terminated(job.mlflow_run, "KILLED")
            raise


def _stop(number: int, frame: FrameType | None) -> None:
    """Exit on the first signal. Later signals are ignored, because they would break what is being written."""
    for later in _STOPPING:
        signal.signal(later, signal.SIG_IGN)
    sys.exit(128 + number)


def leave(error: BaseException) -> NoReturn:
    """Record the error for torchrun and end this process at once.

    A normal exit waits for gloo, and gloo waits for other ranks that may be dead. Nothing is lost, because files are
    written under another name and then renamed.
    """
    code = error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1
    if not isinstance(error, SystemExit):
        get_error_handler().record_exception(error)
        traceback.print_exception(error)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@record
def main() -> None:
    """Read the job and train it as one of torchrun's ranks."""
    end_with_parent(int(os.environ[TORCHRUN_PID]))
    for number in _STOPPING:
        signal.signal(number, _stop)
    job = TrainingJob.model_validate_json(Path(sys.argv[1]).read_text(encoding="utf-8"))
    # Rank 0 of an earlier attempt may still be ending; it holds this lock until it has left the folder.
    only_writer = locked(job.folder / "rank.lock") if os.environ["RANK"] == "0" else nullcontext()
    with only_writer, distributed() as world:
        try:
            run(job, world)
        except BaseException as error:
            leave(error)


if __name__ == "__main__":
    main()
