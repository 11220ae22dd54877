"""How long a large shop's tables take from Parquet to catalogue and histories, and how much memory."""

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tests.benchmarks.machine import describe, peak_mb

_WORDS = np.array(["red", "blue", "soft", "hard", "large", "small", "tea", "cup", "table", "lamp"])
_PARTS = 5
ASSETS = ("raw_beauty", "item_catalog", "user_histories")


def run(interactions: int = 10_000_000, users: int = 1_000_000, items: int = 300_000) -> dict[str, Any]:
    """Materialise the first three assets on a generated shop with text ids, and tell seconds by asset and peak memory.

    Popularity falls with the square root of the item's place; times are in milliseconds and in no order.
    """
    with tempfile.TemporaryDirectory(prefix="genrec-tables-") as scratch:
        folder = Path(scratch)
        write_shop(folder / "shop", interactions, users, items)
        seconds = _materialised(folder)
    return {
        "interactions": interactions,
        "users": users,
        "items": items,
        "seconds": seconds,
        "total_seconds": round(sum(seconds.values()), 1),
        "peak_mb": round(peak_mb()),
        **describe(),
    }


def write_shop(folder: Path, interactions: int, users: int, items: int) -> None:
    """Write ``interactions/`` in parts and ``items.parquet``."""
    random = np.random.default_rng(0)
    (folder / "interactions").mkdir(parents=True)
    for part in range(_PARTS):
        rows = interactions // _PARTS
        bought = {
            "user": random.integers(0, users, rows),
            "item": (items * random.random(rows) ** 2).astype(np.int64),
            "timestamp": random.integers(1_500_000_000_000, 1_600_000_000_000, rows),
        }
        ids = [pl.format("user-{}", "user").alias("user_id"), pl.format("sku-{}", "item").alias("item_id"), "timestamp"]
        pl.DataFrame(bought).select(ids).write_parquet(folder / "interactions" / f"{part}.parquet")
    titles = [" ".join(words) for words in _WORDS[random.integers(0, len(_WORDS), (items, 4))]]
    listed = {"item_id": [f"sku-{item}" for item in range(items)], "title": titles, "price": random.random(items) * 50}
    pl.DataFrame(listed).write_parquet(folder / "items.parquet")


def _materialised(folder: Path) -> dict[str, float]:
    os.environ |= {"GENREC_RAW": str(folder / "shop"), "GENREC_STORAGE": str(folder / "storage")}
    import dagster as dg

    from genrec_dagster.definitions import defs  # reads the environment

    job = defs.resolve_job_def("full_graph")
    keys = [dg.AssetKey(name) for name in ASSETS]
    with dg.DagsterInstance.ephemeral() as instance:
        result = job.execute_in_process(instance=instance, asset_selection=keys)
        steps = {name: instance.get_run_step_stats(result.run_id, [name])[0] for name in ASSETS}
    return {name: round((step.end_time or 0) - (step.start_time or 0), 1) for name, step in steps.items()}
