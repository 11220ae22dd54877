"""How fast the exported model decodes: a user at a time, in batches, against two peers and the machine's limit."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from genrec_core.bundle.model_folder import ModelFolder
from genrec_core.cores import available_cores
from genrec_core.data.histories import HistoryBatch, padded
from genrec_core.recommend.recommender import Recommender
from genrec_core.search.beams import CodeScorer, Lifted, ScorerSession, first_log_probs
from genrec_core.search.generative import beam_search
from genrec_core.search.hybrid import DenseGuide, search_items
from genrec_core.search.key_index import Matches
from genrec_core.search.trie import CodeTrie
from genrec_core.settings import RankingMode, TrainingSettings
from genrec_core.storage.folders import latest
from tests.benchmarks.machine import describe, peak_mb, spread
from tests.benchmarks.workload import Workload

BEAMS = (100, 1000)  # of the batches
SINGLE = (10, 100, 256, 1000)
_ORIGINAL = (256, 128)  # beams and items of the comparison with the original
_WARM = 3  # single users that are not counted
_COMPARED = 20  # users of the comparison with the original, by repeat: one may take twice as long as another
_GENERATE = (100, 8)  # beams, and users a batch, of that with transformers' generate


def run(
    model_dir: Path | None = None,
    checkpoint: Path | None = None,
    histories: Path | None = None,
    beams: Sequence[int] = BEAMS,
    users: int = 512,
    repeats: int = 5,
) -> dict[str, Any]:
    """Rank for real users or random histories, the seen items excluded, by the hybrid ranking.

    Args:
        model_dir: the exported model; the newest ``onnx_encoder`` of the storage where None.
        checkpoint: the torch model that it was exported from, for the peers; the newest ``tiger_checkpoint``.
        histories: whose lists; see :meth:`tests.benchmarks.workload.Workload.of`.
        beams: beam widths of the batches, each also the number of items asked for.
        users: users of one measurement, whose batches are decoded side by side on every core.
        repeats: measurements that count, after one that warms up; each has other users.

    Returns:
        ``single_ms`` (median for one user by number of items, as many beams), ``ratio_uncached`` (by that number too,
        both sides generating), ``ratio_original`` and ``ratio_generate`` (speed over the peers of
        :mod:`tests.benchmarks.decoding_peers`), ``limit_share`` (arithmetic that a user of a batch needs, a
        second, over the machine's matrix rate, by beams), then ``users_per_second``, ``gflop_a_user`` and ``peak_mb``
        by beams, the peers' own times, machine, commit.

    Raises:
        GenrecError: there is no model.
    """
    from genrec_core.tiger.model import TigerModel
    from tests.benchmarks.training import matrix_gflops

    folder = model_dir or latest("onnx_encoder")
    model = TigerModel.from_pretrained(checkpoint or latest("tiger_checkpoint"))
    model.train(False)
    recommender = Recommender.open(folder)
    workload = Workload.of(recommender.item_ids, histories)
    alone = workload.drawn(10 * repeats + _WARM, seed=0)
    asked = [k for k in SINGLE if k <= len(recommender.item_ids)]
    single = {str(k): _single_ms(recommender, alone, k, k) for k in asked}
    generated = {str(k): _single_ms(recommender, alone, k, k, "generative") for k in asked}
    plain = {str(k): _uncached_ms(recommender, model, folder, alone, k) for k in asked}
    rates: dict[str, dict[str, float | int]] = {}
    peaks: dict[str, float] = {}
    before = matrix_gflops()
    for width in sorted(beams):  # upwards: the memory of a process is known only by its peak
        rates[str(width)] = spread(_rates(recommender, workload, width, users, repeats))
        peaks[str(width)] = round(peak_mb(), 1)
    work = {str(width): _gflop_a_user(recommender, workload, model, width) for width in beams}
    matrix = max(before, matrix_gflops())
    peers = _peers(recommender, workload, model, folder, repeats)
    return {
        "single_ms": {k: times["median"] for k, times in single.items()},
        "ratio_uncached": {k: round(times["median"] / generated[k]["median"], 2) for k, times in plain.items()},
        **peers,
        "limit_share": {k: round(rate["median"] * work[k] / matrix, 3) for k, rate in rates.items()},
        "benchmark": "decoding",
        "model_dir": folder.name,
        "items": len(recommender.item_ids),
        "histories": workload.name,
        "users_per_second": rates,
        "single_ms_spread": single,
        "generative_ms": generated,
        "uncached_ms": plain,
        "gflop_a_user": {k: round(gflop, 4) for k, gflop in work.items()},
        "matrix_gflops": round(matrix, 1),
        "peak_mb": peaks,
        "users": users,
        "threads": available_cores(),
        **describe(),
    }


def _rank(
    recommender: Recommender, histories: list[np.ndarray], top_k: int, beams: int, ranking: RankingMode = "hybrid"
) -> float:
    """Seconds of one call."""
    items = [recommender.item_ids[rows].tolist() for rows in histories]
    began = time.perf_counter()
    recommender.rank(items, top_k, beams=beams, ranking=ranking)
    return time.perf_counter() - began


def _single_ms(
    recommender: Recommender, histories: list[np.ndarray], top_k: int, beams: int, ranking: RankingMode = "hybrid"
) -> dict[str, float | int]:
    """Milliseconds of one user at a time, the first few left out, which warm up."""
    times = [_rank(recommender, [history], top_k, beams, ranking) * 1e3 for history in histories]
    return spread(times[_WARM:])


def _uncached_ms(
    recommender: Recommender, model: Any, folder: Path, histories: list[np.ndarray], beams: int
) -> dict[str, float | int]:
    """The same of a plain first version without a cache, which generates."""
    from tests.benchmarks.decoding_peers import UncachedDecoding

    plain, times = UncachedDecoding(model, ModelFolder(folder).items().vectors, recommender.trie), []
    for history in histories:
        began = time.perf_counter()
        plain.rank(history, beams, beams)
        times.append((time.perf_counter() - began) * 1e3)
    return spread(times[_WARM:])


def _rates(recommender: Recommender, workload: Workload, width: int, users: int, repeats: int) -> list[float]:
    """Users a second of each measurement but the first."""
    drawn = [workload.drawn(users, seed=repeat) for repeat in range(repeats + 1)]
    return [users / _rank(recommender, histories, width, width) for histories in drawn][1:]


def _peers(recommender: Recommender, workload: Workload, model: Any, folder: Path, repeats: int) -> dict[str, Any]:
    """Speed over the two peers, and the milliseconds on both sides."""
    from tests.benchmarks.decoding_peers import OriginalDecoding, generate_ms

    items, histories = ModelFolder(folder).items(), workload.drawn(_COMPARED * repeats + _WARM, seed=1)
    codes = items.codes
    original = OriginalDecoding(model, items.vectors, codes)
    beams, top_k = (min(count, len(codes)) for count in _ORIGINAL)
    theirs = []
    for history in histories:
        began = time.perf_counter()
        original.rank(history, beams, top_k)
        theirs.append((time.perf_counter() - began) * 1e3)
    ours = _single_ms(recommender, histories, top_k, beams)
    width, batch_users = min(_GENERATE[0], len(codes)), _GENERATE[1]
    names = ("d_model", "heads", "encoder_layers", "decoder_layers", "d_ff", "max_history")
    sizes = TrainingSettings(**{name: getattr(model.config, name) for name in names})
    drawn = workload.drawn(batch_users * (repeats + 1), seed=2)
    generated = generate_ms(drawn, codes, tuple(model.config.level_sizes), sizes, width, batch_users)
    rate = spread(_rates(recommender, workload, width, batch_users * 16, repeats))
    found = {"original_ms": spread(theirs[_WARM:]), "ours_ms": ours, "generate_ms": spread(generated)}
    return {
        "ratio_original": round(found["original_ms"]["median"] / ours["median"], 1),
        "ratio_generate": round(found["generate_ms"]["median"] * rate["median"] / 1e3, 1),
        **found,
    }


def _gflop_a_user(recommender: Recommender, workload: Workload, model: Any, width: int, users: int = 64) -> float:
    """Floating-point operations that a user's list needs at ``width`` beams, in 10^9, by the model's plain arithmetic.

    A token that is scored goes through each decoder layer and its level's head once; the encoders read each item once;
    the dense head compares one query with all items. Beams that end in a single item are not scored.
    """
    config, histories = model.config, workload.drawn(users, seed=3)
    counts = [_scored(recommender, history, min(width, len(recommender.item_ids))) for history in histories]
    items = np.array([min(len(history), config.max_history) for history in histories], dtype=np.float64)
    size = config.d_model
    block = 4 * size**2 + 2 * size * config.d_ff
    encoders = config.views * config.encoder_layers * items * (block + size * items)
    crossed = config.decoder_layers * items * 2 * size**2
    dense = config.views * size * len(recommender.item_ids) if config.dense else 0
    tokens = np.zeros_like(items)
    for level, vocabulary in enumerate(config.level_sizes):
        scored = np.array([found[level] for found in counts], dtype=np.float64)
        layer = block + 2 * size**2 + 2 * size * (items + level + 1)
        tokens += scored * (config.decoder_layers * layer + size * vocabulary)
    return float(2 * (encoders + crossed + dense + tokens).mean() / 1e9)


def _scored(recommender: Recommender, history: np.ndarray, width: int) -> list[int]:
    """How many beams of one user each level scores, where none is dropped that has its place among ``width``."""
    counter = _Counter(recommender.scorer)
    batch, trie = padded([history], recommender.max_history), recommender.trie
    if weight := recommender.weights.of("hybrid"):
        session = counter.start(batch)
        guide, scores = DenseGuide(trie, session.item_logits(), weight), first_log_probs(session, trie, 1)
        search_items(session, guide, scores, width, width, list_end=np.full(1, -np.inf, dtype=np.float32))
    else:
        beam_search(counter, trie, batch, beams=width, top_k=width)
    return counter.beams + [0] * (trie.depth - len(counter.beams))


class _Counter:
    """A scorer that notes how many beams each level asks it for."""

    def __init__(self, scorer: CodeScorer) -> None:
        self.scorer, self.beams = scorer, list[int]()

    def start(self, histories: HistoryBatch) -> ScorerSession:
        self.session = self.scorer.start(histories)
        return self

    def item_logits(self) -> np.ndarray:
        return self.session.item_logits()

    def matches(self, trie: CodeTrie) -> Matches | None:
        return self.session.matches(trie)

    def lifted(self) -> Lifted | None:
        return self.session.lifted()

    def first(self) -> np.ndarray:
        self.beams.append(1)
        return self.session.first()

    def advance(self, tokens: np.ndarray, parents: np.ndarray, users: np.ndarray) -> np.ndarray:
        self.beams.append(len(tokens))
        return self.session.advance(tokens, parents, users)
