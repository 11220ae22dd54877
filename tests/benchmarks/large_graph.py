"""The whole graph on the generated catalogue of :mod:`tests.benchmarks.scale`, and what its exported model costs.

The shop is what a user would bring: interactions and items as Parquet, and vectors of one's own. Two sizes are run one
after the other, and the larger is compared with the smaller. A million items take more than an hour on two cores.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import psutil

from genrec_core.data.histories import HistoryBatch, padded
from genrec_core.recommend.recommender import Recommender
from genrec_core.search.beams import CodeScorer, ScorerSession
from genrec_core.search.generative import beam_search
from genrec_core.search.trie import CodeTrie
from genrec_core.settings import RankingMode
from genrec_core.storage.artifacts import read_json, write_json
from genrec_core.storage.folders import latest
from tests.benchmarks.machine import describe
from tests.benchmarks.scale import catalogue

_TIMED_USERS, _TOP_K = 40, 100
_SHOWN = ("recall@10", "ndcg@10", "recall@100")


def run(
    items: tuple[int, ...] = (12_101, 1_000_000),
    users: tuple[int, ...] = (20_000, 200_000),
    epochs: int = 2,
    dim: int = 384,
    agreement_users: int = 200,
    work: Path | None = None,
) -> dict[str, Any]:
    """Materialise the graph on each catalogue, and measure the exported models.

    Args:
        items: sizes of the catalogues; the last is compared with the first.
        users: as many numbers.
        epochs: of each training.
        dim: width of the vectors.
        agreement_users: users for whom the search is compared with exact scores of all items.
        work: the folder to keep everything in, so that a broken run goes on; a temporary one where None.
    """
    with tempfile.TemporaryDirectory() as temporary:
        sizes = {
            str(size): _measured((work or Path(temporary)) / str(size), size, count, epochs, dim, agreement_users)
            for size, count in zip(items, users, strict=True)
        }
        storages = [str((work or Path(temporary)) / str(size) / "storage") for size in (items[0], items[-1])]
        turns = in_own_process(f"in_turns([_exported(Path(one)) for one in {storages}])")
    ratios = {f"{mode}_ratio": round(last / first, 2) for mode, (first, last) in turns.items()}
    return {**ratios, "ms": turns, "benchmark": "large_graph", "sizes": sizes, "epochs": epochs, **describe()}


def _measured(folder: Path, items: int, users: int, epochs: int, dim: int, agreement_users: int) -> dict[str, Any]:
    if not (folder / "raw" / "vector_ids.txt").is_file():
        write_shop(folder / "raw", items, users, dim)
    # Two epochs teach a decoder too little to do without the trie, which `max_miss_share` asks for.
    settings = {"training": {"epochs": epochs}, "gates": {"max_miss_share": 1.0}}
    environment = {
        **os.environ, "GENREC_RAW": str(folder / "raw"), "GENREC_STORAGE": str(folder / "storage"),
        "DAGSTER_HOME": str(folder / "home"), "PRESET": "auto", "GENREC_SETTINGS": json.dumps(settings),
    }  # fmt: skip
    runs = folder / "runs.json"  # what each run of the graph took: one that broke off goes on in the next
    done: list[dict[str, Any]] = read_json(runs) if runs.is_file() else []
    if not done or done[-1]["status"] != 0:
        began = time.monotonic()
        process = subprocess.Popen([sys.executable, "-m", "genrec_dagster.run"], env=environment, stdout=sys.stderr)
        peak = _Peak(process.pid)
        status = process.wait()
        minutes = round((time.monotonic() - began) / 60, 1)
        peak_gb, own_gb = peak.stop()
        done.append({"minutes": minutes, "peak_gb": peak_gb, "own_gb": own_gb, "status": status})
        write_json(runs, done)
    figures: dict[str, Any] = {"runs": done}
    storage = folder / "storage"
    metrics = read_json(latest("recall_metrics", storage) / "beauty_metrics.json")
    rankings = ("generative", "hybrid", "dense", "neighbors", "popularity")
    figures |= {name: {of: metrics[name].get(of) for of in _SHOWN} for name in rankings if name in metrics}
    model, histories = _exported(storage)
    figures |= in_own_process(f"decode(Path({str(model)!r}), Path({str(histories)!r}), {agreement_users})")
    return figures


def _exported(storage: Path) -> tuple[Path, Path]:
    """The newest exported model of a storage, and the file of its histories."""
    return latest("onnx_encoder", storage), latest("user_histories", storage) / "frame.parquet"


def in_own_process(work: str) -> Any:
    """What a function of this module returns in a process of its own, which has one thread."""
    program = (
        "import json\nfrom pathlib import Path\nfrom tests.benchmarks.large_graph import *\n"
        f"from tests.benchmarks.large_graph import _exported\nprint(json.dumps({work}))"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(ran.stdout)


def write_shop(folder: Path, items: int, users: int, dim: int) -> None:
    """Write the generated catalogue as tables; an item's text is its category, a user's seconds are an hour apart."""
    folder.mkdir(parents=True, exist_ok=True)
    histories, vectors = catalogue(items, users, dim)
    owner = np.repeat(np.arange(users), histories.lengths)
    step = np.arange(len(owner)) - histories.offsets[owner]
    bought = pl.DataFrame({"user_id": owner, "item_id": histories.rows, "timestamp": 1_600_000_000 + 3600 * step})
    bought.with_columns("u" + pl.col("user_id").cast(str)).write_parquet(folder / "interactions.parquet")
    rows = np.arange(items)
    names = pl.DataFrame({"item_id": rows}).with_columns(title="Item " + pl.col("item_id").cast(str))
    names.write_parquet(folder / "items.parquet")
    np.save(folder / "vectors.npy", vectors)
    (folder / "vector_ids.txt").write_text("\n".join(map(str, rows.tolist())) + "\n")


def decode(model: Path, histories: Path, agreement_users: int) -> dict[str, Any]:
    """What the exported model needs in this process, and the share of the exact top 100 of the hybrid that is found."""
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        recommender = Recommender.open(model)
        seconds.append(time.perf_counter() - began)
    read, ms = _read(histories, max(agreement_users, _TIMED_USERS)), dict[str, float]()
    for mode in recommender.weights.modes():
        ms[mode] = _ms([_seconds(recommender, history, mode) for history in read[:_TIMED_USERS]])
    memory = psutil.Process().memory_info()
    own_mb = round((memory.rss - memory.shared) / 2**20)  # what is mapped from files, other processes share
    # The first opening reads the files from the disk, where they are not in memory.
    found = {"load_s": round(min(seconds), 2), "first_load_s": round(seconds[0], 2), "ms": ms, "own_mb": own_mb}
    if agreement_users:
        found["agreement_100"] = _agreement(recommender, read[:agreement_users])
    return found


def in_turns(models: Sequence[tuple[Path, Path]]) -> dict[str, list[float]]:
    """Milliseconds of processor time a user by ranking, one for each model; the models are asked by turns.

    Args:
        models: folders of exported models, each with the file of its histories.
    """
    opened = [(Recommender.open(model), _read(histories, _TIMED_USERS)) for model, histories in models]
    ms: dict[str, list[float]] = {}
    for mode in opened[0][0].weights.modes():
        taken = [[_seconds(asked, read[user], mode) for asked, read in opened] for user in range(_TIMED_USERS)]
        ms[mode] = [_ms(of_model) for of_model in zip(*taken, strict=True)]
    return ms


def _read(histories: Path, users: int) -> list[list[Any]]:
    """The histories of about as many users without the last item."""
    lists = pl.read_parquet(histories, columns=["item_ids"])["item_ids"].head(4 * users)
    return [history[:-1] for history in lists.to_list() if len(history) > 1][:users]


def _seconds(recommender: Recommender, history: list[Any], mode: RankingMode) -> float:
    began = time.process_time()
    recommender.rank([history], _TOP_K, ranking=mode)
    return time.process_time() - began


def _ms(seconds: Sequence[float]) -> float:
    return round(1000 * float(np.median(seconds)), 2)


def _agreement(recommender: Recommender, read: list[list[Any]]) -> float:
    weight, trie = recommender.weights.of("hybrid"), recommender.trie
    shares = []
    for history in read:
        batch = padded([recommender._rows_of(history)], recommender.max_history)
        found = beam_search(recommender.scorer, trie, batch, beams=_TOP_K, top_k=_TOP_K, dense_weight=weight)
        exact = beam_search(
            _Exact(recommender.scorer), trie, batch, beams=trie.n_items, top_k=_TOP_K, dense_weight=weight
        )
        shares.append(len(np.intersect1d(found.items, exact.items)) / _TOP_K)
    return round(float(np.mean(shares)), 4)


class _Exact:
    """A scorer whose every item is scored, however large the catalogue."""

    def __init__(self, scorer: CodeScorer) -> None:
        self.scorer = scorer

    def start(self, histories: HistoryBatch) -> ScorerSession:
        session = self.scorer.start(histories)
        vars(session)["matches"] = _nothing
        return session


def _nothing(trie: CodeTrie) -> None:
    """Every item is scored."""


class _Peak:
    """The largest memory of a process and its children together, in GB; what they share counts once for each."""

    def __init__(self, pid: int) -> None:
        self.process, self.ended = psutil.Process(pid), threading.Event()
        self.most = np.zeros(2)  # with what is mapped from files, and without
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def _watch(self) -> None:
        while not self.ended.wait(2):
            try:
                family = [one.memory_info() for one in (self.process, *self.process.children(recursive=True))]
                now = np.array([(one.rss, one.rss - one.shared) for one in family]).sum(axis=0) / 1e9
                self.most = np.maximum(self.most, now)
            except psutil.Error:
                continue

    def stop(self) -> list[float]:
        self.ended.set()
        self.thread.join()
        return self.most.round(2).tolist()
