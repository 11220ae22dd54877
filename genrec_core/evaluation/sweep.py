"""Trains variants of a preset and compares them on the validation items. The test items are never read.

A sweep is a TOML file with the fields of :class:`Sweep`, and those of :class:`Run` for each variant. README.md of
genrec_core shows one. Run again, a sweep skips the trials that are done and continues a training after its last epoch.
"""

import hashlib
import json
import multiprocessing
import re
import time
import tomllib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import polars as pl
from pydantic import Field, ValidationError

from genrec_core.data.ids import id_array
from genrec_core.data.item_text import ItemFields, render_text
from genrec_core.data.sources import read_stored_catalog
from genrec_core.data.text_files import utf8_text
from genrec_core.errors import GenrecError
from genrec_core.evaluation.metrics import MAIN_METRIC, SHOWN_FIRST
from genrec_core.settings import (
    BASELINES,
    PRESETS,
    CatalogSettings,
    EmbeddingSettings,
    EvaluationSettings,
    RankingMode,
    SemanticIdSettings,
    Settings,
    TrainingSettings,
)
from genrec_core.storage.artifacts import read_json, recovered, write_json

RESULT, TABLE = "result.json", "sweep.md"
_MODES = get_args(RankingMode)
AnySettings = TypeVar("AnySettings", bound=Settings)


class Run(Settings):
    """One variant."""

    name: str = Field(min_length=1, description="Name of the variant in the table.")
    model: Literal["tiger", "sasrec", "bsarec"] = Field("tiger", description="Model that is trained.")
    set: dict[str, Any] = Field(default_factory=dict, description="Training settings that differ.")
    semantic_ids: dict[str, Any] = Field(default_factory=dict, description="Semantic ID settings that differ.")
    catalog: dict[str, Any] = Field(default_factory=dict, description="Settings of the item texts that differ.")
    embedding: dict[str, Any] = Field(default_factory=dict, description="Settings of the text embeddings that differ.")
    seeds: list[int] | None = Field(None, min_length=1, description="Training seeds of this run alone.")


class Sweep(Settings):
    """The content of a sweep file."""

    preset: str = Field("beauty", description="Preset whose settings each run starts from.")
    seeds: list[int] = Field(default=[42], min_length=1, description="Training seeds of each run.")
    set: dict[str, Any] = Field(default_factory=dict, description="Training settings of all runs.")
    evaluation: EvaluationSettings = EvaluationSettings(users=3000, beams=100)
    run: list[Run] = Field(min_length=1, description="The runs; the others are compared with the first.")


@dataclass(frozen=True)
class SweepInputs:
    """The data of all runs; a run may make semantic IDs and embeddings of its own."""

    histories: Path  # the parquet file of user_histories
    semantic_ids: Path
    embeddings: Path
    catalog: Path | None = None  # item_catalog's parquet file or folder, needed if a run changes item texts or vectors


@dataclass(frozen=True)
class Trial:
    """One run with one seed; it takes semantic IDs and texts of the inputs where it has no settings for its own."""

    run: Run
    settings: TrainingSettings
    evaluation: EvaluationSettings
    semantic_ids: SemanticIdSettings | None
    texts: tuple[CatalogSettings, EmbeddingSettings] | None

    @property
    def folder(self) -> str:
        """The run's name, the seed, and a hash of all settings."""
        parts = [self.settings, self.evaluation, self.semantic_ids, *(self.texts or ())]
        content = [self.run.model_dump_json(exclude={"seeds", "catalog", "embedding"})]
        content += [settings.model_dump_json() for settings in parts if settings]
        digest = hashlib.sha256("\n".join(content).encode()).hexdigest()[:10]
        name = re.sub(r"[^a-z0-9]+", "-", self.run.name.lower()).strip("-")
        return f"{name}-{self.settings.seed}-{digest}"


def read_sweep(path: Path) -> Sweep:
    """Read and check a sweep file."""
    try:
        sweep = Sweep.model_validate(tomllib.loads(utf8_text(path)))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise GenrecError(f"{path}: cannot be read as TOML ({error})") from error
    except ValidationError as error:
        raise GenrecError(f"{path}: {_faults(error)}") from error
    names = [run.name for run in sweep.run]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise GenrecError(f"{path}: two runs are called {repeated!r}; give each run its own name")
    return sweep


