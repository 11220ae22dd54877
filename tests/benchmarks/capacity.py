"""What a catalogue and a number of users take: bytes, core-hours, machines, and what breaks first.

Everything is a measured cost of one unit (:mod:`tests.benchmarks.unit_costs`) times how many there are. Nothing
of that size was run.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from genrec_core.quantization.residual import FIT_ROWS
from genrec_core.settings import PRESETS
from genrec_core.storage.folders import latest
from tests.benchmarks.machine import describe
from tests.benchmarks.unit_costs import DIM, UnitCost, measure

_VALUE_BYTES, _ID_BYTES = 4, 8


@dataclass(frozen=True)
class Scale:
    """What is planned.

    Args:
        items: of the catalogue.
        users: who get predictions, and whose histories are trained on.
        deadline_hours: within which each piece of work has to be done.
        cores: of a machine.
        memory_gb: of a machine.
    """

    items: int
    users: int
    deadline_hours: float
    cores: int
    memory_gb: float


def run(
    items: int = 10**8,
    users: int = 10**9,
    deadline_hours: float = 24,
    cores: int = 16,
    memory_gb: float = 64,
    model_dir: Path | None = None,
    top_k: int = 100,
) -> dict[str, Any]:
    """Measure the unit costs and work out the scale.

    Args:
        items, users, deadline_hours, cores, memory_gb: see :class:`Scale`.
        model_dir: an exported model of the sizes that are planned; the newest ``onnx_encoder`` where None.
        top_k: items a user.

    Returns:
        ``work`` (core-hours and machines), ``bytes``, ``breaks`` (what does not go that far, and what the code does
        there), ``unit_costs`` with where each comes from, machine, commit.

    Raises:
        GenrecError: there is no model.
    """
    costs = measure(model_dir or latest("onnx_encoder"), top_k)
    scale = Scale(items, users, deadline_hours, cores, memory_gb)
    return {
        "work": work_of(costs, scale),
        "bytes": bytes_of(costs, scale),
        "breaks": breaks_of(costs, scale),
        "benchmark": "capacity",
        "scale": asdict(scale),
        "unit_costs": {name: asdict(cost) for name, cost in costs.items()},
        **describe(),
    }


def work_of(costs: Mapping[str, UnitCost], scale: Scale) -> list[dict[str, Any]]:
    """Core-hours of each piece of work, and the machines that do it in time."""
    targets = scale.users * max(0.0, costs["history_items"].value - 2)
    epochs = PRESETS["beauty"].training.epochs_of(round(targets))
    targets *= epochs
    seconds = {
        "embed the texts": (scale.items, "embed_s", True),
        "find the codes": (scale.items, "codes_s", True),
        "fit the codebooks (k-means)": (min(scale.items, FIT_ROWS), "kmeans_s", True),
        "find the nearest texts": (scale.items, "nearest_s", False),
        "count the suffixes": (scale.items, "suffix_s", False),
        "build the trie": (scale.items, "trie_s", False),
        f"train {epochs} epochs, sampled softmax": (targets, "target_s", True),
        "decode a list a user, generative": (scale.users, "decode_s", True),
        "write the predictions as CSV": (scale.users, "write_s", True),
    }
    a_unit = {name: cost.value for name, cost in costs.items()}
    a_unit["target_s"] += scale.items * costs["target_item_s"].value
    return [
        _machines({"work": name, "units": count, "core_seconds_a_unit": a_unit[cost]}, scale, shared)
        for name, (count, cost, shared) in seconds.items()
    ]


def _machines(row: dict[str, Any], scale: Scale, shared: bool) -> dict[str, Any]:
    """The row with its core-hours, and machines where the work can be shared; one core for as long as it takes else."""
    core_hours = row["units"] * row["core_seconds_a_unit"] / 3600
    machines = math.ceil(core_hours / scale.deadline_hours / scale.cores) if shared else None
    return {**row, "core_hours": core_hours, "machines": machines}


def bytes_of(costs: Mapping[str, UnitCost], scale: Scale) -> list[dict[str, Any]]:
    """Bytes of what is stored and what is held in memory."""
    training, items, users = PRESETS["beauty"].training, scale.items, scale.users
    views = training.content_views + training.id_views
    interactions = users * costs["history_items"].value
    stored = {
        "text vectors, raw and normalised (stored)": 2 * items * DIM * _VALUE_BYTES,
        "codes, 4 levels and the suffix (stored)": items * 5 * _VALUE_BYTES,
        "histories (stored, an id an item)": interactions * _ID_BYTES,
        "predictions as CSV (stored)": users * costs["csv_bytes"].value,
        "trie (memory of each decoding process)": items * costs["trie_bytes"].value,
        "what the exported encoder reads of items (shared by processes)": items * costs["item_vectors_bytes"].value / 2,
        "dense keys of the exported model (shared by processes)": items * costs["item_keys_bytes"].value / 2,
        "learned vectors and one moment each (memory of each training process)": (
            items * (training.d_model + 1) * views * _VALUE_BYTES
        ),
    }
    return [{"what": name, "bytes": count} for name, count in stored.items()]


def breaks_of(costs: Mapping[str, UnitCost], scale: Scale) -> list[dict[str, Any]]:
    """What does not go that far as it is, what it would take, and what the code does or which setting avoids it."""
    settings, items = PRESETS["beauty"], scale.items
    training, ids = settings.training, settings.semantic_ids
    codes = math.prod(ids.sizes(items))
    memory = scale.memory_gb * 1e9
    pairs = scale.users * costs["history_items"].value * 2 * ids.collaborative_window * 2 * _ID_BYTES
    vectors = items * DIM * _VALUE_BYTES
    learned = items * (training.d_model + 1) * (training.content_views + training.id_views) * _VALUE_BYTES
    found = [
        (
            items > codes, f"codes of {ids.levels} x {ids.codebook_size}", f"{items / codes:.1f} items a code",
            f"the preset auto takes {len(PRESETS['auto'].semantic_ids.sizes(items))} levels, beauty 3",
        ),
        (
            items > training.dense_full_items, "full softmax of the dense head in training",
            f"{_size(training.batch_of(items) * items * _VALUE_BYTES)} of logits a step and view",
            f"training samples {training.dense_negatives} items above dense_full_items = {training.dense_full_items}",
        ),
        (
            learned > memory, "learned vectors of items", f"{_size(learned)} in every training process",
            "nothing by itself, they are not divided among processes: set learn_item_vectors to false, id_views to 0",
        ),
        (
            vectors > memory, "text vectors in training", f"{_size(vectors)} mapped by every process",
            "what does not fit is read from disk again: set use_item_vectors to false",
        ),
        (
            pairs > memory, "what is bought together, counted in one process", f"{_size(pairs)} of pairs",
            "nothing by itself: set collaborative_weight to 0",
        ),
        (
            vectors > memory, "k-means, whose every rank maps all vectors", f"{_size(vectors)} on each one's disk",
            "torchrun's ranks divide the rows; or fit on a part of the catalogue, and assign-ids gives the rest codes",
        ),
    ]  # fmt: skip
    return [{"what": what, "takes": takes, "then": then} for broken, what, takes, then in found if broken]


def as_markdown(figures: Mapping[str, Any]) -> str:
    """Four tables."""
    scale, machine = figures["scale"], figures["machine"]
    work = [
        (row["work"], *(f"{row[name]:.3g}" for name in ("units", "core_seconds_a_unit")), f"{row['core_hours']:,.1f}",
         _count(row))
        for row in figures["work"]
    ]  # fmt: skip
    stored = [(row["what"], _size(row["bytes"])) for row in figures["bytes"]]
    breaks = [(row["what"], row["takes"], row["then"]) for row in figures["breaks"]]
    measured = figures["unit_costs"].items()
    costs = [(name, f"{cost['value']:.3g} {cost['unit']}", cost["source"]) for name, cost in measured]
    machines = f"machines of {scale['cores']} cores within {scale['deadline_hours']:g} h"
    return "\n\n".join(
        [
            f"{scale['items']:.3g} items, {scale['users']:.3g} users. Worked out from costs measured on one thread of "
            f"{machine['cpu']} (commit {figures['commit']}, load average {machine['load_average']}); nothing of this "
            "size was run.",
            _table(("work", "units", "core-seconds a unit", "core-hours", machines), work),
            _table(("bytes", ""), stored),
            _table(("what breaks", "it would take", "what the code does, or what to set"), breaks),
            _table(("unit cost", "measured", "on"), costs),
        ]
    )


def _count(row: Mapping[str, Any]) -> str:
    return "one core, that long" if row["machines"] is None else f"{row['machines']:,}"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---" for _ in header], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _size(count: float) -> str:
    """Bytes as people write them."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} PB"
