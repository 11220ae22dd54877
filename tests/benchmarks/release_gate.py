"""How often the gate of releases holds back a model that is as good: trainings of one recipe that differ in their seed.

    python tests/benchmarks/release_gate.py MODEL MODEL ... --histories FILE [--margins 0.02 0.05] [--users 100 500]

Every exported model challenges every other one, on users drawn several times, and on all of them once. One JSON object
comes out: by number of users and margin, how often which outcome was given, and half the width of the interval as a
share of the figure. As no model is better than another in truth, `worse` and `cannot tell` are false refusals.
"""

import argparse
import json
from collections import Counter
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from genrec_core.evaluation.metrics import JUDGED
from genrec_core.evaluation.release_comparison import Comparison, ValidationUsers
from genrec_core.settings import ReleaseSettings


def main() -> None:
    """Print the JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+", metavar="MODEL", help="exported models, two at least")
    parser.add_argument("--histories", type=Path, required=True, metavar="FILE", help="parquet of user_histories")
    parser.add_argument("--margins", type=float, nargs="+", default=[0.02, 0.05])
    parser.add_argument("--users", type=int, nargs="+", default=[100, 500, 2000], help="beside all of them")
    parser.add_argument("--draws", type=int, default=20, help="draws of so many users")
    options = parser.parse_args()
    settings = ReleaseSettings()
    users = ValidationUsers.drawn(options.models[0], pl.read_parquet(options.histories), settings)
    ranks = [users.ranks(model) for model in options.models]
    figures = [users.compare(of, of).champion for of in ranks]
    found: dict[str, Any] = {"models": [{name: figure[name] for name in JUDGED} for figure in figures], "users": {}}
    for count in [*(count for count in options.users if count < len(users.targets)), len(users.targets)]:
        draws = options.draws if count < len(users.targets) else 1
        compared = comparisons(users, ranks, count, draws)
        found["users"][count] = {
            "comparisons": len(compared),
            "half_width_share": {name: half_width(compared, name) for name in JUDGED},
            "outcomes": {
                str(margin): dict(Counter(of.outcome(margin) for of in compared)) for margin in options.margins
            },
        }
    print(json.dumps(found))


def comparisons(users: ValidationUsers, ranks: list[np.ndarray], count: int, draws: int) -> list[Comparison]:
    """Every model against every other one on ``count`` users, drawn ``draws`` times."""
    random = np.random.default_rng(0)
    found = []
    for _ in range(draws):
        drawn = random.permutation(len(users.targets))[:count]
        some = replace(users, past=[], targets=users.targets[drawn], users=users.users[drawn])
        found += [some.compare(theirs[drawn], ours[drawn]) for theirs, ours in permutations(ranks, 2)]
    return found


def half_width(compared: list[Comparison], name: str) -> float:
    """Half the mean width of the intervals of a metric, as a share of the champion's figure."""
    widths = [of.differences[name]["high"] - of.differences[name]["low"] for of in compared]
    return float(np.mean(widths) / 2 / np.mean([of.champion[name] for of in compared]))


if __name__ == "__main__":
    main()