def trials(sweep: Sweep, path: Path) -> list[Trial]:
    """Each run with each of its seeds; an error names ``path`` and the run."""
    planned = []
    for run in sweep.run:
        try:
            planned += [_trial(sweep, run, seed) for seed in run.seeds or sweep.seeds]
        except (ValidationError, GenrecError) as error:
            reason = _faults(error) if isinstance(error, ValidationError) else error
            raise GenrecError(f"{path}: run {run.name!r}: {reason}") from error
    return planned


def _trial(sweep: Sweep, run: Run, seed: int) -> Trial:
    training, changes = preset_training(sweep.preset, run.model), {**sweep.set, **run.set}
    for name in ("processes", "threads_per_process"):
        if name in changes:
            raise GenrecError(f"{name} is given, but a sweep trains in one process of one thread; use --workers")
    settings, preset = _changed(training, {**changes, "seed": seed}), PRESETS[sweep.preset]
    own_ids = run.semantic_ids or run.catalog or run.embedding
    ids = _changed(preset.semantic_ids, run.semantic_ids) if own_ids else None
    texts = None
    if run.catalog or run.embedding:
        texts = _changed(preset.catalog, run.catalog), _changed(preset.embedding, run.embedding)
    return Trial(run, settings, sweep.evaluation, ids, texts)


def preset_training(preset: str, model: str) -> TrainingSettings:
    """The training settings of a preset for ``tiger`` or a baseline."""
    of_model = {name: each.training for name, each in PRESETS.items()} if model == "tiger" else BASELINES[model]
    if preset not in of_model:
        raise GenrecError(f"preset {preset}: no such preset of {model}; choose one of {', '.join(of_model)}")
    return of_model[preset]


def _changed(settings: AnySettings, changes: dict[str, Any]) -> AnySettings:
    return type(settings).model_validate({**settings.model_dump(), **changes})


def _faults(error: ValidationError) -> str:
    return "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())


