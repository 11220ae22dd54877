"""What a training target costs, and the memory of a training process, as the catalogue grows.

The catalogue is generated, with the same structure at every size: see :func:`catalogue`. Each size is measured in a
process of its own, on one thread, by the processor time that the process itself uses, so that other work on the machine
counts little.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from genrec_core.data.histories import Histories
from genrec_core.embedding.item_embeddings import l2_normalized
from genrec_core.quantization.quantizer import find_codes
from genrec_core.quantization.residual import ResidualQuantizer
from genrec_core.quantization.semantic_ids import suffix_vocabulary, suffixes_of
from genrec_core.settings import PRESETS, SemanticIdSettings
from tests.benchmarks.machine import describe, peak_mb

_TOPIC_ITEMS = 50  # items a topic, about
_GROUP_TOPICS = 20  # topics around one centre
_BRANDS = 256  # vectors that items of all topics share
_NOISE = 0.3  # of an item's own, where group, topic and brand have 1
_NEXT, _TOPIC, _NEAR = 0.5, 0.3, 0.1  # shares of a user's steps: along the chain, in the topic, to a topic of the group
_SHORTEST, _MEAN_LENGTH, _LONGEST = 5, 12.5, 60
_FITTED = 20_000  # items that the codebooks are fitted on


def run(
    items: tuple[int, ...] = (12_101, 100_000, 1_000_000), users: int = 20_000, steps: int = 24, dim: int = 384
) -> dict[str, Any]:
    """Train the model of the preset ``beauty`` for some steps at each size.

    Args:
        items: sizes of the catalogue; the last is compared with the first.
        users: generated users.
        steps: training steps that count, of about 1,024 targets; a quarter as many warm up.
        dim: width of the item vectors.

    Returns:
        ``train_ratio`` (targets a second of the last size over those of the first), ``peak_mb`` of the last size's
        process, then both figures ``by_items``, machine and commit.
    """
    by_items = {str(size): _in_own_process(size, users, steps, dim) for size in items}
    first, last = by_items[str(items[0])], by_items[str(items[-1])]
    return {
        "train_ratio": round(first["ms_a_target"] / last["ms_a_target"], 3),
        "peak_mb": last["peak_mb"],
        "benchmark": "scale",
        "by_items": by_items,
        "users": users,
        "steps": steps,
        **describe(),
    }


def catalogue(items: int, users: int, dim: int = 384, seed: int = 0) -> tuple[Histories, np.ndarray]:
    """Histories of ``users`` and L2-normalised item vectors float32 [items, dim] with structure that can be learned.

    Items belong to topics of about 50, and topics to groups of 20. An item's vector is the sum of its group's, its
    topic's and its brand's, and a little noise. The items of a topic form a ring, and each has a worth (Zipf). From an
    item a user goes to the next one of the ring (half of the steps), to an item of the topic by worth (0.3), to one of
    another topic of the group (0.1), or anywhere. A history holds no item twice.
    """
    random = np.random.default_rng(seed)
    topics = max(2, items // _TOPIC_ITEMS)
    groups = -(-topics // _GROUP_TOPICS)
    starts = np.arange(topics + 1) * items // topics  # items of a topic are neighbours before rows are dealt
    topic = np.repeat(np.arange(topics), np.diff(starts))
    centres = random.standard_normal((groups, dim), dtype=np.float32).repeat(_GROUP_TOPICS, axis=0)[:topics]
    centres += random.standard_normal((topics, dim), dtype=np.float32)
    brands = random.standard_normal((_BRANDS, dim), dtype=np.float32)
    row = random.permutation(items)
    vectors = np.empty((items, dim), dtype=np.float32)
    for begin in range(0, items, 1 << 16):
        part = slice(begin, min(begin + (1 << 16), items))
        noise = np.float32(_NOISE) * random.standard_normal((part.stop - begin, dim), dtype=np.float32)
        own = brands[random.integers(_BRANDS, size=len(noise))] + noise
        vectors[row[part]] = l2_normalized(centres[topic[part]] + own)
    lengths = (_SHORTEST - 1 + random.geometric(1 / (_MEAN_LENGTH - _SHORTEST + 1), users)).clip(max=_LONGEST)
    walked = row[_walk(random, starts, topic, users, int(lengths.max()))]
    return _first_visits(walked, lengths), vectors


def _walk(random: np.random.Generator, starts: np.ndarray, topic: np.ndarray, users: int, steps: int) -> np.ndarray:
    """Places int64 [users, steps] of a catalogue in topic order, as :func:`catalogue` describes."""
    topics = len(starts) - 1
    at = _by_worth(random, starts, random.integers(topics, size=users))
    visited = [at]
    for _ in range(steps - 1):
        own, way = topic[at], random.random(users)
        following = np.where(at + 1 < starts[own + 1], at + 1, starts[own])
        near = (own // _GROUP_TOPICS * _GROUP_TOPICS + random.integers(_GROUP_TOPICS, size=users)) % topics
        chosen = np.select([way < _NEXT + _TOPIC, way < _NEXT + _TOPIC + _NEAR], [own, near], random.integers(topics))
        at = np.where(way < _NEXT, following, _by_worth(random, starts, chosen))
        visited.append(at)
    return np.stack(visited, axis=1)


def _by_worth(random: np.random.Generator, starts: np.ndarray, topic: np.ndarray) -> np.ndarray:
    """A place in each topic; the chance of the k-th is about 1 / k."""
    size = starts[topic + 1] - starts[topic]
    return np.asarray(starts[topic] + (size ** random.random(len(topic))).astype(np.int64) % size)


def _first_visits(walked: np.ndarray, lengths: np.ndarray) -> Histories:
    """The first ``lengths`` items of each line of catalogue rows, each item once."""
    user, step = np.nonzero(np.arange(walked.shape[1]) < lengths[:, None])
    rows = walked[user, step]
    _, first = np.unique(user * (walked.max() + 1) + rows, return_index=True)
    kept = np.sort(first)
    offsets = np.concatenate([[0], np.bincount(user[kept], minlength=len(walked)).cumsum()])
    return Histories([str(one) for one in range(len(walked))], rows[kept].astype(np.int32), offsets)


def codes_of(vectors: np.ndarray, settings: SemanticIdSettings) -> tuple[np.ndarray, tuple[int, ...]]:
    """Semantic IDs int32 [items, levels + 1] by codebooks fitted on a sample, and the vocabulary by level."""
    sample = np.random.default_rng(0).permutation(len(vectors))[:_FITTED]
    quantizer = ResidualQuantizer.fit(vectors[np.sort(sample)], settings)
    codes = find_codes(quantizer, vectors)
    suffixes = suffixes_of(codes)
    return np.column_stack([codes, suffixes]), (*quantizer.sizes, suffix_vocabulary(int(suffixes.max())))


def _in_own_process(items: int, users: int, steps: int, dim: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        _called(f"write_data(Path({folder!r}), {items}, {users}, {dim})")
        found: dict[str, Any] = json.loads(_called(f"print(json.dumps(train_steps(Path({folder!r}), {steps})))"))
    return found


def _called(work: str) -> str:
    program = f"import json\nfrom pathlib import Path\nfrom tests.benchmarks.scale import *\n{work}"
    return subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True).stdout


def write_data(folder: Path, items: int, users: int, dim: int) -> None:
    """Write what a training reads; the training process then maps the vectors as the graph's does."""
    histories, vectors = catalogue(items, users, dim)
    codes, sizes = codes_of(vectors, PRESETS["beauty"].semantic_ids)
    for name, array in (("rows", histories.rows), ("offsets", histories.offsets), ("codes", codes)):
        np.save(folder / f"{name}.npy", array)
    np.save(folder / "vectors.npy", vectors)
    np.save(folder / "sizes.npy", sizes)


