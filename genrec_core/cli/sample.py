"""``genrec sample``: a small synthetic shop to try everything on."""

import argparse
import sys

from genrec_core.cli.options import Commands, add_command, new_folder


def add_commands(commands: Commands) -> None:
    """Add ``sample``."""
    command = add_command(commands, "sample", _sample, "Write the synthetic sample shop in the raw form.")
    command.add_argument("--output", type=new_folder, required=True, metavar="DIR", help="the folder to write")
    command.add_argument("--users", type=int, default=5000, metavar="N", help="users (%(default)s)")
    command.add_argument("--items", type=int, default=2000, metavar="N", help="items (%(default)s)")
    command.add_argument("--seed", type=int, default=7, metavar="N", help="seed (%(default)s)")


def _sample(options: argparse.Namespace) -> None:
    from genrec_core.data.sample import write_sample

    options.output.mkdir(parents=True, exist_ok=True)
    write_sample(options.output, options.users, options.items, options.seed)
    print(f"{options.users} users and {options.items} items: {options.output}", file=sys.stderr)
