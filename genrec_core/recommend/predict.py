"""Serves a request file: streams it through a recommender into ``user_id,pred_1..pred_K``, whole or not at all.

Requests are decoded in blocks of lines. The bounds of a block depend only on line numbers and the batch size. So the
same users are decoded together, and each row is the same bit for bit, with any number of workers and of shards.
"""

import csv
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from tqdm import tqdm

from genrec_core.cores import available_cores
from genrec_core.errors import GenrecError
from genrec_core.recommend.constraints import Constraints, Selection
from genrec_core.recommend.prediction_files import is_parquet, open_predictions
from genrec_core.recommend.recommender import Ranking, Recommender
from genrec_core.recommend.remote_ranking import RankingRun, RemoteRanking
from genrec_core.recommend.request_files import Rejected, Request, Shard, count_lines, read_requests
from genrec_core.settings import PredictionSettings
from genrec_core.storage.artifacts import atomic_file, is_stream

_BLOCK_BATCHES = 16  # batches read ahead, so that users with histories of similar length can be decoded together
_BLOCK_ITEMS = 1 << 18  # history items decoded at once, at most (one history may be longer)
_BLOCK_MASK_BYTES = 1 << 26  # masks of one block: each distinct constraint takes a byte an item
_WORKERS_A_BLOCK = 8  # workers that one block keeps busy
_SHOWN_WARNINGS = 20
_SHOWN_CONTENT = 200  # characters of a rejected line that are kept
_SHOWN_REASONS = 3
_FEW_REJECTED = 0.1  # share of a file's lines: a file of new users may hold some bad ones


@dataclass
class PredictionReport:
    """How many requests of a file were served, and how many were not."""

    users: int = 0  # requests served, a row each; a user with two requests counts twice
    top_k: int = 0  # item columns a row
    history_items: int = 0  # entries of all histories
    unknown_items: int = 0  # those of them dropped because the catalogue does not hold them
    empty_histories: int = 0  # requests without a known item, which got the fallback
    rejected: int = 0  # malformed lines, listed in OUT.rejected
    short_rows: int = 0  # rows with fewer than top_k items; their last cells are empty
    fallback: str = "popular"  # what they got
    exclude_seen: bool = True  # whether lists leave out the items of the user's history
    warnings: list[str] = field(default_factory=list)  # values of rules that no item has, the first few
    seconds: float = 0.0  # wall time

    @property
    def users_per_second(self) -> float:
        return self.users / self.seconds if self.seconds else 0.0

    def lines(self, output: Path) -> list[str]:
        """The report in words, without what did not happen."""
        served = f"{self.users} users served in {self.seconds:.1f} s ({self.users_per_second:.0f} a second): {output}"
        notes = [
            (self.unknown_items, "history items are not in the catalogue and were dropped"),
            (self.empty_histories, f"users have no known item and got the {self.fallback} items"),
            (self.short_rows, f"users got fewer than {self.top_k} items: no more are left for them"),
        ]
        lines = [served, *(f"{count} {note}" for count, note in notes if count), *self.warnings]
        if self.rejected:
            lines.append(f"{self.rejected} malformed lines were not served: {_place_of_rejected(output)}")
        return lines

    def add(self, block: "_Block", ranking: Ranking, selection_of: Callable[[Constraints], Selection]) -> None:
        self.rejected += len(block.malformed)
        self.users += len(block.requests)
        self.history_items += sum(len(request.item_ids) for request in block.requests)
        self.unknown_items += int(ranking.unknown.sum())
        self.empty_histories += int(ranking.popular.sum())
        self.short_rows += int((ranking.counts < self.top_k).sum())
        for request in block.requests:
            if request.constraints:
                warnings = selection_of(request.constraints).warnings
                new = [warning for warning in warnings if warning not in self.warnings]
                self.warnings += new[: _SHOWN_WARNINGS - len(self.warnings)]


def rejected_path(output: Path) -> Path:
    """Where the malformed lines of a request file go: ``OUT.rejected``, unless ``output`` is a pipe or a device."""
    return output.with_name(output.name + ".rejected")


def _place_of_rejected(output: Path) -> str:
    return "write to a file to see them" if is_stream(output) else str(rejected_path(output))


class NothingServedError(GenrecError):
    """Every line of a request file is malformed."""


