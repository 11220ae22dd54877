"""The parts of the benchmark ``gpu``; ``python -m tests.benchmarks.gpu_parts PART JOB`` prints each figure as JSON."""

import json
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from genrec_core.data.histories import Histories, padded
from genrec_core.data.split import validation_part
from genrec_core.quantization.residual import ResidualQuantizer
from genrec_core.search.generative import beam_search
from genrec_core.settings import PRESETS, TrainingSettings
from genrec_core.tiger.distributed import World
from genrec_core.tiger.losses import NextItemLoss
from genrec_core.tiger.training import Trainer, TrainingData, TrainingEvent, epoch_batches, train
from tests.benchmarks.training import VECTOR_DIM, random_codes
from tests.benchmarks.workload import random_histories

CPU = torch.device("cpu")
Figures = dict[str, Any]
PRESET = PRESETS["beauty-gpu"]
WANTED = {"fp32": 1e-4, "bf16": 2e-2}  # largest relative difference from the CPU
_VALIDATION_USERS = 1000  # the search on the CPU is not what is measured
_TESTS = ("tests/core/quantization", "tests/core/sasrec", "tests/core/tiger")


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    users: int  # of random data
    items: int
    same_targets: int  # of the batch that is compared with the CPU
    search_users: int
    warm_up: int  # steps before those that count
    steps: int
    cpu_steps: int
    million_steps: int


FULL = Sizes(22_363, 12_101, 2048, 256, 20, 48, 6, 200)
DRY = Sizes(60, 80, 60, 8, 1, 2, 1, 3)
_SMALL = {"d_model": 16, "heads": 2, "d_ff": 32, "batch_targets": 64, "validation_users": 8, "validation_beams": 10}


@dataclass(frozen=True)
class Job:
    """What the part was told."""

    artifacts: str | None
    device: str
    epochs: int
    items: int

    @property
    def on(self) -> torch.device:
        """The device that is checked; like the library's own, CUDA has its number."""
        return CPU if self.device == "cpu" else torch.device("cuda", 0)

    @property
    def sizes(self) -> Sizes:
        """Few for a dry run."""
        return DRY if self.device == "cpu" else FULL

    @property
    def preset(self) -> TrainingSettings:
        """The training of ``beauty-gpu``; small in a dry run."""
        return PRESET.training.model_copy(update=_SMALL if self.device == "cpu" else {})

    @cached_property
    def data(self) -> TrainingData:
        """The artefacts, or random data of Beauty's shapes."""
        if self.artifacts:
            root = Path(self.artifacts)
            folders = (root / "semantic_ids", root / "item_embeddings")
            return TrainingData.load(root / "user_histories.parquet", *folders)
        return random_data(random_histories(self.sizes.users, self.sizes.items, seed=0), self.sizes.items)


