"""Trains many variants of a preset and measures each on the validation items: the ablation table.

A sweep is a TOML file::

    preset = "beauty"          # whose training settings every run starts from
    seeds = [1, 2]             # every run is trained once a seed
    [set]                      # training settings of every run
    epochs = 10
    [evaluation]               # as in EvaluationSettings
    users = 3000
    beams = 100
    [[run]]
    name = "as it is"
    seeds = [1, 2, 3]          # instead of those above
    [[run]]
    name = "more dropout"
    set = { dropout = 0.4 }
    [[run]]
    name = "four levels"
    semantic_ids = { levels = 4 }
    [[run]]
    name = "titles alone"
    catalog = { text_template = "{title};" }    # and embedding = { model = ... }: other item texts, other vectors

What is done is kept and skipped the next time; what was cut off goes on where its last epoch ended. The test items are
never read.
"""

import hashlib
import json
import multiprocessing
import re
import time
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, ValidationError

from genrec_core.data.item_text import render_text, template_parts
from genrec_core.data.text_files import utf8_text
from genrec_core.errors import GenrecError
from genrec_core.settings import (
    PRESETS,
    SASREC,
    CatalogSettings,
    EmbeddingSettings,
    EvaluationSettings,
    SemanticIdSettings,
    Settings,
    TrainingSettings,
)
from genrec_core.storage.artifacts import read_json, recovered, write_json

RESULT = "result.json"
_FIXED = ("processes", "threads_per_process")
_SHOWN = ("recall@10", "ndcg@10", "recall@100", "recall@1000")


class Run(Settings):
    """One line of the table."""

    name: str = Field(min_length=1, description="What the line is called.")
    model: Literal["tiger", "sasrec"] = Field("tiger", description="What is trained.")
    set: dict[str, Any] = Field(default_factory=dict, description="Training settings that differ.")
    semantic_ids: dict[str, Any] = Field(default_factory=dict, description="Semantic ID settings that differ.")
    embeddings: Path | None = Field(None, description="Another folder of item embeddings.")
    catalog: dict[str, Any] = Field(default_factory=dict, description="Settings of the item texts that differ.")
    embedding: dict[str, Any] = Field(default_factory=dict, description="Settings of the text embeddings that differ.")
    seeds: list[int] | None = Field(None, min_length=1, description="Its own training seeds.")


class Sweep(Settings):
    """The content of a sweep file."""

    preset: str = Field("beauty", description="Whose settings every run starts from.")
    seeds: list[int] = Field(default=[42], min_length=1, description="Training seeds of every run.")
    set: dict[str, Any] = Field(default_factory=dict, description="Training settings of every run.")
    evaluation: EvaluationSettings = EvaluationSettings(users=3000, beams=100)
    run: list[Run] = Field(min_length=1, description="The runs, the one that others are compared with first.")


@dataclass(frozen=True)
class SweepInputs:
    """Where the data is.

    Args:
        histories: the parquet file of ``user_histories``.
        semantic_ids: semantic IDs of runs that change nothing about them.
        embeddings: item embeddings of runs that name no others.
        catalog: the parquet file of ``item_catalog``, for runs with item texts or text vectors of their own.
    """

    histories: Path
    semantic_ids: Path
    embeddings: Path
    catalog: Path | None = None


@dataclass(frozen=True)
class Trial:
    """One run with one seed, ready to be trained.

    Args:
        run: the line of the table.
        settings: its training settings.
        semantic_ids: settings of its own semantic IDs; None where it takes the given ones.
        evaluation: how it is measured.
        texts: settings of its own item texts and their vectors; None where it takes the given ones.
    """

    run: Run
    settings: TrainingSettings
    semantic_ids: SemanticIdSettings | None
    evaluation: EvaluationSettings
    texts: tuple[CatalogSettings, EmbeddingSettings] | None = None

    @property
    def folder(self) -> str:
        """A name of its own: the run's, the seed, and a hash of all settings."""
        content = [
            self.run.model_dump_json(exclude={"seeds", "catalog", "embedding"}),
            self.settings.model_dump_json(),
            self.evaluation.model_dump_json(),
        ]
        if self.semantic_ids:
            content.append(self.semantic_ids.model_dump_json())
        if self.texts:
            content += [settings.model_dump_json() for settings in self.texts]
        digest = hashlib.sha256("\n".join(content).encode()).hexdigest()[:10]
        name = re.sub(r"[^a-z0-9]+", "-", self.run.name.lower()).strip("-")
        return f"{name}-{self.settings.seed}-{digest}"