def predict_file(
    recommender: Recommender,
    source: Path,
    output: Path,
    settings: PredictionSettings,
    *,
    constraints: Constraints | None = None,
    shard: Shard | None = None,
    show_progress: bool = True,
    remote: RemoteRanking | None = None,
    on_ranking: Callable[[list[Request], Ranking], None] | None = None,
) -> PredictionReport:
    """Serve every request of ``source``, in its order.

    ``output`` appears whole or not at all. Malformed lines go to ``OUT.rejected``; without any, no such file is left. A
    pipe, a device or ``/dev/stdout`` gets the rows as they come, and its malformed lines are only counted. Memory does
    not grow with the number of users. It is an error if no request can be served, but a shard may have none.

    Args:
        source, output: files in the forms of :mod:`~genrec_core.recommend.request_files` and ``prediction_files``.
        settings: what to recommend and how; its rule holds for all requests.
        constraints: restrict all lists, together with the rule of ``settings`` and the constraints of each request.
        shard: the part of ``source`` to serve; None for the whole. Only the first CSV part has a header, so that the
            parts can be joined as they are. The rejected lines of each part have one.
        show_progress: a bar on stderr with users a second.
        remote: ranks the requests on an engine; None: ``recommender`` does.
        on_ranking: is given the requests of each block with their ranking, in the order of the file.
    """
    began = time.monotonic()
    _require_usable(source, output, shard)
    exclude_seen = recommender.excludes_seen(settings.exclude_seen)
    report = PredictionReport(top_k=settings.top_k, exclude_seen=exclude_seen, fallback=settings.fallback)
    run = RankingRun(settings, (Constraints.of(rule=settings.rule), constraints or Constraints()))
    recommender.selection(*run.constraints)  # raises before any work if they leave no item
    blocks = _Blocks(source, recommender, run, shard)
    rejected, first = None if is_stream(output) else rejected_path(output), ""
    try:
        with _rejected_lines(rejected) as reject, atomic_file(output) as part:
            header = shard is None or shard.number == 1
            with open_predictions(part, output, settings.top_k, header, source, recommender.text_ids) as write:
                for block, ranking in _progress(_ranked(recommender, run, blocks, remote), blocks, show_progress):
                    for line in block.malformed:
                        first = first or f"line {line.line}: {line.reason}"
                        reject(line)
                    write([request.user_id for request in block.requests], ranking.items, ranking.counts)
                    report.add(block, ranking, blocks.selection_of)
                    if on_ranking:
                        on_ranking(block.requests, ranking)
            if not report.users and shard is None:
                raise NothingServedError(
                    f"{source}: none of its {report.rejected} lines is a request, the first: {first}; "
                    f"{'' if is_stream(output) else 'see '}{_place_of_rejected(output)}"
                )
        if rejected and not report.rejected and rejected.is_file():
            rejected.resolve().unlink(missing_ok=True)  # the file behind a link, so that the link stays
    except OSError as error:
        left = "" if is_stream(output) else "; it is left as it was"
        raise GenrecError(f"{output}: cannot be written ({error.strerror or error}){left}") from error
    report.seconds = time.monotonic() - began
    return report


def require_request_file(report: PredictionReport, rejected: Path, largest_share: float) -> None:
    """Refuse the answer to a file that is no request file, although some lines read like requests: a page, a letter.

    A line with a user id alone is a new user's request, but it is no sign of a request file: words stand alone in any
    text. So the lines in the file ``rejected`` are compared with the lines that hold a known item. It is an error if
    their share of both is larger than ``largest_share``, and at least a tenth of all lines were rejected.
    """
    known, lines = report.users - report.empty_histories, report.users + report.rejected
    if report.rejected <= largest_share * (report.rejected + known) or report.rejected < _FEW_REJECTED * lines:
        return
    with rejected.open(encoding="utf-8", newline="") as content:
        first = list(islice(csv.DictReader(content), _SHOWN_REASONS))
    reasons = "; ".join(f"line {row['line']}: {row['reason']}" for row in first)
    raise GenrecError(
        f"{report.rejected} of its {lines} lines are no requests and {known} hold a known item, so nothing is served; "
        f"the first: {reasons}; send lines `user item item ...`, CSV or Parquet, or raise "
        "request_predictions.max_rejected"
    )


@contextmanager
def _rejected_lines(path: Path | None) -> Iterator[Callable[[Rejected], None]]:
    """Yield a function that adds a line to the CSV of rejected lines, which keeps none if ``path`` is None.

    The file appears at the end of the block, also after a :class:`NothingServedError`; after any other error an older
    file stays.
    """
    if path is None:
        yield lambda line: None
        return
    nothing_served: NothingServedError | None = None
    with atomic_file(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["line", "reason", "content"])

        def add(line: Rejected) -> None:
            texts = (text.replace("\r", "\\r") for text in (line.reason, line.content[:_SHOWN_CONTENT]))
            writer.writerow([line.line, *texts])  # csv quotes \n, but not \r

        try:
            yield add
        except NothingServedError as error:
            nothing_served = error
    if nothing_served:
        raise nothing_served


