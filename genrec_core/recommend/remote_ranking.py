"""Ranks blocks of requests where an engine computes: the model travels once, blocks go out, rankings come back."""

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from genrec_core.engines.engine import Engine
from genrec_core.recommend.constraints import Constraints, Selection
from genrec_core.recommend.recommender import IN_TURN, Ranking, Recommender
from genrec_core.recommend.requests import Request
from genrec_core.settings import PredictionSettings, RankingMode


class Ranks(Protocol):
    """What serving a file of requests needs of a recommender."""

    def rank(
        self,
        histories: list[list[int]],
        top_k: int,
        *,
        beams: int | None,
        exclude_seen: bool,
        ranking: RankingMode,
        allowed: Sequence[np.ndarray | None],
        batch_users: int,
        pool: Executor | None,
    ) -> Ranking:
        """See :meth:`genrec_core.recommend.recommender.Recommender.rank`."""

    def selection(self, *constraints: Constraints) -> Selection:
        """See :meth:`genrec_core.recommend.recommender.Recommender.selection`."""


class HoldsRequests(Protocol):
    """Some consecutive lines of a file."""

    @property
    def requests(self) -> list[Request]:
        """Those that can be served."""


Block = TypeVar("Block", bound=HoldsRequests)


@dataclass(frozen=True)
class RankingRun:
    """How all requests of a file are ranked: the settings, and what every list is restricted to."""

    settings: PredictionSettings
    constraints: tuple[Constraints, ...]

    def rank(self, recommender: Ranks, requests: list[Request], pool: Executor) -> Ranking | None:
        """The ranking of one block; None without a request. Requests of equal constraints share a mask."""
        if not requests:
            return None
        own = {request.constraints for request in requests}
        masks = {each: recommender.selection(*self.constraints, each).mask for each in own}
        return recommender.rank(
            [request.item_ids for request in requests],
            self.settings.top_k,
            beams=self.settings.beams,
            exclude_seen=self.settings.exclude_seen,
            ranking=self.settings.ranking,
            allowed=[masks[request.constraints] for request in requests],
            batch_users=self.settings.batch_users,
            pool=pool,
        )


@dataclass(frozen=True, eq=False)
class ModelFiles:
    """The files of an exported model, bytes by name, and a digest of them all, by which two are told apart."""

    digest: str
    files: dict[str, NDArray[np.uint8]]

    @classmethod
    def of(cls, folder: Path) -> "ModelFiles":
        """The model in ``folder``, its list of withdrawn items included."""
        names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        files = {name: np.fromfile(folder / name, dtype=np.uint8) for name in names}
        digest = hashlib.sha256()
        for name, content in files.items():
            digest.update(f"{name} {len(content)}\n".encode() + content.tobytes())
        return cls(digest.hexdigest(), files)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ModelFiles) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def write(self, folder: Path) -> None:
        """Put the files into ``folder``."""
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            content.tofile(path)


@dataclass(frozen=True)
class RemoteRanking:
    """A model, and the engine whose workers open it."""

    engine: Engine
    model: ModelFiles

    @classmethod
    def of(cls, engine: Engine | None, model_dir: Path) -> "RemoteRanking | None":
        """The model of a folder on ``engine``; None where there is none, so that this process ranks."""
        return None if engine is None else cls(engine, ModelFiles.of(model_dir))

    def ranked(self, run: RankingRun, blocks: Iterable[Block]) -> Iterator[tuple[Block, Ranking | None]]:
        """Blocks in order, each with the ranking of its requests."""
        waiting: deque[Block] = deque()

        def sent() -> Iterator[list[Request]]:
            for block in blocks:
                waiting.append(block)
                yield block.requests

        plain = PredictionSettings.model_validate(run.settings.model_dump())  # a launchpad's form is unknown there
        for ranking in self.engine.map(rank_block, (self.model, RankingRun(plain, run.constraints)), sent()):
            yield waiting.popleft(), ranking


def rank_block(common: tuple[ModelFiles, RankingRun], requests: list[Request]) -> Ranking | None:
    """What a worker computes, on one core; the model stays open for the next block."""
    model, run = common
    recommender, _ = _opened(model)
    return run.rank(recommender, requests, IN_TURN)


@lru_cache(maxsize=1)
def _opened(model: ModelFiles) -> "tuple[Recommender, TemporaryDirectory[str]]":
    """The recommender and its folder, from which it reads the attributes of items when a rule needs them."""
    folder = TemporaryDirectory(prefix="genrec-model-")
    model.write(Path(folder.name))
    return Recommender.from_folder(Path(folder.name), threads=1), folder
