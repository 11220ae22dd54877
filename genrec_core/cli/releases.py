"""``genrec pull`` and ``genrec push``: a release from one storage to another."""

import argparse

from genrec_core.cli.options import Commands, add_command


def add_commands(commands: Commands) -> None:
    """Add ``pull`` and ``push``."""
    about = "Copy the release that another storage serves into GENREC_STORAGE, verified, and serve it here."
    pull = add_command(commands, "pull", _pull, about)
    pull.add_argument("source", metavar="FROM", help="a folder, or s3://bucket/prefix")
    about = "Copy the release that GENREC_STORAGE serves to another storage, verified, and serve it there."
    push = add_command(commands, "push", _push, about)
    push.add_argument("target", metavar="TO", help="a folder, or s3://bucket/prefix")
    for command in (pull, push):
        command.add_argument("--release", metavar="VERSION", help="an earlier release (the one that is served)")


def _pull(options: argparse.Namespace) -> None:
    _transfer(options.source, None, options.release, f"pulled from {options.source}")


def _push(options: argparse.Namespace) -> None:
    _transfer(None, options.target, options.release, f"pushed to {options.target}")


def _transfer(source: str | None, target: str | None, release: str | None, reason: str) -> None:
    from genrec_core.releases.transfer import transfer_release
    from genrec_core.storage.folders import storage_root

    version = transfer_release(storage_root(source), storage_root(target), release, reason)
    print(f"release {version} is whole in {target or storage_root()} and served there")