def random_data(histories: Histories, items: int) -> TrainingData:
    """Random codes and vectors for these histories."""
    codes, level_sizes = random_codes(PRESET.semantic_ids, items, seed=0)
    vectors = np.random.default_rng(0).standard_normal((items, VECTOR_DIM), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return TrainingData(histories, codes, level_sizes, vectors)


def measured(name: str, work: Callable[[], Figures]) -> None:
    """Print the figures of ``work``, or its error, under ``name``."""
    began = time.perf_counter()
    try:
        figures = work()
    except Exception as error:
        traceback.print_exc()
        figures = {"error": f"{type(error).__name__}: {error}"[:600]}
    figures["seconds"] = round(time.perf_counter() - began, 2)
    print(json.dumps({name: figures}), flush=True)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


# --- the same results -------------------------------------------------------------------------------------------------


def same(job: Job) -> None:
    """Network, losses, gradients and search on the device against the CPU, after a few steps on the device."""
    changes: dict[str, dict[str, Any]] = {
        "full": {},
        "sampled": {"dense_full_items": 0},
        "codes_alone": {"dense_weight": 0.0, "id_views": 0, "distillation": 0.0},
    }
    for name, change in changes.items():
        measured(name, partial(_same, job, change))
    measured("search", partial(_same_search, job))


def _same(job: Job, change: dict[str, Any]) -> Figures:
    """Relative differences of logits, loss and gradients from the CPU's, in float32 and in bf16."""
    there, here = _pair(job, change)
    pieces = _some_pieces(there, job.sizes.same_targets)
    expected = _results(here, pieces, torch.float32)
    figures: Figures = {"targets": int((there.sequences.lengths[pieces] - 1).sum())}
    for precision, kind in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        found = _results(there, pieces, kind)
        figures[precision] = {name: _difference(found[name], expected[name]) for name in expected}
        figures[f"{precision}_ok"] = max(figures[precision].values()) < WANTED[precision]
        figures[f"{precision}_worst_gradients"] = _worst_gradients(there, here)
    if job.device != "cpu" and not figures["fp32_ok"]:
        figures["error"] = f"float32 differs by more than {WANTED['fp32']} from the CPU"
    return figures


def _pair(job: Job, change: dict[str, Any]) -> tuple[Trainer, Trainer]:
    """Trainers on the device and on the CPU, with the same weights, trained a little."""
    settings = job.preset.model_copy(update={"distillation_start": 0.0, "amp": "fp32", **change})
    there, here = trainer(job.data, settings, job.on), trainer(job.data, settings, CPU)
    timed_steps(there, 0, job.sizes.warm_up)
    here.model.load_state_dict(there.model.state_dict())
    for either in (there, here):
        either.objective.eval()  # no dropout
    return there, here


def _some_pieces(trained: Trainer, targets: int) -> np.ndarray:
    """The first pieces of a batch, until they have so many targets."""
    batch = epoch_batches(trained.sequences, trained.batch_targets, 0, 0)[0]
    ends = (trained.sequences.lengths[batch] - 1).cumsum()
    return batch[: max(1, int(np.searchsorted(ends, targets)))]


def _results(one: Trainer, pieces: np.ndarray, kind: torch.dtype) -> dict[str, Tensor]:
    """Logits of all levels, loss and gradients of one batch, on the CPU in float64."""
    rows = torch.from_numpy(one.sequences.padded(pieces)).to(one.world.device)
    history, following = rows[:, :-1].clamp(min=0), rows[:, 1:]
    objective = one.objective
    assert isinstance(objective, NextItemLoss)
    one.optimizer.zero_grad()
    mixed = partial(torch.autocast, rows.device.type, kind, enabled=kind != torch.float32)
    with mixed(), _same_candidates():
        loss = objective(history, following, following, one.settings.distillation)
    loss.backward()
    gradients = [own.grad.to_dense().flatten() for own in one.model.parameters() if own.grad is not None]
    with mixed(), torch.no_grad():
        model, codes = objective.model, objective.codes[following.clamp(min=0)]
        items = model.item_encoder(history, objective.codes[history], objective.vectors[history])
        memory = model.encode(items)
        logits = model.decode(memory, model.dense.queries(memory, items), codes)
    kept = (following >= 0).unsqueeze(-1)
    found = {
        "logits": torch.cat([(level * kept).flatten().float() for level in logits]),
        "loss": loss.detach().reshape(1),
        "gradients": torch.cat(gradients),
    }
    return {name: value.double().cpu() for name, value in found.items()}


def _same_candidates() -> Any:
    """Let the sampled loss draw its items on the CPU, so that every device draws the same."""

    def randint(low: int, high: int, size: tuple[int, ...], device: torch.device) -> Tensor:
        drawn = np.random.default_rng(0).integers(low, high, size)
        return torch.from_numpy(drawn).to(device)

    return patch("genrec_core.tiger.losses.torch.randint", randint)


def _difference(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def _worst_gradients(there: Trainer, here: Trainer) -> dict[str, float]:
    """The parameters with the largest relative difference, among those with a gradient that counts."""
    pairs = {
        name: (parameter.grad.to_dense().double().cpu(), own.grad.to_dense().double())
        for (name, parameter), own in zip(there.model.named_parameters(), here.model.parameters(), strict=True)
        if parameter.grad is not None and own.grad is not None
    }
    least = 1e-3 * max(float(expected.norm()) for _, expected in pairs.values())
    differences = {name: _difference(*pair) for name, pair in pairs.items() if float(pair[1].norm()) > least}
    return dict(sorted(differences.items(), key=lambda entry: -entry[1])[:3])


def _same_search(job: Job) -> Figures:
    """Lists of the beam search over both models, and the users a second."""
    there, here = _pair(job, {})
    held_out = validation_part(job.data.histories).take(np.arange(job.sizes.search_users))
    histories = padded([held_out.histories.of(user) for user in range(job.sizes.search_users)], 50)
    figures: Figures = {}
    scorers = [one._scorer(one.model) for one in (there, here)]
    for weight in (0.0, 0.5, 1.0):
        ranked, seconds = [], []
        for scorer in scorers:
            beam_search(scorer, there.trie, histories, beams=20, top_k=10, dense_weight=weight)
            began = time.perf_counter()
            ranked.append(beam_search(scorer, there.trie, histories, beams=20, top_k=10, dense_weight=weight))
            seconds.append(time.perf_counter() - began)
        figures[f"dense_weight_{weight}"] = {
            "equal_items": float((ranked[0].items == ranked[1].items).mean()),
            "largest_difference": float(np.abs(ranked[0].scores - ranked[1].scores).max()),
            "users_per_second": round(job.sizes.search_users / seconds[0], 1),
            "users_per_second_cpu": round(job.sizes.search_users / seconds[1], 1),
        }
    return figures


# --- trainings --------------------------------------------------------------------------------------------------------


def trainer(data: TrainingData, settings: TrainingSettings, device: torch.device) -> Trainer:
    """A fresh training; nothing is written."""
    return Trainer(
        data, settings, Path(tempfile.gettempdir()) / "no-such-training", World(0, 1, device), lambda _: None
    )


def timed_steps(one: Trainer, warm_up: int, steps: int) -> Figures:
    """Rate of ``steps`` optimiser steps after ``warm_up`` ones, and the largest memory of the device."""
    random, batches = np.random.default_rng(0), _endless_batches(one)
    one.model.train()
    _reset_peak(one.world.device)
    began = time.perf_counter()
    _take_steps(one, batches, warm_up, random)
    middle = time.perf_counter()
    targets, loss = _take_steps(one, batches, steps, random)
    seconds = time.perf_counter() - middle
    return {
        "targets_per_s": round(targets / seconds, 1),
        "ms_a_step": round(1000 * seconds / steps, 2),
        "warm_up_s": round(middle - began, 2),
        "steps": steps,
        "loss": round(loss, 3),
        **_peak(one.world.device),
    }


def _endless_batches(one: Trainer) -> Iterator[np.ndarray]:
    for epoch in count():
        yield from epoch_batches(one.sequences, one.batch_targets, one.settings.seed, epoch)


def _take_steps(
    one: Trainer, batches: Iterator[np.ndarray], steps: int, random: np.random.Generator
) -> tuple[int, float]:
    """The targets of some steps and their mean loss; returns when the device is done."""
    all_targets, total = 0, torch.zeros((), dtype=torch.float64, device=one.world.device)
    for _ in range(steps):
        batch = next(batches)
        targets = int((one.sequences.lengths[batch] - 1).sum())
        total += one._step(batch, targets, random)
        all_targets += targets
    return all_targets, float(total) / max(all_targets, 1)  # float() waits for the device


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()


def _peak(device: torch.device) -> dict[str, float]:
    if device.type != "cuda":
        return {}
    allocated, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    return {"peak_gb": round(allocated / 1e9, 3), "peak_reserved_gb": round(reserved / 1e9, 3)}


def training(job: Job) -> None:
    """Some epochs of ``beauty-gpu``."""
    measured("beauty-gpu", partial(_training, job))


def _training(job: Job) -> Figures:
    users = min(job.preset.validation_users, _VALIDATION_USERS)
    settings = job.preset.model_copy(update={"epochs": job.epochs, "validation_users": users})
    epochs_seen: list[dict[str, float]] = []
    figures: Figures = {"validation_users": users, "epochs": epochs_seen}

    def listen(event: TrainingEvent) -> None:
        print(event, flush=True)
        if event.kind == "epoch":
            epochs_seen.append(dict(event.values))
        elif event.kind in ("start", "end"):
            figures[event.kind] = dict(event.values)

    _reset_peak(job.on)
    with tempfile.TemporaryDirectory() as folder:
        train(job.data, settings, Path(folder) / "training", World(0, 1, job.on), listen)
    return figures | _peak(job.on)


def rates(job: Job) -> None:
    """Targets a second by precision, attention and batch size, beside the CPU's."""
    for name, size in ((name, size) for name in ("fp32", "bf16", "fp16") for size in (1024, 8192, 32768)):
        measured(f"{name}_batch_{size}", partial(_rate, job, job.on, {"amp": name, "batch_targets": size}))
    measured("cpu", partial(_rate, job, CPU, {}))
    measured("profile", partial(_profile, job))


def _rate(job: Job, device: torch.device, change: dict[str, Any]) -> Figures:
    settings = job.preset.model_copy(update={"distillation_start": 0.0, **change})
    one, sizes = trainer(job.data, settings, device), job.sizes
    if device == CPU:
        return timed_steps(one, 1, sizes.cpu_steps) | {"threads": torch.get_num_threads()}
    return timed_steps(one, sizes.warm_up, sizes.steps)


def _profile(job: Job) -> Figures:
    """What a step of bf16 spends its time on; the table is printed."""
    from torch.profiler import ProfilerActivity, profile

    one = trainer(job.data, job.preset.model_copy(update={"distillation_start": 0.0}), job.on)
    timed_steps(one, 0, job.sizes.warm_up)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        figures = timed_steps(one, 0, 5)
    events = profiled.key_averages()
    print(events.table(sort_by="self_device_time_total", row_limit=25, max_name_column_width=70), flush=True)
    launches = sum(event.count for event in events if "LaunchKernel" in event.key)
    busy = sum(event.self_device_time_total for event in events if "CUDA" in str(event.device_type))
    return {"device_ms_a_step": round(busy / 5000, 2), "ms_a_step": figures["ms_a_step"], "launches": launches / 5}


# --- many items -------------------------------------------------------------------------------------------------------


def million(job: Job) -> None:
    """Steps of the same model on a large catalogue, with and without distillation."""
    began = time.perf_counter()
    steps = job.sizes.million_steps
    data = random_data(_spread_histories(steps * job.preset.batch_of(job.items) // 6, job.items), job.items)
    print(f"data: {time.perf_counter() - began:.1f} s", flush=True)
    for name, change, some in (("as_preset", {}, steps), ("without_distillation", {"distillation": 0.0}, steps // 4)):
        measured(name, partial(_many, job, data, change, max(some, 1)))


def _many(job: Job, data: TrainingData, change: dict[str, Any], steps: int) -> Figures:
    settings = job.preset.model_copy(update={"distillation_start": 0.0, "neighbors": 0, **change})
    began = time.perf_counter()
    one = trainer(data, settings, job.on)
    built = round(time.perf_counter() - began, 1)
    return timed_steps(one, 2, steps) | {"build_s": built, "parameters": one.model.num_parameters()}


def _spread_histories(users: int, items: int) -> Histories:
    """Random histories of nine items; every item is as likely as the others."""
    rows = np.random.default_rng(0).integers(0, items, 9 * users, dtype=np.int32)
    return Histories([str(user) for user in range(users)], rows, np.arange(0, 9 * users + 1, 9))


# --- the quantiser, and tests -----------------------------------------------------------------------------------------


def quantizer(job: Job) -> None:
    """The residual k-means on the device against the CPU."""
    measured("kmeans", partial(_quantizers, job))


def _quantizers(job: Job) -> Figures:
    settings = PRESET.semantic_ids
    if len(job.data.vectors) < 2 * max(settings.sizes(len(job.data.vectors))):
        settings = settings.model_copy(update={"codebook_size": 16})
    vectors, fitted, figures = np.array(job.data.vectors), [], dict[str, Any]()
    torch.ones(8, 8, device=job.on).matmul(torch.ones(8, 8, device=job.on))  # the first product sets the device up
    for name, visible in (("device", job.device != "cpu"), ("cpu", False)):
        with patch("torch.cuda.is_available", return_value=visible):
            began = time.perf_counter()
            fitted.append(ResidualQuantizer.fit(vectors, settings))
            figures[f"{name}_s"] = round(time.perf_counter() - began, 2)
    codes = [quantizer.encode(vectors) for quantizer in fitted]
    errors = [fit.errors_by_level(vectors, own)[-1] for fit, own in zip(fitted, codes, strict=True)]
    figures["equal_codes_by_level"] = [round(share, 4) for share in (codes[0] == codes[1]).mean(axis=0).tolist()]
    figures["error_ratio"] = errors[0] / errors[1]
    return figures


def tests(job: Job) -> None:
    """The default tests of model, losses and k-means, which take the GPU where there is one."""
    measured("pytest", _pytest)


def _pytest() -> Figures:
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "--maxfail=20", "-p", "no:cacheprovider"]
    with subprocess.Popen([*command, *_TESTS], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        last = ""
        for last in process.stdout:
            print(last, end="", flush=True)
    figures = {"last_line": last.strip(), "code": process.returncode}
    return figures | ({"error": "tests failed"} if process.returncode else {})


Part = Callable[[Job], None]
_PARTS: dict[str, Part] = {
    "same": same,
    "train": training,
    "rates": rates,
    "million": million,
    "quantizer": quantizer,
    "tests": tests,
}

if __name__ == "__main__":
    _PARTS[sys.argv[1]](Job(**json.loads(sys.argv[2])))
