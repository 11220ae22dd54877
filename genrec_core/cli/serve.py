"""``genrec serve``: the online server."""

import argparse
from pathlib import Path

from genrec_core.cli.options import Commands, add_command, add_settings, settings_from
from genrec_core.settings import ServingSettings


def add_commands(commands: Commands) -> None:
    """Add ``serve``."""
    about = "Answer requests over HTTP with an exported model: POST /predictions/mymodel; reload on SIGHUP."
    command = add_command(commands, "serve", _serve, about)
    command.add_argument(
        "--model_dir", type=Path, metavar="DIR", help="an exported model, or a link to it (the served release)"
    )
    command.add_argument("--token_file", type=Path, metavar="FILE", help="what clients must send (GENREC_TOKEN)")
    add_settings(command, ServingSettings)


def _serve(options: argparse.Namespace) -> None:
    from genrec_core.serving.process import read_token, serve

    serve(options.model_dir, settings_from(options, ServingSettings), read_token(options.token_file))
