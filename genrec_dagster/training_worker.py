"""One rank of a training. torchrun starts it as ``python -m genrec_dagster.training_worker JOB_FILE``."""

import math
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from dagster_pipes import PipesContext, open_dagster_pipes
from torch.distributed.elastic.multiprocessing.errors import record

from genrec_core.storage.artifacts import read_json, recovered
from genrec_core.tiger.distributed import World
from genrec_core.tiger.job import described
from genrec_core.tiger.rank import be_rank, train_job
from genrec_core.tiger.training import TrainingEvent
from genrec_dagster.experiment import metric_name
from genrec_dagster.resources import ExperimentTracker
from genrec_dagster.training import TrackedJob

_CURVES = ("loss", "validation_")  # what an epoch's metrics begin with that MLflow keeps
_FACTS = ("targets", "parameters", "best_epoch", "seconds")  # of a whole training, kept as metrics


class Reporter:
    """Sends the events of rank 0 to Dagster's log and to MLflow.

    MLflow shows metrics by the part of their name before the slash, in alphabetical order: the curves come first.
    """

    def __init__(self, pipes: PipesContext, job: TrackedJob) -> None:
        self.log, self.job, self.epochs = pipes.log, job, 0
        self._facts: dict[str, float] = {}  # logged at the end: MLflow's list shows the metrics as they were logged
        self.client = ExperimentTracker(tracking_uri=job.tracking_uri).client()

    def __call__(self, event: TrainingEvent) -> None:
        """Report one event."""
        self.epochs = int(event.values.get("epochs", self.epochs))
        line = described(event, self.epochs)
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


def run(job: TrackedJob, world: World) -> None:
    """Train. Rank 0 reports."""
    if world.rank != 0:
        train_job(job, world)
        return
    with open_dagster_pipes() as pipes:
        reporter = Reporter(pipes, job)
        reporter.catch_up()
        try:
            train_job(job, world, reporter)
        except BaseException:
            # A rank that is stopped may first lose its peer, which looks like a failure. If the step still lives, it
            # then writes how the training really ended.
            reporter.client.set_terminated(job.mlflow_run, "KILLED")
            raise


@record
def main() -> None:
    """Read the job and train it as one of torchrun's ranks."""
    job = TrackedJob.model_validate_json(Path(sys.argv[1]).read_text(encoding="utf-8"))
    be_rank(job.folder, partial(run, job))


if __name__ == "__main__":
    main()