def read_sweep(path: Path) -> Sweep:
    """Read and check a sweep file.

    Raises:
        GenrecError: it cannot be read, or names something that there is not; names the place.
    """
    try:
        sweep = Sweep.model_validate(tomllib.loads(utf8_text(path)))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise GenrecError(f"{path}: cannot be read as TOML ({error})") from error
    except ValidationError as error:
        raise GenrecError(f"{path}: {_faults(error)}") from error
    names = [run.name for run in sweep.run]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise GenrecError(f"{path}: two runs are called {repeated!r}; give each a name of its own")
    return sweep


def trials(sweep: Sweep, path: Path) -> list[Trial]:
    """Every run with every seed.

    Raises:
        GenrecError: the preset or a setting does not exist, or a value is out of bounds; names the run.
    """
    return [_trial(sweep, run, seed, path) for run in sweep.run for seed in run.seeds or sweep.seeds]


def _trial(sweep: Sweep, run: Run, seed: int, path: Path) -> Trial:
    presets = SASREC if run.model == "sasrec" else {name: preset.training for name, preset in PRESETS.items()}
    if sweep.preset not in presets:
        raise GenrecError(f"{path}: preset {sweep.preset}: none of {run.model}; choose one of {', '.join(presets)}")
    ignored = next((name for name in _FIXED if name in sweep.set or name in run.set), None)
    if ignored is not None:
        raise GenrecError(
            f"{path}: run {run.name!r}: {ignored} is given, but a sweep trains in one process of one thread; leave it "
            "out, and train several runs side by side with --workers"
        )
    values = {**presets[sweep.preset].model_dump(), **sweep.set, **run.set, "seed": seed}
    try:
        settings = TrainingSettings.model_validate(values)
        ids = texts = None
        if run.semantic_ids:
            preset = PRESETS[sweep.preset].semantic_ids.model_dump()
            ids = SemanticIdSettings.model_validate({**preset, **run.semantic_ids})
        if run.catalog or run.embedding:
            catalog = CatalogSettings.model_validate({**PRESETS[sweep.preset].catalog.model_dump(), **run.catalog})
            template_parts(catalog.text_template)
            embedding = {**PRESETS[sweep.preset].embedding.model_dump(), **run.embedding}
            texts = catalog, EmbeddingSettings.model_validate(embedding)
    except ValidationError as error:
        raise GenrecError(f"{path}: run {run.name!r}: {_faults(error)}") from error
    except GenrecError as error:
        raise GenrecError(f"{path}: run {run.name!r}: {error}") from error
    if texts and run.embeddings:
        raise GenrecError(f"{path}: run {run.name!r}: embeddings are given, so catalog and embedding change nothing")
    return Trial(run, settings, ids, sweep.evaluation, texts)


def _faults(error: ValidationError) -> str:
    return "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())


def run_sweep(
    wanted: list[Trial],
    inputs: SweepInputs,
    output: Path,
    workers: int = 1,
    on_done: Callable[[Trial, dict[str, Any]], None] | None = None,
) -> list[dict[str, Any]]:
    """Train and measure what is not done yet, ``workers`` trials side by side with one thread each.

    Returns:
        The validation metrics of every trial, in the order of ``wanted``.

    Raises:
        GenrecError: a trial failed; what was done before is kept. Or a trial has texts of its own, and the item
            catalogue is missing, no parquet file, or lacks a column: then nothing was trained.
    """
    for trial in wanted:
        if trial.texts:
            _texts(trial, inputs)  # what is wrong with the catalogue shows before anything is trained
    output.mkdir(parents=True, exist_ok=True)
    left = [trial for trial in wanted if not (output / trial.folder / RESULT).is_file()]
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        running = {pool.submit(run_trial, trial, inputs, output): trial for trial in left}
        try:
            for future in as_completed(running):
                result = future.result()
                if on_done:
                    on_done(running[future], result)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [read_json(output / trial.folder / RESULT) for trial in wanted]


