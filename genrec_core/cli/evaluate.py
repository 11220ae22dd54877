"""``genrec evaluate``: the test metrics of the newest model, or of any checkpoint."""

import argparse
import json
from pathlib import Path
from typing import Any

from genrec_core.cli.options import Commands, add_command, add_inputs, add_settings, new_folder, settings_from
from genrec_core.settings import EvaluationSettings


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

    if options.checkpoint:
        metrics = _measured(options)
    else:
        metrics = read_json((options.metrics_dir or latest("recall_metrics")) / "beauty_metrics.json")
    print(json.dumps(metrics, indent=2) if options.json else metrics_table(metrics))
    if options.checkpoint and options.output:
        from genrec_core.evaluation.pages.metrics import write_metrics

        write_metrics(options.output, metrics)  # once they are shown, as it may fail


def _measured(options: argparse.Namespace) -> dict[str, Any]:
    """The metrics of ``--checkpoint``."""
    from genrec_core.data.sources import read_user_histories
    from genrec_core.evaluation.evaluate import evaluate_checkpoint
    from genrec_core.evaluation.pages.metrics import require_room_for_metrics
    from genrec_core.storage.folders import latest

    settings = settings_from(options, EvaluationSettings)
    if options.output:
        require_room_for_metrics(options.output)  # before the minutes that measuring takes
    return evaluate_checkpoint(
        options.checkpoint,
        options.semantic_ids or latest("semantic_ids"),
        options.embeddings or latest("item_embeddings"),
        read_user_histories(options.histories or latest("user_histories")),
        settings,
        split=options.split,
    )


def metrics_table(metrics: dict[str, Any]) -> str:
    """The metrics of each ranking mode side by side, in plain text."""
    from genrec_core.evaluation.evaluate import RANKINGS
    from genrec_core.evaluation.reading import other_way, seen_choice

    modes = [mode for mode in RANKINGS if mode in metrics]
    other = [metrics.get(f"{mode}_{other_way(metrics)}", {}).get("recall@10") for mode in modes]
    rows = [[str(metrics.get("split", "test")), *modes]]
    for name, value in metrics[modes[0]].items():
        if isinstance(value, float):
            rows.append([name, *(f"{metrics[mode][name]:.4f}" if name in metrics[mode] else "" for mode in modes)])
    rows.append([f"recall@10, {other_way(metrics)}", *("" if value is None else f"{value:.4f}" for value in other)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += [f"{metrics['users']} users, {metrics['beams']} beams"]
    return "\n".join([*lines, seen_choice(metrics["seen_items"])] if "seen_items" in metrics else lines)
