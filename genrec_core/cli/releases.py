"""``genrec pull`` and ``genrec push``: a release from one storage to another."""

import argparse

from genrec_core.cli.options import Commands, add_command


def add_commands(commands: Commands) -> None:
    """Add ``pull`` and ``push``."""
    about = "Copy the release that another storage serves into GENREC_STORAGE, verified, and serve it here."
    pull = add_command(commands, "pull", _transfer, about)
    pull.add_argument("source", metavar="FROM", help="a folder, or s3://bucket/prefix")
    pull.set_defaults(target=None)
    about = "Copy the release that GENREC_STORAGE serves to another storage, verified, and serve it there."
    push = add_command(commands, "push", _transfer, about)
    push.add_argument("target", metavar="TO", help="a folder, or s3://bucket/prefix")
    push.set_defaults(source=None)
    for command in (pull, push):
        command.add_argument("--release", metavar="VERSION", help="an earlier release (the one that is served)")


def _transfer(options: argparse.Namespace) -> None:
    from genrec_core.releases.transfer import transfer_release
    from genrec_core.storage.folders import storage_root

    source, target = storage_root(options.source), storage_root(options.target)
    reason = f"pulled from {options.source}" if options.source else f"pushed to {options.target}"
    version = transfer_release(source, target, options.release, reason)
    print(f"release {version} is whole in {options.target or target} and served there")
