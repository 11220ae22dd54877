"""What :mod:`tests.benchmarks.cluster` measures, in a process of its own: ``python -m ... FOLDER PART ...``.

``FOLDER`` holds ``work.json`` (see :class:`Work`) and gets a folder of results for each name. The engine is that of the
environment. Every part prints one line of JSON with its figures.
"""

import hashlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from genrec_core.engines.engine import Engine, Result, open_engine
from genrec_core.errors import GenrecError
from genrec_core.recommend.remote_ranking import ModelFiles, RankingRun, RemoteRanking
from genrec_core.recommend.request_files import Request
from genrec_core.settings import EmbeddingSettings, PredictionSettings, engine_from_environment
from genrec_core.storage.artifacts import read_json

_WARMING = 4  # shards that make every worker load what it needs
_EMPTY_SHARDS, _FILLED_SHARDS, _FILLED_BYTES = 300, 60, 1 << 20


class Work(BaseModel):
    """What is computed.

    Args:
        texts: file of item texts, a JSON list.
        n_texts: how many of them, drawn evenly.
        semantic_ids: folder with the codebooks.
        vectors: file of the item vectors, as the model gave them.
        copies: how often all of them are encoded.
        model_dir: the exported model.
        requests: the request file.
        top_k: items a user.
    """

    texts: Path
    n_texts: int
    semantic_ids: Path
    vectors: Path
    copies: int
    model_dir: Path
    requests: Path
    top_k: int


def embeddings(work: Work, engine: Engine | None, folder: Path) -> dict[str, Any]:
    """Embed the texts; loading the model is not counted, which workers have done by then."""
    from genrec_core.embedding.text import embed_texts, load_model

    every, settings = read_json(work.texts), EmbeddingSettings()
    texts = [every[row] for row in np.linspace(0, len(every) - 1, min(work.n_texts, len(every))).astype(int)]
    first_s, _ = _timed(lambda: embed_texts(["a text"] * _WARMING * settings.batch_size, settings, engine=engine))
    load_s = _timed(lambda: load_model(settings))[0] if engine is None else 0.0
    seconds, vectors = _timed(lambda: embed_texts(texts, settings, _say, engine))
    np.save(folder / "vectors.npy", vectors)
    return _figures(first_s, len(texts), seconds - load_s, folder / "vectors.npy")


def _say(done: int, total: int) -> None:
    print(f"{done} of {total}", file=sys.stderr, flush=True)


def assignment(work: Work, engine: Engine | None, folder: Path) -> dict[str, Any]:
    """Find the codes of vectors, as ``genrec assign-ids`` does."""
    from genrec_core.quantization.collaborative import CollaborativeMap
    from genrec_core.quantization.quantizer import SHARD_ROWS, find_codes
    from genrec_core.quantization.residual import ResidualQuantizer

    vectors = np.tile(np.load(work.vectors), (work.copies, 1))
    fitted = ResidualQuantizer.load(work.semantic_ids), CollaborativeMap.load(work.semantic_ids)
    first_s, _ = _timed(lambda: find_codes(fitted[0], vectors[: _WARMING * SHARD_ROWS], fitted[1], engine))
    seconds, codes = _timed(lambda: find_codes(fitted[0], vectors, fitted[1], engine))
    np.save(folder / "codes.npy", codes)
    return _figures(first_s, len(codes), seconds, folder / "codes.npy")


def predictions(work: Work, engine: Engine | None, folder: Path) -> dict[str, Any]:
    """Serve the request file; opening the model is not counted."""
    from genrec_core.recommend.predict import predict_file
    from genrec_core.recommend.recommender import Recommender

    settings, output = PredictionSettings(top_k=work.top_k), folder / "predictions.csv"
    recommender, remote = Recommender.open(work.model_dir), RemoteRanking.of(engine, work.model_dir)
    warm = remote or RemoteRanking(Engine(), ModelFiles.of(work.model_dir))
    blocks = [[Request(1, "1", [])]] * _WARMING
    first_s, _ = _timed(lambda: list(warm.rankings(RankingRun(settings, ()), blocks)))
    report = predict_file(recommender, work.requests, output, settings, show_progress=False, remote=remote)
    return _figures(first_s, report.users, report.seconds, output)


def _timed(work: Callable[[], Result]) -> tuple[float, Result]:
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


def _figures(first_s: float, units: int, seconds: float, result: Path) -> dict[str, Any]:
    """What was computed, how fast, and a digest of it; before it, how long the workers' first shards took."""
    figures = {"units": units, "first_s": round(first_s, 2), "seconds": round(seconds, 2)}
    digest = hashlib.sha256(result.read_bytes()).hexdigest()
    return {**figures, "a_second": round(units / seconds, 1), "sha256": digest}


def overhead(work: Work, engine: Engine | None, folder: Path) -> dict[str, Any]:
    """What a shard costs that nothing is computed for, empty and with a megabyte each way."""
    used = engine or Engine()
    list(used.map(_same, None, range(2 * _WARMING)))
    filled = np.zeros(_FILLED_BYTES, dtype=np.uint8)
    empty_s, _ = _timed(lambda: list(used.map(_same, None, range(_EMPTY_SHARDS))))
    arrays = (filled + number for number in range(_FILLED_SHARDS))
    filled_s, _ = _timed(lambda: sum(1 for _ in used.map(_same, None, arrays)))
    return {
        "ms_a_shard": round(1e3 * empty_s / _EMPTY_SHARDS, 3),
        "ms_a_megabyte_both_ways": round(1e3 * filled_s / _FILLED_SHARDS, 3),
    }


def _same(_: None, shard: Any) -> Any:
    return shard


PARTS: dict[str, Callable[[Work, Engine | None, Path], dict[str, Any]]] = {
    "overhead": overhead,
    "embeddings": embeddings,
    "assignment": assignment,
    "predictions": predictions,
}


def main(folder: Path, name: str, cores: int, *parts: str) -> None:
    """Compute ``parts``, as the engine's ``cores`` are there, and leave the results in ``folder / name``."""
    work = Work.model_validate(read_json(folder / "work.json"))
    target = folder / name
    target.mkdir(exist_ok=True)
    began = time.perf_counter()
    with open_engine(engine_from_environment()) as engine:
        if engine is not None:
            _await_cores(cores)
        print(json.dumps({"part": "connected", "seconds": round(time.perf_counter() - began, 2)}), flush=True)
        for part in parts:
            print(json.dumps({"part": part, **PARTS[part](work, engine, target)}), flush=True)


def _await_cores(cores: int) -> None:
    import ray

    deadline = time.monotonic() + 60
    while ray.cluster_resources().get("CPU", 0) < cores:
        if time.monotonic() > deadline:
            raise GenrecError(f"the Ray cluster has not come to {cores} cores within a minute")
        time.sleep(0.1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), *sys.argv[4:])