def run_trial(trial: Trial, inputs: SweepInputs, output: Path) -> dict[str, Any]:
    """Train one trial, from where it was cut off, measure it on the validation items, and keep the result."""
    import polars as pl
    import torch

    from genrec_core.data.histories import Histories
    from genrec_core.evaluation.checkpoints import open_checkpoint
    from genrec_core.evaluation.evaluate import evaluate
    from genrec_core.quantization.build import build_semantic_ids
    from genrec_core.quantization.semantic_ids import SemanticIds
    from genrec_core.sasrec.training import SasRecTrainer
    from genrec_core.tiger.distributed import World
    from genrec_core.tiger.training import TrainingData, train

    torch.set_num_threads(1)
    folder = output / trial.folder
    semantic_ids, embeddings = inputs.semantic_ids, trial.run.embeddings or inputs.embeddings
    if trial.texts:
        embeddings = folder / "item_embeddings"
        if not recovered(embeddings).is_dir():
            _embed(*_texts(trial, inputs), trial.texts[1], embeddings)
    if trial.semantic_ids or trial.texts or trial.run.embeddings:
        semantic_ids = folder / "semantic_ids"
        if not recovered(semantic_ids).is_dir():
            frame = pl.read_parquet(inputs.histories)
            build_semantic_ids(embeddings, trial.semantic_ids or SemanticIdSettings(), semantic_ids, histories=frame)
    data = TrainingData.load(inputs.histories, semantic_ids, embeddings)
    world = World(0, 1, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    trainer = SasRecTrainer if trial.run.model == "sasrec" else None
    best = train(data, trial.settings, folder / "training", world, trainer=trainer)
    ids = SemanticIds.load(semantic_ids)
    model = open_checkpoint(best, ids.codes, data.vectors)
    histories = Histories.from_frame(pl.read_parquet(inputs.histories), ids.item_ids)
    found = evaluate(
        model.scorer, ids, histories, trial.evaluation, model.max_history, model.weights, split="validation"
    )
    history = read_json(best / "training_history.json")
    result = {
        "run": trial.run.name,
        "seed": trial.settings.seed,
        "epochs": len(history["epochs"]),
        "training_seconds": history["seconds"],
        "metrics": found.metrics,
    }
    write_json(folder / RESULT, result)
    return result


def _texts(trial: Trial, inputs: SweepInputs) -> tuple[np.ndarray, list[str]]:
    """Ids int64 [n_items] and texts of the catalogue's items, for a trial with texts or vectors of its own."""
    import polars as pl

    if inputs.catalog is None:
        raise GenrecError(f"run {trial.run.name!r} has texts of its own; give the item catalogue they are made from")
    assert trial.texts is not None
    parts = template_parts(trial.texts[0].text_template)
    try:
        items = pl.read_parquet(inputs.catalog)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise GenrecError(f"{inputs.catalog}: not a parquet file ({error}); name the item catalogue's") from error
    missing = {"item_id", *(field for _, field in parts if field)}.difference(items.columns)
    if missing:
        raise GenrecError(f"{inputs.catalog}: no column {min(missing)}; give the parquet file of item_catalog")
    lines = [render_text(parts, item) or f"Item: {item['item_id']};" for item in items.iter_rows(named=True)]
    return items["item_id"].to_numpy(), lines


def _embed(item_ids: np.ndarray, texts: list[str], embedding: EmbeddingSettings, folder: Path) -> None:
    """Write item embeddings by a model."""
    from genrec_core.embedding.item_embeddings import write_item_embeddings
    from genrec_core.embedding.text import embed_texts

    began = time.perf_counter()
    vectors = embed_texts(texts, embedding)
    seconds = time.perf_counter() - began
    write_item_embeddings(folder, item_ids, texts, vectors, embedding.model, seconds, embedding.max_tokens)


def sweep_table(results: list[dict[str, Any]]) -> str:
    """The results as a Markdown table, a line a run and ranking mode.

    It gives mean and standard deviation over seeds, and the difference of Recall@10 to the first run's: as a share of
    it, and over the difference's standard error, for which the spread over seeds is pooled over all runs with several.
    With three seeds of one run and one of the others (2 degrees of freedom), 19 of 20 differences that are noise stay
    within 4.3 standard errors; Student's t has the figure for more.
    """
    lines = [
        f"| run | ranking | seeds | {' | '.join(_SHOWN)} | Recall@10 against the first | over its error | seconds |"
    ]
    lines.append("|" + "---|" * (len(_SHOWN) + 6))
    first: dict[str, list[float]] = {}
    spread = _spread_over_seeds(results)
    for name, mode, of_mode, seconds in _lines(results):
        values = {metric: [found.get(metric) for found in of_mode] for metric in _SHOWN}
        recall = [found["recall@10"] for found in of_mode]
        cells = [_mean_and_spread(values[metric]) for metric in _SHOWN]
        cells += _against(recall, first[mode], spread.get(mode)) if mode in first else ["", ""]
        first.setdefault(mode, recall)
        lines.append(f"| {' | '.join([name, mode, str(len(of_mode)), *cells, f'{seconds:.0f}'])} |")
    return "\n".join(lines)


def _spread_over_seeds(results: list[dict[str, Any]]) -> dict[str, float]:
    """The standard deviation of Recall@10 between seeds by mode, pooled over the runs that have several."""
    squares: dict[str, float] = {}
    degrees: dict[str, int] = {}
    for _, mode, of_mode, _ in _lines(results):
        recall = np.array([found["recall@10"] for found in of_mode])
        squares[mode] = squares.get(mode, 0.0) + float(((recall - recall.mean()) ** 2).sum())
        degrees[mode] = degrees.get(mode, 0) + len(recall) - 1
    return {mode: (total / degrees[mode]) ** 0.5 for mode, total in squares.items() if degrees[mode]}


def _against(recall: list[float], first: list[float], spread: float | None) -> list[str]:
    """The difference of the means as a share of the first's and over its standard error; '' where that is unknown."""
    difference, base = float(np.mean(recall) - np.mean(first)), float(np.mean(first))
    error = spread * (1 / len(recall) + 1 / len(first)) ** 0.5 if spread else 0.0
    return [f"{difference / base:+.1%}" if base else "", f"{difference / error:+.1f}" if error else ""]


def _lines(results: list[dict[str, Any]]) -> Iterator[tuple[str, str, list[dict[str, Any]], float]]:
    """Run, mode, the metrics of each seed, and the mean seconds of training."""
    for name in dict.fromkeys(result["run"] for result in results):
        of_run = [result for result in results if result["run"] == name]
        seconds = float(np.mean([result["training_seconds"] for result in of_run]))
        for mode in ("generative", "hybrid", "dense"):
            found = [result["metrics"][mode] for result in of_run if mode in result["metrics"]]
            if found:
                yield name, mode, found, seconds


def _mean_and_spread(values: list[Any]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return ""
    mean = f"{np.mean(known):.4f}"
    return f"{mean} ± {np.std(known, ddof=1):.4f}" if len(known) > 1 else mean


def write_sweep(output: Path, results: list[dict[str, Any]]) -> Path:
    """Write ``sweep.md`` and ``sweep.json`` into ``output``; the path of the table."""
    write_json(output / "sweep.json", {"results": results})
    table = output / "sweep.md"
    table.write_text(sweep_table(results) + "\n", encoding="utf-8")
    return table


def describe(trial: Trial, result: dict[str, Any]) -> str:
    """One line for the log."""
    metrics = result["metrics"]
    recall = {
        mode: round(metrics[mode]["recall@10"], 4) for mode in ("generative", "hybrid", "dense") if mode in metrics
    }
    return f"{trial.run.name}, seed {trial.settings.seed}: validation Recall@10 {json.dumps(recall)}"
