"""Ranks blocks of requests on an engine: the model travels once, blocks go out, rankings come back."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from genrec_core.engines.engine import Engine
from genrec_core.recommend.constraints import Constraints
from genrec_core.recommend.recommender import IN_TURN, Pool, Ranking, Recommender
from genrec_core.recommend.request_files import Request
from genrec_core.settings import PredictionSettings


@dataclass(frozen=True)
class RankingRun:
    """How all requests of a file are ranked: the settings, and the constraints that hold for every list."""

    settings: PredictionSettings
    constraints: tuple[Constraints, ...]

    def rank(self, recommender: Recommender, requests: list[Request], pool: Pool) -> Ranking:
        """The ranking of one block. Requests with equal constraints share a mask."""
        distinct = {request.constraints for request in requests}
        masks = {own: recommender.selection(*self.constraints, own).mask for own in distinct}
        return recommender.rank(
            [request.item_ids for request in requests],
            self.settings.top_k,
            beams=self.settings.beams,
            exclude_seen=self.settings.exclude_seen,
            ranking=self.settings.ranking,
            fallback=self.settings.fallback,
            allowed=[masks[request.constraints] for request in requests],
            batch_users=self.settings.batch_users,
            pool=pool,
        )


@dataclass(frozen=True)
class ModelFiles:
    """The files of an exported model, bytes by name. Two are equal if their digests are."""

    digest: str
    files: dict[str, NDArray[np.uint8]] = field(compare=False)

    @classmethod
    def of(cls, folder: Path) -> "ModelFiles":
        names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        files = {name: np.fromfile(folder / name, dtype=np.uint8) for name in names}
        digest = hashlib.sha256()
        for name, content in files.items():
            digest.update(f"{name} {len(content)}\n".encode() + content.tobytes())
        return cls(digest.hexdigest(), files)


@dataclass(frozen=True)
class RemoteRanking:
    """A model, and the engine whose workers open it."""

    engine: Engine
    model: ModelFiles

    @classmethod
    def of(cls, engine: Engine | None, model_dir: Path) -> "RemoteRanking | None":
        """The model of a folder on ``engine``; None without an engine: then this process ranks."""
        return None if engine is None else cls(engine, ModelFiles.of(model_dir))

    def rankings(self, run: RankingRun, blocks: Iterable[list[Request]]) -> Iterator[Ranking]:
        # Workers do not know a subclass such as the form of Dagster's launchpad.
        settings = PredictionSettings.model_validate(run.settings.model_dump())
        return self.engine.map(rank_block, (self.model, RankingRun(settings, run.constraints)), blocks)


def rank_block(common: tuple[ModelFiles, RankingRun], requests: list[Request]) -> Ranking:
    """What a worker computes, on one core; the model stays open for the next block."""
    model, run = common
    recommender, _ = _opened(model)
    return run.rank(recommender, requests, IN_TURN)


@lru_cache(maxsize=1)
def _opened(model: ModelFiles) -> "tuple[Recommender, TemporaryDirectory[str]]":
    """The recommender, and its folder, where it reads the attributes of items when a rule needs them."""
    folder = TemporaryDirectory(prefix="genrec-model-")
    for name, content in model.files.items():
        path = Path(folder.name, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        content.tofile(path)
    return Recommender.open(Path(folder.name)), folder
