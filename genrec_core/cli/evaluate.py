"""``genrec evaluate``: the test metrics of the newest model, or of any checkpoint."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genrec_core.cli.options import Commands, add_command, add_inputs, add_settings, new_folder, settings_from
from genrec_core.errors import GenrecError
from genrec_core.settings import EvaluationSettings

if TYPE_CHECKING:
    from genrec_core.evaluation.evaluate import Evaluation


def add_commands(commands: Commands) -> None:
    """Add ``evaluate``."""
    about = "Show the test metrics of the newest model, or measure a checkpoint."
    command = add_command(commands, "evaluate", _evaluate, about)
    command.add_argument("--metrics_dir", type=Path, metavar="DIR", help="a folder of metrics (the newest)")
    command.add_argument("--json", action="store_true", help="print the whole of beauty_metrics.json")
    command.add_argument("--checkpoint", type=Path, metavar="DIR", help="measure this trained model, TIGER or SASRec")
    measure = command.add_argument_group("with --checkpoint")
    add_inputs(command)
    measure.add_argument("--split", choices=("test", "validation"), default="test", help="items to predict (test)")
    measure.add_argument("--output", type=new_folder, metavar="DIR", help="keep metrics and plots here")
    add_settings(command, EvaluationSettings)


def _evaluate(options: argparse.Namespace) -> None:
    from genrec_core.storage.artifacts import read_json
    from genrec_core.storage.folders import latest

    evaluation = _measured(options) if options.checkpoint else None
    if evaluation:
        metrics = evaluation.metrics
    else:
        metrics = read_json((options.metrics_dir or latest("recall_metrics")) / "beauty_metrics.json")
    print(json.dumps(metrics, indent=2) if options.json else metrics_table(metrics))
    if evaluation and options.output:
        from genrec_core.evaluation.pages.report import write_metrics

        write_metrics(options.output, evaluation)  # once they are shown, as it may fail


def _measured(options: argparse.Namespace) -> "Evaluation":
    """The evaluation of ``--checkpoint``."""
    from genrec_core.data.histories import Histories
    from genrec_core.data.sources import read_user_histories
    from genrec_core.embedding.item_embeddings import ItemEmbeddings
    from genrec_core.evaluation.checkpoints import open_checkpoint
    from genrec_core.evaluation.evaluate import evaluate
    from genrec_core.evaluation.pages.report import require_room_for_metrics
    from genrec_core.quantization.semantic_ids import SemanticIds
    from genrec_core.storage.folders import latest
    from genrec_core.tiger.scorer import one_thread_an_operator

    settings = settings_from(options, EvaluationSettings)
    if options.output:
        require_room_for_metrics(options.output)  # before the minutes that measuring takes
    ids = SemanticIds.load(options.semantic_ids or latest("semantic_ids"))
    embeddings = ItemEmbeddings.load(options.embeddings or latest("item_embeddings"))
    if embeddings.item_ids.tolist() != ids.item_ids.tolist():
        raise GenrecError("--semantic_ids and --embeddings hold different items; give those of one catalogue")
    histories = Histories.from_frame(read_user_histories(options.histories or latest("user_histories")), ids.item_ids)
    model = open_checkpoint(options.checkpoint, ids.codes, embeddings.l2norm)
    baseline = open_checkpoint(Path(settings.baseline), ids.codes, embeddings.l2norm) if settings.baseline else None
    with one_thread_an_operator():
        return evaluate(
            model.scorer, ids, histories, settings, model.max_history, model.weights,
            split=options.split, baseline=baseline.scorer if baseline else None,
        )  # fmt: skip


def metrics_table(metrics: dict[str, Any]) -> str:
    """The metrics of each ranking mode side by side, in plain text."""
    from genrec_core.evaluation.evaluate import RANKINGS

    modes = [mode for mode in RANKINGS if mode in metrics]
    names = [name for name, value in metrics[modes[0]].items() if isinstance(value, int | float)]
    rows = [[str(metrics.get("split", "test")), *modes]]
    for name in names:
        rows.append([name, *(_cell(metrics[mode].get(name)) for mode in modes)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, f"{metrics['users']} users, {metrics['beams']} beams"])


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
