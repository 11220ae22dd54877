"""A training as a job that torchrun does on this machine. Needs no torch until it runs."""

import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel

from genrec_core.errors import GenrecError
from genrec_core.settings import RendezvousSettings, TrainingSettings
from genrec_core.storage.artifacts import atomic_file, read_json
from genrec_core.tiger.torchrun import run_torchrun, torchrun_command

if TYPE_CHECKING:
    from genrec_core.tiger.training import TrainingEvent

JOB_FILE, FAILURE_FILE = "job.json", "failure.json"


class TrainingJob(BaseModel):
    """What all ranks of a training read."""

    histories: Path  # a Parquet file
    semantic_ids: Path
    embeddings: Path
    settings: TrainingSettings
    folder: Path  # gets ``best`` and ``state``
    measured: Path | None = None  # the checkpoint whose recipe is trained again on everything; None: a new training


def train_by_torchrun(job: TrainingJob, on_event: "Callable[[TrainingEvent], None]") -> Path:
    """Train on this machine, or go on where an earlier attempt in ``job.folder`` ended; returns the best model.

    Raises:
        GenrecError: a rank failed, with its reason.
    """
    job_file, failure_file = job.folder / JOB_FILE, job.folder / FAILURE_FILE
    failure_file.unlink(missing_ok=True)
    with atomic_file(job_file) as part:
        part.write_text(job.model_dump_json(indent=2), encoding="utf-8")
    program = ["-m", "genrec_core.tiger.rank", str(job_file)]
    command, environment = torchrun_command(job.settings, RendezvousSettings(), program, failure_file)
    code = run_torchrun(command, {**os.environ, **environment}, lambda line: _pass_on(line, on_event))
    if code:
        raise GenrecError(_reason(failure_file, code))
    return job.folder / "best"


def described(event: "TrainingEvent", epochs: int) -> str:
    """An event of a training of ``epochs`` epochs as a line."""
    place = f"epoch {event.epoch}/{epochs}" if event.kind == "epoch" else event.kind
    facts = [f"{name.replace('_', ' ')} {value:,.5g}" for name, value in event.values.items() if name != "epoch"]
    facts += [event.note] if event.note else []
    return f"{place}: {', '.join(facts)}" if facts else place


def _pass_on(line: str, on_event: "Callable[[TrainingEvent], None]") -> None:
    """Give a printed event to ``on_event``; a line that is none goes to stderr."""
    from genrec_core.tiger.training import TrainingEvent

    with suppress(ValueError, TypeError):
        on_event(TrainingEvent(**json.loads(line)))
        return
    print(line, file=sys.stderr)


def _reason(failure_file: Path, code: int) -> str:
    """Why a training failed, in a sentence."""
    if not failure_file.is_file():
        return f"torchrun ended with exit code {code} before any rank failed; its messages are on stderr"
    failure = read_json(failure_file)
    message = str(failure["message"]).removeprefix(f"{GenrecError.__name__}: ")
    return f"rank {failure['rank']} of the training failed: {message}"
