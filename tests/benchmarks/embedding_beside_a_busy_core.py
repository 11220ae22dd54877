"""How long texts take to embed, alone and beside another busy process; prints one JSON object as its last line.

    python tests/benchmarks/embedding_beside_a_busy_core.py [--texts 1000] [--turns 3]

Compared are ``threads_share_a_batch`` (every operator waits for its slowest thread) and ``a_batch_a_thread``, which is
how texts are embedded. The texts are Amazon Beauty's where GENREC_TEST_BEAUTY names its folder, else made up.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from genrec_core.data.sources import read_catalog
from genrec_core.embedding.text import embed_texts
from genrec_core.engines.engine import Engine
from genrec_core.settings import CatalogSettings, EmbeddingSettings

FORMS: dict[str, Engine | None] = {"threads_share_a_batch": Engine(), "a_batch_a_thread": None}
_TEXT = "Title: Nail Lacquer, Shimmer 0.5 oz {}; Brand: OPI; Categories: Beauty > Nails > Polish; Price: 8.50;"


def measure(texts: Sequence[str], turns: int) -> dict[str, Any]:
    """Seconds of each form, idle and beside one busy core, measured in turns.

    Args:
        texts: what is embedded.
        turns: readings of each.

    Returns:
        By form ``idle_s`` and ``busy_s`` (median, least and most), and ``ratio`` of the medians; the largest
        difference between the vectors of the two forms.
    """
    seconds: dict[tuple[str, bool], list[float]] = {(form, busy): [] for form in FORMS for busy in (False, True)}
    vectors = {form: embed_texts(texts[:64], EmbeddingSettings(), engine=engine) for form, engine in FORMS.items()}
    for _ in range(turns):
        for form, busy in seconds:
            with busy_core(busy):
                began = time.monotonic()
                vectors[form] = embed_texts(texts, EmbeddingSettings(), engine=FORMS[form])
                seconds[form, busy].append(time.monotonic() - began)
            print(f"{form}, {'busy' if busy else 'idle'}: {seconds[form, busy][-1]:.2f} s", file=sys.stderr)
    result: dict[str, Any] = {"texts": len(texts), "turns": turns, "threads": torch.get_num_threads()}
    for form in FORMS:
        idle, busy_s = seconds[form, False], seconds[form, True]
        ratio = statistics.median(busy_s) / statistics.median(idle)
        result[form] = {"idle_s": _spread(idle), "busy_s": _spread(busy_s), "ratio": round(ratio, 2)}
    first, second = vectors.values()
    return {**result, "largest_difference": float(np.abs(first - second).max())}


@contextmanager
def busy_core(wanted: bool = True) -> Iterator[None]:
    """Keep one core busy with another process for the time of the block, if ``wanted``."""
    if not wanted:
        yield
        return
    loop = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        loop.kill()
        loop.wait()


def _spread(values: list[float]) -> dict[str, float]:
    chosen = {"median": statistics.median(values), "least": min(values), "most": max(values)}
    return {name: round(value, 3) for name, value in chosen.items()}


def benchmark_texts(count: int) -> list[str]:
    """At most ``count`` texts of Amazon Beauty, or so many that are made up."""
    beauty = os.environ.get("GENREC_TEST_BEAUTY")
    if not beauty:
        return [_TEXT.format(number) for number in range(count)]
    return read_catalog(Path(beauty), CatalogSettings())["text"].to_list()[:count]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=1000, help="texts embedded a reading")
    parser.add_argument("--turns", type=int, default=3, help="readings of each")
    arguments = parser.parse_args()
    print(json.dumps(measure(benchmark_texts(arguments.texts), arguments.turns)))


if __name__ == "__main__":
    main()
