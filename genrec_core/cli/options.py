"""What several commands share: options made from settings, options for folders, and the files behind them."""

import argparse
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

from genrec_core.errors import GenrecError
from genrec_core.settings import Form, Settings

Commands = Any  # argparse has no public name for what add_subparsers returns


def add_command(
    commands: Commands, name: str, run: Callable[[argparse.Namespace], None], about: str
) -> argparse.ArgumentParser:
    """Add a subcommand that calls ``run`` with its options."""
    command: argparse.ArgumentParser = commands.add_parser(name, help=about, description=about)
    command.set_defaults(run=run)
    return command


def add_settings(
    command: argparse.ArgumentParser,
    form: type[Settings],
    renamed: Mapping[str, str] | None = None,
    show_defaults: bool = True,
) -> None:
    """Add an option for each field of ``form``; :func:`settings_from` reads the values.

    Args:
        renamed: the option's name by field, where it differs.
        show_defaults: whether the help shows the form's defaults; a preset has others.
    """
    for name, field in form.model_fields.items():
        description = (field.description or "").rstrip(".").replace("%", "%%")
        shown = f" ({field.default})" if show_defaults and field.default is not None else ""
        option = (renamed or {}).get(name, name)
        command.add_argument(f"--{option}", dest=name, help=description + shown, **_values(name, field.annotation))


def _values(name: str, kind: Any) -> dict[str, Any]:
    """How argparse takes the values of a field: one of a few words, a switch, or any text that pydantic checks."""
    if kind in (bool, bool | None):
        return {"nargs": "?", "const": "true", "choices": ("true", "false")}
    words = get_args(kind)
    if words and all(isinstance(word, str) for word in words):
        return {"choices": words}
    return {"metavar": name.rsplit("_", 1)[-1].upper()}


def settings_from(options: argparse.Namespace, form: type[Form], base: Form | None = None, **fixed: Any) -> Form:
    """The settings that the options of :func:`add_settings` name, over ``base`` or the defaults; ``fixed`` wins."""
    from pydantic import ValidationError

    values = base.model_dump() if base else {}
    try:
        return form.model_validate({**values, **typed_values(options, form), **fixed})
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc']))}={fault['input']}: {fault['msg']}" for fault in error.errors()]
        raise GenrecError("; ".join(faults)) from error


def typed_values(options: argparse.Namespace, form: type[Settings]) -> dict[str, Any]:
    """The fields of ``form`` that the command line sets, as they were typed."""
    return {name: value for name in form.model_fields if (value := getattr(options, name, None)) is not None}


def add_inputs(command: argparse.ArgumentParser) -> None:
    """The folders that training, evaluation and export read."""
    command.add_argument("--semantic_ids", type=Path, metavar="DIR", help="semantic IDs (the newest)")
    command.add_argument("--embeddings", type=Path, metavar="DIR", help="item embeddings (the newest)")
    command.add_argument(
        "--histories",
        type=Path,
        metavar="PATH",
        help="user histories: parquet, its folder, or raw files, which are split by order (the newest)",
    )


def add_catalog(command: argparse.ArgumentParser, purpose: str) -> None:
    """The item catalogue."""
    command.add_argument(
        "--catalog", type=Path, metavar="PATH", help=f"item catalogue, {purpose}: a parquet file or its folder"
    )


def new_folder(text: str) -> Path:
    """A folder to write, which may not exist yet. A link to one is followed, so that the link stays."""
    path = Path(text)
    if os.path.exists(path) and not os.path.isdir(path):
        raise argparse.ArgumentTypeError(f"{text}: is no folder; name a new one")
    return path.resolve() if path.is_symlink() else path
