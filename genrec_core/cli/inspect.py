"""``genrec inspect``: what the project would understand of data, before any run."""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from genrec_core.cli.options import Commands, add_command

_SHOWN = ("users", "items", "interactions", "items_without_meta", "share_of_repeats", "share_of_ties", "events")


def add_commands(commands: Commands) -> None:
    """Add ``inspect``."""
    about = "Show what raw_beauty would understand of data: columns, what is left out, and the texts of items."
    command = add_command(commands, "inspect", _inspect, about)
    command.add_argument("place", metavar="PATH", help="folder, file, archive, URL or s3:// prefix, as for GENREC_RAW")
    command.add_argument(
        "--settings", metavar="JSON", help='as in GENREC_SETTINGS: \'{"data": {"columns": {"user": "buyer"}}}\''
    )


def _inspect(options: argparse.Namespace) -> None:
    from genrec_core.data.sources import inspected, sentence
    from genrec_core.settings import changed_preset, preset_from_environment

    preset = changed_preset(preset_from_environment()[1], options.settings or "{}")
    facts, texts = inspected(options.place, preset.data, _print_table)
    for column in facts["columns"]:
        if column["table"].startswith("items"):
            print(f"item column {column['column']}: {column['taken for']}")
    print(sentence(facts))
    _print_table(facts["cleaning"])
    for name in filter(facts.__contains__, _SHOWN):
        print(f"{name.replace('_', ' ')}: {facts[name]}")
    print("texts of items:", *texts, sep="\n  ")


def _print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Columns side by side, as wide as their widest cell."""
    if not rows:
        return
    lines = [[*rows[0]], *([str(cell) for cell in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    print()
