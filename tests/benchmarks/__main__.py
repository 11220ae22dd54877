"""Run benchmarks: ``python -m tests.benchmarks NAME [--OPTION VALUE ...]``; without a name, the usual ones in turn.

A benchmark is a module here with a function ``run`` whose arguments are its options. It returns its figures as one JSON
object, which is the last line of the output. ``--save`` also writes it to ``results/NAME.json``.
"""

import argparse
import importlib
import inspect
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from genrec_core.errors import GenrecError

MODULES = {
    "graph": "graph",
    "train": "training",
    "decode": "decoding",
    "server": "server",
    "trie": "trie",
    "predict": "prediction",
    "explain": "explanation",
    "cluster": "cluster",
    "capacity": "capacity",
    "gpu": "gpu",
    "catalogues": "catalogues",
    "tables": "tables",
    "embed": "text_precision",
    "neighbors": "neighbors",
    "scale": "scale",
    "large_graph": "large_graph",
    "untrained": "untrained",
}
USUAL = ("graph", "train", "decode", "server", "trie")
RESULTS = Path(__file__).parent / "results"


def main(arguments: Sequence[str]) -> int:
    """Run one benchmark in this process, or the usual ones in turn, each in its own; 0 if all gave figures."""
    if not arguments:
        codes = [subprocess.call([sys.executable, "-m", "tests.benchmarks", name]) for name in USUAL]
        return max(codes)
    name, *rest = arguments
    if name not in MODULES:
        print(f"{name}: no such benchmark; choose one of {', '.join(MODULES)}", file=sys.stderr)
        return 2
    module = importlib.import_module(f"tests.benchmarks.{MODULES[name]}")
    options = vars(_parser(name, module.run).parse_args(rest))
    save = options.pop("save")
    try:
        figures = module.run(**options)
    except GenrecError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    as_text = getattr(module, "as_markdown", lambda figures: "\n".join(flat(figures)))
    print(as_text(figures), json.dumps(figures), sep="\n")
    if save:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 1 if figures.get("failed") else 0


def _parser(name: str, run: Callable[..., Any]) -> argparse.ArgumentParser:
    """A parser with an option for each argument of ``run``; its docstring explains them."""
    parser = argparse.ArgumentParser(
        f"tests.benchmarks {name}", description=run.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--save", action="store_true", help=f"also write results/{name}.json")
    for option, parameter in inspect.signature(run).parameters.items():
        default = parameter.default
        if isinstance(default, tuple):
            kind, count = type(default[0]) if default else str, "+"
        else:
            kind, count = Path if default is None else type(default), None
        parser.add_argument(f"--{option}", type=whole if kind is int else kind, nargs=count, default=default)
    return parser


def whole(text: str) -> int:
    """A whole number from 1 on, also as 1e9."""
    number = float(text)
    if number < 1 or not number.is_integer():
        raise argparse.ArgumentTypeError(f"{text}: give a whole number from 1 on, such as 5000 or 1e6")
    return int(number)


def flat(figures: dict[str, Any], prefix: str = "") -> list[str]:
    """Nested figures as lines ``name.name: value``."""
    lines: list[str] = []
    for name, value in figures.items():
        lines += flat(value, f"{prefix}{name}.") if isinstance(value, dict) else [f"{prefix}{name}: {value}"]
    return lines


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
