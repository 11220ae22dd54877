"""``genrec sample``, ``train`` and ``sweep``: a shop to try everything on, and trainings outside the asset graph."""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from genrec_core.cli.options import (
    Commands,
    add_catalog,
    add_command,
    add_inputs,
    add_settings,
    new_folder,
    settings_from,
    typed_values,
)
from genrec_core.errors import GenrecError
from genrec_core.settings import RendezvousSettings, TrainingSettings

if TYPE_CHECKING:
    from genrec_core.tiger.training import TrainingEvent


def add_commands(commands: Commands) -> None:
    """Add ``sample``, ``train`` and ``sweep``."""
    command = add_command(commands, "sample", _sample, "Write the synthetic sample shop in the raw form.")
    command.add_argument("--output", type=new_folder, required=True, metavar="DIR", help="the folder to write")
    command.add_argument("--users", type=int, default=5000, metavar="N", help="users (%(default)s)")
    command.add_argument("--items", type=int, default=2000, metavar="N", help="items (%(default)s)")
    command.add_argument("--seed", type=int, default=7, metavar="N", help="seed (%(default)s)")

    about = "Train TIGER, or a baseline, outside the asset graph; run again, it goes on where it was cut off."
    command = add_command(commands, "train", _train, about)
    add_inputs(command)
    command.add_argument(
        "--model", choices=("tiger", "sasrec", "bsarec"), default="tiger", help="what to train (%(default)s)"
    )
    command.add_argument(
        "--preset", default="sample", metavar="NAME", help="settings that the options below change (%(default)s)"
    )
    command.add_argument(
        "--output", type=new_folder, required=True, metavar="DIR", help="the folder for best/ and state/"
    )
    add_settings(command, TrainingSettings, show_defaults=False)
    # Run once on each machine, with the same --output on shared storage.
    add_settings(command, RendezvousSettings, renamed={"endpoint": "rendezvous"})

    about = "Train the variants that a TOML file lists and compare them on the validation items; run again, it goes on."
    command = add_command(commands, "sweep", _sweep, about)
    command.add_argument("file", type=Path, metavar="FILE", help="the variants; genrec_core/README.md shows the form")
    add_inputs(command)
    add_catalog(command, "for runs with other texts (the newest)")
    command.add_argument("--workers", type=int, default=1, metavar="N", help="trainings side by side (%(default)s)")
    command.add_argument(
        "--output", type=new_folder, required=True, metavar="DIR", help="the folder for results and the table sweep.md"
    )


def _sample(options: argparse.Namespace) -> None:
    from genrec_core.data.sample import write_sample

    options.output.mkdir(parents=True, exist_ok=True)
    write_sample(options.output, options.users, options.items, options.seed)
    print(f"{options.users} users and {options.items} items: {options.output}", file=sys.stderr)


def _train(options: argparse.Namespace) -> None:
    from genrec_core.evaluation.sweep import preset_training
    from genrec_core.storage.folders import latest

    base = preset_training(options.preset, options.model).model_copy(update={"processes": 1})
    settings = settings_from(options, TrainingSettings, base)
    histories = options.output / "histories.parquet"
    folders = (options.semantic_ids or latest("semantic_ids"), options.embeddings or latest("item_embeddings"))
    if "RANK" in os.environ:
        _train_here(settings, histories, *folders, options)
        return
    rendezvous = settings_from(options, RendezvousSettings)
    options.output.mkdir(parents=True, exist_ok=True)
    _write_histories(options.histories or latest("user_histories"), histories)
    if settings.processes == rendezvous.nodes == 1:
        _train_here(settings, histories, *folders, options)
    else:
        _train_with_torchrun(settings, rendezvous, options, *folders)


def _write_histories(source: Path, target: Path) -> None:
    """Keep the histories that ``source`` holds beside the training, so that all processes read the same."""
    from genrec_core.data.sources import read_user_histories
    from genrec_core.storage.artifacts import atomic_file

    frame = read_user_histories(source)
    with atomic_file(target) as part:
        frame.write_parquet(part)


def _train_here(
    settings: TrainingSettings, histories: Path, semantic_ids: Path, embeddings: Path, options: argparse.Namespace
) -> None:
    """Train in this process, alone or as one of torchrun's."""
    from genrec_core.cores import limit_torch_threads
    from genrec_core.sasrec.bsarec import TRAINERS
    from genrec_core.tiger.distributed import distributed
    from genrec_core.tiger.training import TrainingData, train

    limit_torch_threads()
    trainer = TRAINERS.get(options.model)
    data = TrainingData.load(histories, semantic_ids, embeddings)
    with distributed() as world:
        best = train(data, settings, options.output, world, _show_event, trainer)
        if world.rank == 0:
            print(best)


def _show_event(event: "TrainingEvent") -> None:
    values = {name.replace("_", " "): value for name, value in event.values.items() if name != "epoch"}
    shown = ", ".join([f"{name} {value:,.5g}" for name, value in values.items()] + [event.note] * bool(event.note))
    print(
        f"{event.kind} {event.epoch}: {shown}" if event.kind == "epoch" else f"{event.kind}: {shown}", file=sys.stderr
    )


def _train_with_torchrun(
    settings: TrainingSettings,
    rendezvous: RendezvousSettings,
    options: argparse.Namespace,
    semantic_ids: Path,
    embeddings: Path,
) -> None:
    """Start this command once a process."""
    from genrec_core.tiger.torchrun import run_torchrun, torchrun_command

    changes = [f"--{name}={value}" for name, value in typed_values(options, TrainingSettings).items()]
    program = [
        "-m", "genrec_core.cli", "train",
        "--model", options.model, "--preset", options.preset, *changes,
        "--semantic_ids", str(semantic_ids), "--embeddings", str(embeddings), "--output", str(options.output),
    ]  # fmt: skip
    command, environment = torchrun_command(settings, rendezvous, program)
    code = run_torchrun(command, {**environment, **os.environ})
    if code:
        raise GenrecError(f"torchrun ended with exit code {code}; its messages are above")


def _sweep(options: argparse.Namespace) -> None:
    from genrec_core.evaluation.sweep import TABLE, SweepInputs, read_sweep, run_sweep, trials
    from genrec_core.storage.folders import latest

    if options.workers < 1:
        raise GenrecError(f"--workers {options.workers}: use at least one")
    planned = trials(read_sweep(options.file), options.file)
    own_texts = any(trial.texts for trial in planned)
    catalog = (options.catalog or latest("item_catalog")) if own_texts else None
    options.output.mkdir(parents=True, exist_ok=True)
    histories = options.output / "histories.parquet"
    if not histories.is_file():
        _write_histories(options.histories or latest("user_histories"), histories)
    folders = (options.semantic_ids or latest("semantic_ids"), options.embeddings or latest("item_embeddings"))
    for line in run_sweep(planned, SweepInputs(histories, *folders, catalog), options.output, options.workers):
        print(line, file=sys.stderr)
    print((options.output / TABLE).read_text(encoding="utf-8"), end="")
