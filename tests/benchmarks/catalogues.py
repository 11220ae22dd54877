"""The preset ``auto`` on three generated shops of different kinds, beside SASRec, neighbours and popularity.

The shops have structure that can be learned, each another: `keywords` (texts of a topic's keywords; users stay with
topics; no order), `no_text` (items without a word; what follows is known by the last item), and `repeats` (long
histories of people who buy their staples again). A user's own data goes the same road: `make run`, then the commands.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from genrec_core.data.sample import write_raw
from genrec_core.errors import GenrecError
from genrec_core.evaluation.reading import other_way
from genrec_core.storage.folders import latest
from tests.benchmarks.machine import describe

Shop = tuple[list[list[int]], list[dict[str, object]]]  # 1-based items of each user; products
SHOWN = ("recall@10", "ndcg@10", "recall@100")
RANKINGS = ("generative", "hybrid", "dense", "neighbors", "sasrec", "popularity")


def run(
    kinds: tuple[str, ...] = ("keywords", "no_text", "repeats"), seed: int = 7, work: Path | None = None
) -> dict[str, Any]:
    """Run the graph on each shop, train SASRec on the same split, and measure both on the test items.

    Args:
        kinds: which shops.
        seed: of the shops.
        work: the folder to keep everything in; a temporary one where None.
    """
    with tempfile.TemporaryDirectory() as temporary:
        shops = {kind: _measured(kind, seed, work or Path(temporary)) for kind in kinds}
    return {"benchmark": "catalogues", "shops": shops, **describe()}


def _measured(kind: str, seed: int, work: Path) -> dict[str, Any]:
    if kind not in SHOPS:
        raise GenrecError(f"{kind}: no such shop; choose some of {', '.join(SHOPS)}")
    folder = (work / kind).resolve()
    histories, products = SHOPS[kind](np.random.default_rng(seed))
    write_raw(folder / "raw", histories, products)
    storage = folder / "storage"
    environment = {**os.environ, "GENREC_RAW": str(folder / "raw"), "PRESET": "auto", "GENREC_STORAGE": str(storage)}
    environment["DAGSTER_HOME"] = str(folder / "home")
    _called(environment, "genrec_dagster.run", check=False)  # a gate may fail; what was trained is measured
    checkpoint, baseline = latest("tiger_checkpoint", storage), folder / "sasrec"
    _called(environment, "genrec_core.cli", "train", "--model", "sasrec", "--preset", "auto", "--output", str(baseline))
    shown = _called(
        environment, "genrec_core.cli", "evaluate", "--checkpoint", str(checkpoint), "--baseline",
        str(baseline / "best"), "--json",
    )  # fmt: skip
    metrics = json.loads(shown)
    return {
        "items": metrics["items"],
        "users": metrics["users"],
        "ranking": metrics["ranking"],
        **{name: {metric: metrics[name].get(metric) for metric in SHOWN} for name in RANKINGS if name in metrics},
        "less_sasrec": metrics["against"]["sasrec"]["recall@10"],
        "seen_items": metrics["seen_items"],
        "other_way": metrics[f"{metrics['ranking']}_{other_way(metrics)}"]["recall@10"],
    }


def _called(environment: dict[str, str], module: str, *arguments: str, check: bool = True) -> str:
    ran = subprocess.run(
        [sys.executable, "-m", module, *arguments], env=environment, stdout=subprocess.PIPE, text=True, check=check
    )
    return ran.stdout


def keywords(random: np.random.Generator) -> Shop:
    """3,000 items of 60 topics, each with six of its topic's 30 keywords; users keep to two or three topics."""
    topics, items, users = 60, 3_000, 6_000
    topic = random.integers(0, topics, items)
    words = [[f"t{of}w{random.integers(30)}" for _ in range(6)] for of in topic.tolist()]
    products: list[dict[str, object]] = [
        {"asin": f"K{item}", "title": " ".join(text)} for item, text in enumerate(words)
    ]
    worth = 1 / (1 + random.permutation(items)) ** 0.7
    groups = [np.flatnonzero(topic == of) for of in range(topics)]
    histories = []
    for length in (5 + random.geometric(0.2, users)).tolist():
        own = random.choice(topics, 3, replace=False)
        history: list[int] = []
        while len(history) < length:
            group = groups[random.choice(own, p=[0.6, 0.3, 0.1])]
            item = int(random.choice(group, p=worth[group] / worth[group].sum())) + 1
            if item not in history:
                history.append(item)
            elif random.random() < 0.2:
                own = random.choice(topics, 3, replace=False)
        histories.append(history)
    return histories, products


def no_text(random: np.random.Generator) -> Shop:
    """1,349 items that say nothing; each has four likely successors, and an older item may still be followed."""
    items, users = 1_349, 5_000
    successors, worth = random.integers(0, items, (items, 4)), 1 / (1 + random.permutation(items)) ** 0.8
    worth /= worth.sum()
    histories = []
    for length in (5 + random.geometric(0.2, users)).tolist():
        history = [int(random.choice(items, p=worth))]
        while len(history) < length:
            before = history[-1] if random.random() < 0.8 else history[random.integers(len(history))]
            item = int(random.choice(successors[before], p=[0.4, 0.3, 0.2, 0.1]))
            item = int(random.choice(items, p=worth)) if item in history or random.random() < 0.3 else item
            if item not in history:
                history.append(item)
        histories.append([item + 1 for item in history])
    return histories, [{"asin": f"N{item}"} for item in range(items)]


def repeats(random: np.random.Generator) -> Shop:
    """1,500 groceries; 60 to 300 purchases a person, nearly half of them staples that are bought again in turn."""
    items, users = 1_500, 250
    aisle = random.integers(0, 25, items)
    worth = 1 / (1 + random.permutation(items)) ** 0.9
    worth /= worth.sum()
    histories = []
    for length in random.integers(60, 301, users).tolist():
        staples = random.choice(items, 25, replace=False, p=worth).tolist()
        history: list[int] = []
        for step in range(length):
            kind = random.random()
            if kind < 0.45:
                item = staples[step % len(staples)]
            elif kind < 0.75 and history:
                near = np.flatnonzero(aisle == aisle[history[-1]])
                item = int(random.choice(near, p=worth[near] / worth[near].sum()))
            else:
                item = int(random.choice(items, p=worth))
            history.append(int(item))
        histories.append([item + 1 for item in history])
    products: list[dict[str, object]] = [
        {"asin": f"G{item}", "title": f"Grocery {item}", "categories": [["Grocery", f"Aisle {aisle[item]}"]]}
        for item in range(items)
    ]
    return histories, products


SHOPS: dict[str, Callable[[np.random.Generator], Shop]] = {
    "keywords": keywords, "no_text": no_text, "repeats": repeats,
}  # fmt: skip
