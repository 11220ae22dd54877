"""Run the benchmarks one after the other, never side by side, and print their figures as Markdown.

    python tests/benchmarks/run.py [NAME ...] [--append RESULTS.md]

Each one is ``genrec bench NAME --json`` in a process of its own, so that its peak memory is its own.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

NAMES = ("graph", "train", "decode", "server", "trie")
Row = tuple[str, str, str]


def main() -> int:
    """Run what was asked for; the exit code is 1 where a benchmark failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all where none is named")
    parser.add_argument("--append", type=Path, metavar="FILE", help="also add the figures at the end of FILE")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(NAMES):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; choose of {', '.join(NAMES)}")
    results = [measure(name) for name in arguments.names or NAMES]
    measured = [result for result in results if result is not None]
    if measured:
        section = as_markdown(measured, datetime.now(UTC))
        print(section)
        if arguments.append:
            with arguments.append.open("a", encoding="utf-8") as file:
                file.write(f"\n{section}")
    return 0 if len(measured) == len(results) else 1


def measure(name: str) -> dict[str, Any] | None:
    """The JSON object that one benchmark prints; None where it failed, after its own error went to the screen."""
    print(f"{name} ...", file=sys.stderr, flush=True)
    command = [str(Path(sys.executable).with_name("genrec")), "bench", name, "--json"]
    finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if finished.returncode:
        print(f"{name}: `{' '.join(command[1:])}` ended with {finished.returncode}", file=sys.stderr)
        return None
    result: dict[str, Any] = json.loads(finished.stdout)
    return result


def as_markdown(results: list[dict[str, Any]], when: datetime) -> str:
    """One section: the machine and versions, then a table with a line for each figure."""
    machine, versions = results[0]["machine"], results[0]["versions"]
    lines = [
        f"## {when:%Y-%m-%d %H:%M} UTC, commit {results[0]['commit']}",
        "",
        f"Machine: {machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB, load average "
        f"{machine['load_average']} at the start; {', '.join(f'{name} {value}' for name, value in versions.items())}.",
        "",
        "| benchmark | figure | value |",
        "|---|---|---|",
        *(f"| {name} | {figure} | {value} |" for result in results for name, figure, value in rows(result)),
    ]
    return "\n".join(lines) + "\n"


def rows(result: dict[str, Any]) -> Iterator[Row]:
    """The lines of one benchmark."""
    name = result["benchmark"]
    if name == "graph":
        for asset, seconds in result["asset_seconds"].items():
            yield name, f"{asset}, seconds", f"{seconds:.1f}"
        yield name, f"run {result['run_id']}, {result['status']}, commit", str(result.get("commit"))
    elif name == "training":
        where = f"preset {result['preset']}, {result['processes']} process, {result['threads']} threads"
        yield name, f"targets a second ({where})", with_spread(result["targets_per_second"])
        yield name, "the same, the original's way", with_spread(result["original_targets_per_second"])
        yield name, "ratio to the original's way", f"{result['ratio_original']:.1f}"
        share = f"{result['limit_share']:.0%} of {result['matrix_gflops']:.0f} GFLOP/s"
        yield name, "share of the machine's matrix rate", share
    elif name == "trie":
        yield name, "bytes an item", f"{result['bytes_per_item']}"
        yield name, "seconds to build", f"{result['build_s']}"
        yield name, "step, largest over smallest catalogue", with_spread(result["ten_children_a_prefix"]["step_ratio"])
        yield name, "the same with random 3 x 256 codes", with_spread(result["random_3x256"]["step_ratio"])
    elif name == "server":
        asked = f"{result['clients']} clients, top {result['top_k']}, {result['histories']}"
        yield name, f"users a second ({asked})", f"{result['users_per_s']}"
        yield name, "the same model in batches, before and after", with_spread(result["batch_users_per_s"])
        yield name, "share of that", f"{result['share_of_batch']:.0%}"
        yield name, "p50, p99, ms", f"{result['p50_ms']}, {result['p99_ms']}"
        yield name, "errors", f"{result['errors']}"
        yield name, "start to first answer, seconds", f"{result['first_answer_s']}"
    else:
        yield name, "histories", result["histories"]
        for items, times in result["single_ms_spread"].items():
            plain = f"{result['ratio_uncached'][items]} x a first version without a cache"
            yield name, f"one user, top {items}, ms", f"{with_spread(times)}; {plain}"
        yield name, "top 128 of 256 beams, against the original's way", f"{result['ratio_original']} x"
        yield name, "top 100 in batches, against transformers' generate", f"{result['ratio_generate']} x"
        for beams, rate in result["users_per_second"].items():
            yield name, f"users a second, {beams} beams ({result['threads']} threads)", with_spread(rate)
            share = f"{result['limit_share'][beams]:.0%} of {result['matrix_gflops']:.0f} GFLOP/s"
            yield name, f"the same, share of the machine's matrix rate, {beams} beams", share
    peak = result["peak_mb"]
    yield name, "peak memory, MB", str(max(peak.values()) if isinstance(peak, dict) else peak)


def with_spread(rate: dict[str, Any]) -> str:
    """``median (least to most of N)``."""
    return f"{rate['median']:,} ({rate['least']:,} to {rate['most']:,} of {rate['repeats']})"


if __name__ == "__main__":
    sys.exit(main())
