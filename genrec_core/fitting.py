"""``fit``: the steps of the asset graph in this process, from interactions to an opened model, without Dagster.

Each step calls the functions that the asset of its name calls, and writes a version of it into the same layout. The
version is named by what it is made of, so a step whose version is there is not repeated.
"""

import hashlib
import json
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genrec_core.errors import GenrecError
from genrec_core.recommend.frames import is_frame, polars_of
from genrec_core.recommend.recommender import Recommender
from genrec_core.settings import PRESETS, DataSettings, Preset, Settings, TrainingSettings, changed_preset
from genrec_core.storage.artifacts import (
    FRAME,
    MANIFEST,
    atomic_folder,
    locked,
    recovered,
    verify_manifest,
    write_manifest,
)
from genrec_core.storage.folders import earlier_version, set_latest

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

    from genrec_core.tiger.training import TrainingEvent

LOG = logging.getLogger("genrec.fit")
_PROGRESS_SECONDS = 15.0


def fit(
    interactions: "pl.DataFrame | pd.DataFrame | Path | str | None",
    items: "pl.DataFrame | pd.DataFrame | Path | str | None" = None,
    *,
    preset: str | Preset = "auto",
    folder: Path | str,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    on_progress: Callable[[str], object] | None = None,
) -> Recommender:
    """Train a model as ``make run`` does, and open it. Needs the extra ``train``.

    The gates of the graph are not applied: read ``recall_metrics`` in ``folder``, or run ``genrec evaluate`` on it.

    Args:
        interactions: a frame of polars or pandas with a row for each interaction, by the usual names of columns
            (``user_id``, ``item_id``, and a time if there is one), or its file. Without ``items`` also anything that
            ``GENREC_RAW`` names: a folder, an archive, an address. None: the synthetic sample shop.
        items: a frame with a row for each item (``item_id``, ``title``, ``brand`` ...), or its file.
        preset: the name of a preset, or one of your own.
        folder: gets a folder for each asset, as the graph's storage. Called again with the same data and settings, a
            finished step is not repeated, and a training that was cut off goes on.
        settings: values that differ from the preset, by part: ``{"training": {"epochs": 10}}``.
        on_progress: gets a line for each step and epoch, such as ``print``; None: logged by ``genrec.fit``.

    Returns:
        The exported model, opened. ``Recommender.open(folder / "onnx_encoder")`` opens it again.

    Raises:
        GenrecError: data or settings are wrong, the training failed, or another ``fit`` works in the folder.
    """
    root = Path(folder).expanduser().absolute()
    steps = Steps(root, _preset(preset, settings), on_progress or LOG.info)
    with (
        locked(root / ".fit.lock", f"{root}: another fit works there; wait for it, or name another folder"),
        _place_of(interactions, items) as place,
    ):
        return Recommender.open(steps.all_from(place))