def run_sweep(planned: list[Trial], inputs: SweepInputs, output: Path, workers: int) -> Iterator[str]:
    """Train and measure the trials that are not done, ``workers`` of them side by side with one thread each.

    Yields a line for each trial when it is done. At the end, ``sweep.md`` holds the table of all trials.
    """
    for trial in planned:
        if trial.texts:
            _item_texts(inputs, trial.texts[0])  # names a fault of the catalogue before anything is trained
    left = [trial for trial in planned if not (output / trial.folder / RESULT).is_file()]
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        running = [pool.submit(run_trial, trial, inputs, output / trial.folder) for trial in left]
        try:
            for future in as_completed(running):
                yield _summary(future.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    results = [read_json(output / trial.folder / RESULT) for trial in planned]
    (output / TABLE).write_text(sweep_table(results) + "\n", encoding="utf-8")


def run_trial(trial: Trial, inputs: SweepInputs, folder: Path) -> dict[str, Any]:
    """Train one trial or continue its training, measure it on the validation items, and write the result."""
    import torch

    from genrec_core.evaluation.evaluate import evaluate_checkpoint
    from genrec_core.sasrec.bsarec import TRAINERS
    from genrec_core.tiger.distributed import World
    from genrec_core.tiger.training import TrainingData, train

    torch.set_num_threads(1)
    embeddings = _embeddings(trial, inputs, folder)
    semantic_ids = _semantic_ids(trial, inputs, folder, embeddings)
    data = TrainingData.load(inputs.histories, semantic_ids, embeddings)
    world = World(0, 1, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    trainer = TRAINERS.get(trial.run.model)
    best = train(data, trial.settings, folder / "training", world, trainer=trainer)
    histories = pl.read_parquet(inputs.histories)
    metrics = evaluate_checkpoint(best, semantic_ids, embeddings, histories, trial.evaluation, split="validation")
    history = read_json(best / "training_history.json")
    result = {
        "run": trial.run.name,
        "seed": trial.settings.seed,
        "epochs": len(history["epochs"]),
        "training_seconds": history["seconds"],
        "metrics": metrics,
    }
    write_json(folder / RESULT, result)
    return result


def _embeddings(trial: Trial, inputs: SweepInputs, folder: Path) -> Path:
    """The folder of the trial's item embeddings, computed if it has texts or vectors of its own."""
    from genrec_core.embedding.item_embeddings import write_item_embeddings
    from genrec_core.embedding.text import embed_texts

    if not trial.texts:
        return inputs.embeddings
    catalog, settings = trial.texts
    embeddings = folder / "item_embeddings"
    if not recovered(embeddings).is_dir():
        item_ids, texts, fields = _item_texts(inputs, catalog)
        began = time.perf_counter()
        vectors = embed_texts(texts, settings)
        seconds = time.perf_counter() - began
        write_item_embeddings(embeddings, item_ids, texts, vectors, settings.model, seconds, settings, fields)
    return embeddings


def _semantic_ids(trial: Trial, inputs: SweepInputs, folder: Path, embeddings: Path) -> Path:
    """The folder of the trial's semantic IDs, computed if it has vectors or semantic ID settings of its own."""
    from genrec_core.quantization.build import build_semantic_ids

    if not trial.semantic_ids:
        return inputs.semantic_ids
    semantic_ids = folder / "semantic_ids"
    if not recovered(semantic_ids).is_dir():
        histories = pl.read_parquet(inputs.histories)
        build_semantic_ids(embeddings, trial.semantic_ids, semantic_ids, histories=histories)
    return semantic_ids


def _item_texts(inputs: SweepInputs, settings: CatalogSettings) -> tuple[np.ndarray, list[str], ItemFields]:
    """Ids int64 or text [n_items] and texts of all items of the catalogue, and the fields they are made of."""
    assert inputs.catalog is not None
    items = read_stored_catalog(inputs.catalog)
    if "item_id" not in items.columns:
        raise GenrecError(f"{inputs.catalog}: has no column item_id; give the parquet file of item_catalog")
    fields = ItemFields.of_catalog(items).with_template(settings.text_template)
    try:
        parts = fields.parts()
    except GenrecError as error:
        raise GenrecError(f"{inputs.catalog}: {error}") from error
    texts = [render_text(parts, item) or f"Item: {item['item_id']};" for item in items.iter_rows(named=True)]
    return id_array(items["item_id"], inputs.catalog), texts, fields


def sweep_table(results: list[dict[str, Any]]) -> str:
    """The results as a Markdown table, one line for each run and ranking mode.

    A line shows mean and standard deviation over seeds, and by which share Recall@10 differs from the first run's.
    """
    head = ["run", "ranking", "seeds", *SHOWN_FIRST, "Recall@10 against the first", "seconds"]
    rows = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    lines: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for result in results:
        for mode in _MODES:
            if mode in result["metrics"]:
                metrics = {**result["metrics"][mode], "seconds": result["training_seconds"]}
                lines.setdefault((result["run"], mode), []).append(metrics)
    first: dict[str, float] = {}
    for (run, mode), seeds in lines.items():
        values = [_mean_and_spread([metrics[name] for metrics in seeds if name in metrics]) for name in SHOWN_FIRST]
        recall, seconds = (float(np.mean([metrics[name] for metrics in seeds])) for name in (MAIN_METRIC, "seconds"))
        base = first.setdefault(mode, recall)
        against = f"{recall / base - 1:+.1%}" if base and recall != base else ""
        rows.append(f"| {' | '.join([run, mode, str(len(seeds)), *values, against, f'{seconds:.0f}'])} |")
    return "\n".join(rows)


def _mean_and_spread(values: list[float]) -> str:
    if not values:
        return ""
    mean = f"{np.mean(values):.4f}"
    return f"{mean} ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else mean


def _summary(result: dict[str, Any]) -> str:
    metrics = result["metrics"]
    recall = {mode: round(metrics[mode][MAIN_METRIC], 4) for mode in _MODES if mode in metrics}
    return f"{result['run']}, seed {result['seed']}: validation Recall@10 {json.dumps(recall)}"