@dataclass
class _Block:
    """What consecutive lines hold, and what bounds the memory that they take."""

    requests: list[Request] = field(default_factory=list)
    malformed: list[Rejected] = field(default_factory=list)
    items: int = 0  # of all histories, and characters of malformed lines
    masks: set[str] = field(default_factory=set)  # keys of distinct constraints

    def __len__(self) -> int:
        return len(self.requests) + len(self.malformed)

    def add(self, outcome: Request | Rejected) -> None:
        if isinstance(outcome, Rejected):
            self.malformed.append(outcome)
            self.items += len(outcome.content)
            return
        self.requests.append(outcome)
        self.items += len(outcome.item_ids)
        if outcome.constraints:
            self.masks.add(outcome.constraints.key)


class _Blocks:
    """The lines of a request file that this run serves, block by block."""

    def __init__(self, source: Path, recommender: Recommender, run: RankingRun, shard: Shard | None) -> None:
        self.source, self._recommender, self._run, self._mask_bytes = source, recommender, run, 0
        self._block_lines = _BLOCK_BATCHES * run.settings.batch_users
        self.lines = None if shard is None else shard.lines(count_lines(source), self._block_lines)

    def selection_of(self, own: Constraints) -> Selection:
        """What a request's constraints leave; raises if that is nothing."""
        return self._recommender.selection(*self._run.constraints, own)

    def _check(self, own: Constraints) -> None:
        mask = self.selection_of(own).mask
        self._mask_bytes = 0 if mask is None else mask.nbytes

    def __iter__(self) -> Iterator[_Block]:
        """A block of lines each, or a part of one if it has many history items or masks."""
        block, number = _Block(), 0
        for outcome in read_requests(self.source, self._check, self.lines, text_ids=self._recommender.text_ids):
            full = block.items >= _BLOCK_ITEMS or len(block.masks) * self._mask_bytes >= _BLOCK_MASK_BYTES
            number_before, number = number, (outcome.line - 1) // self._block_lines
            if len(block) and (full or number != number_before):
                yield block
                block = _Block()
            block.add(outcome)
        if len(block):
            yield block


def _ranked(
    recommender: Recommender, run: RankingRun, blocks: Iterable[_Block], remote: RemoteRanking | None
) -> Iterator[tuple[_Block, Ranking]]:
    """Blocks in order, each with the ranking of its requests."""
    waiting: deque[_Block] = deque()

    def requests() -> Iterator[list[Request]]:
        for block in blocks:
            waiting.append(block)
            yield block.requests

    rankings = remote.rankings(run, requests()) if remote else _rankings_here(recommender, run, requests())
    for ranking in rankings:
        yield waiting.popleft(), ranking


def _rankings_here(recommender: Recommender, run: RankingRun, blocks: Iterable[list[Request]]) -> Iterator[Ranking]:
    """Rankings by threads of this process, in the order of the blocks.

    onnxruntime and NumPy release the interpreter while they compute, and all threads share one model. So threads are as
    fast as processes here and take less memory.
    """
    workers = run.settings.workers or available_cores()
    ahead = 1 + -(-workers // _WORKERS_A_BLOCK)  # blocks ranked at once, so that no worker waits for the end of one
    batch_pool, block_pool = ThreadPoolExecutor(workers), ThreadPoolExecutor(ahead)
    waiting: deque[Future[Ranking]] = deque()
    try:
        for requests in blocks:
            waiting.append(block_pool.submit(run.rank, recommender, requests, batch_pool))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        batch_pool.shutdown(wait=False, cancel_futures=True)
        block_pool.shutdown(wait=True, cancel_futures=True)


def _progress(
    ranked: Iterator[tuple[_Block, Ranking]], blocks: _Blocks, show: bool
) -> Iterator[tuple[_Block, Ranking]]:
    """``ranked``, with a bar on stderr over the lines to serve; a bar without an end where they come from a pipe."""
    total = None
    if show and blocks.source.is_file():
        total = count_lines(blocks.source) if blocks.lines is None else len(blocks.lines)
    with tqdm(total=total, unit=" users", file=sys.stderr, disable=not show, desc="predict", mininterval=0.5) as bar:
        for block, ranking in ranked:
            yield block, ranking
            bar.update(len(block))
        bar.total = bar.n  # the header and blank lines were counted too
        bar.refresh()


def _require_usable(source: Path, output: Path, shard: Shard | None) -> None:
    """Refuse before any work what must fail at its end."""
    for path in (output, rejected_path(output)):
        if path.is_dir():
            raise GenrecError(f"{path}: is a folder; name a file to write, or move it away")
    if source.exists() and source.resolve() in (output.resolve(), rejected_path(output).resolve()):
        raise GenrecError(f"{output}: would overwrite the requests in {source}; name another file to write")
    if is_parquet(output) and is_stream(output):
        raise GenrecError(f"{output}: is no regular file, which Parquet needs; name a file, or write CSV")
    if source.exists() and not source.is_file() and (shard is not None or is_parquet(source)):
        raise GenrecError(f"{source}: is no regular file, which shards and Parquet need; write the requests to one")