@dataclass
class Steps:
    """The steps of one ``fit``, in order; each returns the folder of its asset's version."""

    root: Path
    preset: Preset
    say: Callable[[str], object]
    _epochs: int = field(default=0, init=False)

    def all_from(self, place: str | None) -> Path:
        """Everything from raw data to the exported model; its folder."""
        import polars as pl

        raw = self.raw_beauty(place)
        catalog, histories = self.item_catalog(raw), self.user_histories(raw)
        vectors = self.item_embeddings(catalog)
        codes = self.semantic_ids(vectors, histories)
        parts = {"user_histories": histories, "semantic_ids": codes, "item_embeddings": vectors}
        checkpoint = self.tiger_checkpoint(parts)
        frames = {"user_histories": pl.read_parquet(histories / FRAME), "catalog": pl.read_parquet(catalog / FRAME)}
        metrics = self.recall_metrics(checkpoint, parts, catalog, frames)
        model = self.onnx_encoder(checkpoint, parts, catalog, frames)
        self.say(f"report: {metrics / 'report.html'}")
        return model

    def raw_beauty(self, place: str | None) -> Path:
        """The data as received. It is read in each call, to see whether it changed."""
        from genrec_core.data.sources import receive_raw, sentence

        unfinished = self.root / ".work" / "raw_beauty"
        try:
            settings = DataSettings.model_validate(self.preset.data.model_dump())
            facts = receive_raw(place, unfinished, settings=settings)
            self.say(sentence(facts))
            return self._step("raw_beauty", [facts["files"]], settings, lambda part: _move(unfinished, part))
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)

    def item_catalog(self, raw: Path) -> Path:
        """A row for each item, with its text."""
        from genrec_core.data.sources import read_catalog

        settings = self.preset.catalog
        return self._step(
            "item_catalog", [raw], settings, lambda part: read_catalog(raw, settings).write_parquet(part / FRAME)
        )

    def user_histories(self, raw: Path) -> Path:
        """A row for each user, split."""
        from genrec_core.data.sources import load_tables
        from genrec_core.data.temporal import split_by_time

        def write(part: Path) -> None:
            split_by_time(load_tables(raw).histories, self.preset.split).write_parquet(part / FRAME)

        return self._step("user_histories", [raw], self.preset.split, write)

    def item_embeddings(self, catalog: Path) -> Path:
        """A vector for each item."""
        import polars as pl

        from genrec_core.embedding.build import build_item_embeddings

        def write(part: Path) -> None:
            earlier = earlier_version("item_embeddings", self.root, LOG.info)
            frame, unfinished = pl.read_parquet(catalog / FRAME), self.root / ".work" / "embedding"
            said = self._counting("texts embedded")
            build_item_embeddings(frame, self.preset.embedding, part, earlier, unfinished, said)

        return self._step("item_embeddings", [catalog], self.preset.embedding, write)

    def semantic_ids(self, vectors: Path, histories: Path) -> Path:
        """A code for each item; unchanged items keep those of an earlier version."""
        import polars as pl

        from genrec_core.quantization.update import refused_by_never, update_semantic_ids

        settings = self.preset.semantic_ids

        def write(part: Path) -> None:
            refused = refused_by_never if settings.refit == "never" else None
            earlier = earlier_version("semantic_ids", self.root, LOG.info, refused)
            update_semantic_ids(vectors, settings, part, earlier, pl.read_parquet(histories / FRAME))

        return self._step("semantic_ids", [vectors, histories], settings, write)

    def tiger_checkpoint(self, parts: Mapping[str, Path]) -> Path:
        """The trained model."""
        settings = self.preset.training

        def write(part: Path) -> None:
            shutil.copytree(self._trained(parts, settings, None), part, dirs_exist_ok=True)

        return self._step("tiger_checkpoint", list(parts.values()), settings, write)

    def recall_metrics(
        self, checkpoint: Path, parts: Mapping[str, Path], catalog: Path, frames: Mapping[str, "pl.DataFrame"]
    ) -> Path:
        """The test metrics and their report."""
        from genrec_core.evaluation.evaluate import evaluate_training
        from genrec_core.evaluation.pages.metrics import write_metrics

        settings = self.preset.evaluation
        folders = (checkpoint, parts["semantic_ids"], parts["item_embeddings"])

        def write(part: Path) -> None:
            said = self._counting("users ranked")
            tables = (frames["user_histories"], frames["catalog"])
            write_metrics(part, evaluate_training(*folders, *tables, settings, self.root, said))

        return self._step("recall_metrics", [checkpoint, *parts.values(), catalog], settings, write)

    def onnx_encoder(
        self, checkpoint: Path, parts: Mapping[str, Path], catalog: Path, frames: Mapping[str, "pl.DataFrame"]
    ) -> Path:
        """The exported model."""
        from genrec_core.export.models import export_models

        settings, refit = self.preset.export, self.preset.release.refit

        def write(part: Path) -> None:
            refitted = self._refitted(checkpoint, parts) if refit else None
            folders = (checkpoint, refitted, parts["semantic_ids"], parts["item_embeddings"])
            export_models(part, *folders, frames["user_histories"], frames["catalog"], settings, self.say)

        made_of = [checkpoint, *parts.values(), catalog, {"refit": refit}]
        return self._step("onnx_encoder", made_of, settings, write)

    def _refitted(self, checkpoint: Path, parts: Mapping[str, Path]) -> Path:
        """The checkpoint's recipe trained on all interactions."""
        from genrec_core.tiger.refit import refit_settings

        self.say("training the model again on all interactions")
        return self._trained(parts, refit_settings(checkpoint), checkpoint)

    def _trained(self, parts: Mapping[str, Path], settings: TrainingSettings, measured: Path | None) -> Path:
        """Train in a folder that stays, so that a training that is cut off goes on there."""
        from genrec_core.tiger.job import TrainingJob, train_by_torchrun

        job = TrainingJob(
            histories=parts["user_histories"] / FRAME,
            semantic_ids=parts["semantic_ids"],
            embeddings=parts["item_embeddings"],
            settings=settings,
            folder=self.root / ".training" / _key([*parts.values(), measured], settings),
            measured=measured,
        )
        return train_by_torchrun(job, self._hear)

    def _hear(self, event: "TrainingEvent") -> None:
        from genrec_core.tiger.job import described

        self._epochs = int(event.values.get("epochs", self._epochs))
        if event.kind != "step":
            self.say(f"    {described(event, self._epochs)}")

    def _step(self, asset: str, made_of: Sequence[Any], settings: Settings, write: Callable[[Path], object]) -> Path:
        """The version of an asset that is made of these parts by these settings; written if it is not there."""
        folder = self.root / asset / _key([asset, *made_of], settings)
        if _is_whole(folder, self.say):
            self.say(f"{asset} is there already")
        else:
            self.say(f"{asset} ...")
            began = time.monotonic()
            with atomic_folder(folder) as part:
                write(part)
                write_manifest(part)
            self.say(f"{asset} done in {time.monotonic() - began:.1f} s")
        set_latest(asset, folder.name, self.root)
        return folder

    def _counting(self, what: str) -> Callable[[int, int], None]:
        """Says every few seconds how much of a step is done."""
        said = time.monotonic()

        def listen(done: int, total: int) -> None:
            nonlocal said
            if time.monotonic() - said >= _PROGRESS_SECONDS:
                said = time.monotonic()
                self.say(f"    {what}: {done:,} of {total:,}")

        return listen