def train_steps(folder: Path, steps: int, **changes: Any) -> dict[str, Any]:
    """Milliseconds of processor time a target over ``steps`` training steps, and this process's peak memory."""
    import torch

    from genrec_core.tiger.distributed import World
    from genrec_core.tiger.training import Trainer, TrainingData, epoch_batches

    torch.set_num_threads(1)
    rows, offsets, codes, sizes = (np.load(folder / f"{name}.npy") for name in ("rows", "offsets", "codes", "sizes"))
    vectors = np.load(folder / "vectors.npy", mmap_mode="c")
    histories = Histories([str(user) for user in range(len(offsets) - 1)], rows, offsets)
    data = TrainingData(histories, codes, tuple(sizes.tolist()), vectors)
    # Neighbours lift items when lists are searched and take no part in a step.
    changes = {"neighbors": 0, "distillation_start": 0.0, **changes}
    settings = PRESETS["beauty"].training.model_copy(update=changes)
    trainer = Trainer(data, settings, folder / "training", World(0, 1, torch.device("cpu")), lambda event: None)
    trainer.model.train()
    batches = epoch_batches(trainer.sequences, trainer.batch_targets, settings.seed, 0)
    warm_up, random = max(1, steps // 4), np.random.default_rng(0)
    targets, began = 0, 0.0
    for number in range(warm_up + steps):
        if number == warm_up:
            targets, began = 0, time.process_time()
        batch = batches[number % len(batches)]
        targets += (size := int((trainer.sequences.lengths[batch] - 1).sum()))
        trainer._step(batch, size, random)
    milliseconds = 1000 * (time.process_time() - began) / targets
    return {"ms_a_target": round(milliseconds, 3), "peak_mb": round(peak_mb()), "targets": targets}
