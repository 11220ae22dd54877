"""One rank of a training: what it does, and how it stops and fails.

``python -m genrec_core.tiger.rank JOB_FILE``, run by torchrun, trains a job; rank 0 prints its events as lines of JSON.
The ranks of the asset graph report to Dagster instead.
"""

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import NoReturn

from torch.distributed.elastic.multiprocessing.errors import get_error_handler, record

from genrec_core.storage.artifacts import locked
from genrec_core.tiger.distributed import World, distributed
from genrec_core.tiger.job import TrainingJob
from genrec_core.tiger.refit import RefitData, RefitTrainer
from genrec_core.tiger.torchrun import TORCHRUN_PID, end_with_parent
from genrec_core.tiger.training import OnEvent, Trainer, TrainingData, TrainingEvent, train, write_probe

_STOPPING = (signal.SIGINT, signal.SIGTERM)


def train_job(job: TrainingJob, world: World, on_event: OnEvent | None = None) -> None:
    """Train as one rank; rank 0 writes a probe of the best model beside it."""
    data = TrainingData.load(job.histories, job.semantic_ids, job.embeddings)
    trainer: type[Trainer] | None = None
    if job.measured:
        data, trainer = RefitData.of(data, job.measured), RefitTrainer
    best = train(data, job.settings, job.folder, world, on_event, trainer)
    if world.rank == 0:
        write_probe(best, data)


def be_rank(folder: Path, work: Callable[[World], None]) -> None:
    """Do ``work``, which trains in ``folder``, as one of torchrun's ranks; end with torchrun, and leave on an error."""
    end_with_parent(int(os.environ[TORCHRUN_PID]))
    for number in _STOPPING:
        signal.signal(number, _stop)
    # Rank 0 of an earlier attempt may still be ending; it holds this lock until it has left the folder.
    only_writer = locked(folder / "rank.lock") if os.environ["RANK"] == "0" else nullcontext()
    with only_writer, distributed() as world:
        try:
            work(world)
        except BaseException as error:
            _leave(error)


def _stop(number: int, frame: FrameType | None) -> None:
    """Exit on the first signal. Later signals are ignored, because they would break what is being written."""
    for later in _STOPPING:
        signal.signal(later, signal.SIG_IGN)
    sys.exit(128 + number)


def _leave(error: BaseException) -> NoReturn:
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


def _print_event(event: TrainingEvent) -> None:
    print(json.dumps(asdict(event)), flush=True)


@record
def main() -> None:
    """Train the job of the file that the command line names."""
    job = TrainingJob.model_validate_json(Path(sys.argv[1]).read_text(encoding="utf-8"))
    be_rank(job.folder, lambda world: train_job(job, world, _print_event if world.rank == 0 else None))


if __name__ == "__main__":
    main()