def _preset(preset: str | Preset, settings: Mapping[str, Mapping[str, Any]] | None) -> Preset:
    if isinstance(preset, str) and preset not in PRESETS:
        raise GenrecError(f"preset {preset!r}: there is none of this name; choose one of {', '.join(PRESETS)}")
    chosen = PRESETS[preset] if isinstance(preset, str) else preset
    return changed_preset(chosen, json.dumps(settings), "settings") if settings else chosen


def _key(made_of: Sequence[Any], settings: Settings) -> str:
    """The name of a version: a hash of what it is made of, of the settings and of the version of genrec."""
    parts = [f"{part.parent.name}/{part.name}" if isinstance(part, Path) else part for part in made_of]
    content = json.dumps([version("genrec"), settings.model_dump(mode="json"), *parts], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _is_whole(folder: Path, say: Callable[[str], object]) -> bool:
    """Whether a version is there with all its files as they were written."""
    if not (recovered(folder) / MANIFEST).is_file():
        return False
    try:
        verify_manifest(folder)
    except GenrecError as error:
        say(f"it is made again: {error}")
        return False
    return True


def _move(source: Path, target: Path) -> None:
    for path in source.iterdir():
        path.rename(target / path.name)


@contextmanager
def _place_of(interactions: Any, items: Any) -> Iterator[str | None]:
    """Where the raw data lies, as ``GENREC_RAW`` names it; frames are written to a folder that is removed."""
    if items is None and (interactions is None or isinstance(interactions, Path | str)):
        yield None if interactions is None else str(interactions)
        return
    with tempfile.TemporaryDirectory(prefix="genrec-fit-") as folder:
        _put("interactions", interactions, Path(folder))
        if items is not None:
            _put("items", items, Path(folder))
        yield folder


def _put(name: str, table: Any, folder: Path) -> None:
    """Put a frame or a file into a folder under the usual name of its table."""
    from genrec_core.data.layouts import plain_name
    from genrec_core.data.table_files import DATA_ENDINGS

    if is_frame(table):
        polars_of(table).write_parquet(folder / f"{name}.parquet")
        return
    if not isinstance(table, Path | str):
        raise GenrecError(f"{name}: a {type(table).__name__} is neither a frame of polars or pandas nor a file")
    path = Path(table).expanduser()
    ending = next((ending for ending in DATA_ENDINGS if plain_name(path.name).endswith(ending)), None)
    if not path.is_file() or ending is None:
        raise GenrecError(f"{name}: {path} is no CSV, JSON or Parquet file; name one, or give a frame")
    compression = path.name[len(plain_name(path.name)) :]
    (folder / f"{name}{ending}{compression}").symlink_to(path.resolve())
