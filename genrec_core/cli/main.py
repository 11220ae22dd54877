"""The ``genrec`` command: its parser, its errors and its exit codes."""

import argparse
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from genrec_core.cli import demo, evaluate, explain, export, inspect, items, predict, releases, train
from genrec_core.errors import GenrecError

_FAILED, _INTERRUPTED = 2, 130
_EXTRA = {"boto3": "s3", "tokenizers": "text", "fastapi": "serve", "uvicorn": "serve", "prometheus_client": "serve"}
_OPTIONAL = {
    *("polars", "torch", "transformers", "sentence_transformers", "safetensors", "onnx", "onnxscript"),
    *("matplotlib", "jinja2", *_EXTRA),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; the exit code is 0, 2 for a user's error, 130 when interrupted."""
    typed = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args([_with_underscores(argument) for argument in typed])
    signal.signal(signal.SIGTERM, _stop)
    try:
        options.run(options)
    except GenrecError as error:
        return _fail(str(error))
    except ModuleNotFoundError as error:
        if error.name not in _OPTIONAL:
            raise
        return _fail(f"{error.name} is not installed; run pip install 'genrec[{_EXTRA.get(error.name, 'train')}]'")
    except KeyboardInterrupt:
        print("genrec: interrupted", file=sys.stderr)
        return _INTERRUPTED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="genrec",
        description="Generative retrieval: semantic IDs, a TIGER model, constrained decoding.",
        epilog="Options may be written with hyphens or with underscores: --batch-users is --batch_users.",
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for group in (demo, inspect, predict, explain, items, evaluate, train, export, releases):
        group.add_commands(commands)
    return parser


def _with_underscores(argument: str) -> str:
    """An option's name with underscores, as the parser knows it; anything else as it is."""
    if not argument.startswith("--") or argument == "--":
        return argument
    name, equals, value = argument.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value


def _stop(number: int, frame: FrameType | None) -> None:
    """End on SIGTERM as on an exception, so that half-written files are removed."""
    sys.exit(128 + number)


def _fail(reason: str) -> int:
    print(f"genrec: error: {' '.join(reason.split())}", file=sys.stderr)
    return _FAILED
