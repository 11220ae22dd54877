"""Serves a request file: streams it through a recommender into ``user_id,pred_1..pred_K``, whole or not at all.

Requests are decoded in blocks of lines whose bounds depend on nothing but the line numbers and the batch size. Which
users are decoded together, and with that every bit of a row, is therefore the same for any number of workers and of
shards.
"""

import csv
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TextIO

from tqdm import tqdm

from genrec_core.errors import GenrecError
from genrec_core.graphs import default_threads
from genrec_core.recommend.constraints import Constraints, Selection
from genrec_core.recommend.prediction_files import CsvPredictions, PredictionWriter, is_parquet
from genrec_core.recommend.recommender import Ranking
from genrec_core.recommend.remote_ranking import RankingRun, Ranks, RemoteRanking
from genrec_core.recommend.requests import Rejected, Request, count_lines, read_requests
from genrec_core.recommend.shards import Shard
from genrec_core.settings import PredictionSettings
from genrec_core.storage.artifacts import atomic_file, is_stream

_BLOCK_BATCHES = 16  # batches read ahead, so that users of like length can be decoded together
_BLOCK_ITEMS = 1 << 18  # history items decoded at once, at most (one history may be longer)
_BLOCK_MASK_BYTES = 1 << 26  # masks of one block: each constraint of its own takes a byte an item
_WORKERS_A_BLOCK = 8  # workers that one block keeps busy
_SHOWN_CONTENT = 200  # characters of a rejected line that are kept
_SHOWN_WARNINGS = 20


@dataclass
class PredictionReport:
    """What became of a request file.

    Args:
        users: requests served; a user who asks twice counts twice.
        rows: rows written, one a request.
        top_k: item columns a row.
        history_items: entries of all histories.
        unknown_items: those of them dropped because the catalogue does not hold them.
        empty_histories: requests without a known item, which got the popular items.
        rejected: malformed lines, listed in ``OUT.rejected``.
        short_rows: rows with fewer than ``top_k`` items; their last cells are empty.
        narrow: requests whose constraints leave fewer than ``top_k`` items of the catalogue; they got all of them that
            they have not seen.
        warnings: values of rules that no item has, the first few.
        seconds: wall time.
    """

    users: int = 0
    rows: int = 0
    top_k: int = 0
    history_items: int = 0
    unknown_items: int = 0
    empty_histories: int = 0
    rejected: int = 0
    short_rows: int = 0
    narrow: int = 0
    warnings: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def users_per_second(self) -> float:
        """Requests served a second."""
        return self.users / self.seconds if self.seconds else 0.0

    def lines(self, output: Path) -> list[str]:
        """The report in words; what did not happen is not mentioned."""
        said = [
            f"{self.users} users served in {self.seconds:.1f} s ({self.users_per_second:.0f} a second): {output}",
            self.unknown_items and f"{self.unknown_items} history items are not in the catalogue and were dropped",
            self.empty_histories and f"{self.empty_histories} users have no known item and got the popular items",
            self.short_rows and f"{self.short_rows} users got fewer than {self.top_k} items: no more are left for them",
            self.narrow
            and f"{self.narrow} users have constraints that leave fewer than {self.top_k} items and got all of those",
            *self.warnings,
            self.rejected and f"{self.rejected} malformed lines were not served: {_place_of_rejected(output)}",
        ]
        return [line for line in said if isinstance(line, str)]


def rejected_path(output: Path) -> Path:
    """Where the malformed lines of a request file go: ``OUT.rejected``, unless ``output`` is a pipe or a device."""
    return output.with_name(output.name + ".rejected")


def _place_of_rejected(output: Path) -> str:
    return "write to a file to see them" if is_stream(output) else str(rejected_path(output))


def predict_file(
    recommender: Ranks,
    source: Path,
    output: Path,
    settings: PredictionSettings,
    *,
    constraints: Constraints | None = None,
    shard: Shard | None = None,
    show_progress: bool = True,
    remote: RemoteRanking | None = None,
) -> PredictionReport:
    """Serve every request of ``source``, in its order.

    ``output`` appears whole or not at all. Malformed lines go to ``OUT.rejected`` (CSV: line, reason, content); without
    any, no such file is left. Memory does not grow with the number of users. A pipe, a device or ``/dev/stdout`` gets
    the rows as they come, and has no ``OUT.rejected``: its malformed lines are counted alone.

    Args:
        recommender: a :class:`~genrec_core.recommend.recommender.Recommender`; opened with one thread an operator,
            since batches are decoded side by side.
        source: requests in either form of :func:`~genrec_core.recommend.requests.read_requests`, or Parquet by its
            name.
        output: the file to write, ``user_id,pred_1..pred_K``; Parquet by its name, else CSV. A cell is empty where no
            item is left.
        settings: items a user, beams, batch size, workers, a rule for all, whether seen items are left out.
        constraints: what all lists are restricted to, beside the rule of ``settings`` and what a request itself says.
        shard: the part of ``source`` to serve; None for the whole. CSV parts but the first have no header, so that they
            can be joined as they are.
        show_progress: a bar on stderr with users a second.
        remote: ranks the requests; None: ``recommender`` does. Only it says which items may be recommended at all.

    Raises:
        GenrecError: ``source`` cannot be read or holds no request that can be served (a shard may), the constraints
            leave no item, or ``output`` cannot be written.
    """
    began = time.monotonic()
    _require_usable(source, output, shard)
    report = PredictionReport(top_k=settings.top_k)
    run = (Constraints.of(rule=settings.rule), constraints or Constraints())
    recommender.selection(*run)
    reader = _Reader(source, settings, shard, lambda own: recommender.selection(*run, own))
    try:
        beside = None if is_stream(output) else rejected_path(output)
        with RejectedLines(beside, reader.headed_before) as rejected, atomic_file(output) as part:
            with _writer(part, output, source, settings, shard) as writer, _bar(reader, show_progress) as bar:
                decoder = _Decoder(recommender, RankingRun(settings, run), report, remote)
                _serve(decoder, reader.blocks(), _Sink(writer, rejected, bar), report)
            if not report.users and shard is None:
                raise NothingServedError(
                    f"{source}: none of its {report.rejected} lines is a request, the first: {rejected.first}; "
                    f"{'' if is_stream(output) else 'see '}{_place_of_rejected(output)}"
                )
    except _write_errors() as error:
        reason = getattr(error, "strerror", None) or error
        left = "" if is_stream(output) else "; it is left as it was"
        raise GenrecError(f"{output}: cannot be written ({reason}){left}") from error
    report.seconds = time.monotonic() - began
    return report


def _write_errors() -> tuple[type[Exception], ...]:
    """What a full disk or a missing right raises; polars has errors of its own, and is there only where it is used."""
    polars = sys.modules.get("polars")
    return (OSError, polars.exceptions.PolarsError) if polars else (OSError,)


class _Reader:
    """The lines of a request file that this run serves, block by block."""

    def __init__(
        self,
        source: Path,
        settings: PredictionSettings,
        shard: Shard | None,
        selection: Callable[[Constraints], Selection],
    ) -> None:
        self.source, self._selection, self._mask_bytes = source, selection, 0
        self.block = _BLOCK_BATCHES * settings.batch_users
        self.parquet = is_parquet(source)
        self.lines = None if shard is None else shard.lines(self.count(), self.block)

    def count(self) -> int:
        """Lines of the whole file."""
        total = _parquet_rows(self.source) if self.parquet else count_lines(self.source)
        if not total:
            raise GenrecError(f"{self.source}: no requests in it; write lines `user item item ...`, or CSV or Parquet")
        return total

    def check(self, own: Constraints) -> None:
        """Refuse constraints that leave no item; note how large a mask is."""
        mask = self._selection(own).mask
        self._mask_bytes = 0 if mask is None else mask.nbytes

    def outcomes(self, lines: range | None) -> Iterator[Request | Rejected]:
        """What the lines hold."""
        if not self.parquet:
            return read_requests(self.source, self.check, lines)
        from genrec_core.recommend.parquet_requests import read_parquet_requests

        return read_parquet_requests(self.source, self.check, lines)

    def headed_before(self) -> bool:
        """Whether an earlier shard rejects a line, and so begins the joined list of them."""
        if self.lines is None:
            return False
        return any(isinstance(outcome, Rejected) for outcome in self.outcomes(range(1, self.lines.start)))

    def blocks(self) -> Iterator[list[Request | Rejected]]:
        """Outcomes of a block of lines, or of a part of one with many histories or masks; see the module's start."""
        held: list[Request | Rejected] = []
        size, masks = 0, set[str]()
        for outcome in self.outcomes(self.lines):
            of_block = (outcome.line - 1) // self.block
            own = {outcome.constraints.key} if isinstance(outcome, Request) and outcome.constraints else set[str]()
            full = size >= _BLOCK_ITEMS or len(masks | own) * self._mask_bytes > _BLOCK_MASK_BYTES
            if held and (full or of_block != (held[0].line - 1) // self.block):
                yield held
                held, size, masks = [], 0, set()
            held.append(outcome)
            masks |= own
            size += len(outcome.item_ids) if isinstance(outcome, Request) else len(outcome.content)
        if held:
            yield held


class NothingServedError(GenrecError):
    """Every line of a request file is malformed."""


class RejectedLines:
    """``OUT.rejected``: written aside and published at the end; removed if there is no line for it.

    Args:
        path: the file; None where the lines are not kept.
        headed_before: tells whether it continues a file that has the header.
    """

    def __init__(self, path: Path | None, headed_before: Callable[[], bool]) -> None:
        self.path, self.first, self._headed_before = path, "", headed_before
        self._stack = ExitStack()
        self._file: TextIO | None = None

    def __enter__(self) -> "RejectedLines":
        return self

    def add(self, line: Rejected) -> None:
        """Note a line with its number, the reason and the start of its text."""
        self.first = self.first or f"line {line.line}: {line.reason}"
        if self.path is None:
            return
        if self._file is None:
            part = self._stack.enter_context(atomic_file(self.path))
            self._file = self._stack.enter_context(part.open("w", encoding="utf-8", newline=""))
            if not self._headed_before():
                self._file.write("line,reason,content\n")
        texts = (
            text.replace("\r", "\\r") for text in (line.reason, line.content[:_SHOWN_CONTENT])
        )  # csv quotes \n alone
        csv.writer(self._file, lineterminator="\n").writerow([line.line, *texts])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Publish, also where no line at all could be served; leave an older file alone on any other error."""
        if kind is not None and not issubclass(kind, NothingServedError):
            self._stack.__exit__(kind, error, trace)
            return
        self._stack.close()
        if self._file is None and self.path is not None and self.path.is_file():
            self.path.resolve().unlink()  # a link stays


@dataclass(frozen=True)
class _Sink:
    """Where the outcomes of a request file go."""

    output: PredictionWriter
    rejected: RejectedLines
    bar: "tqdm[None]"


class _Decoder:
    """Ranks blocks of requests, several at once: batches side by side in threads.

    onnxruntime and numpy's products leave the interpreter to others while they compute, and one model in memory is
    shared, so threads are as fast as processes here and do not multiply the memory.
    """

    def __init__(
        self, recommender: Ranks, run: RankingRun, report: PredictionReport, remote: RemoteRanking | None
    ) -> None:
        self.recommender, self.run, self.report, self.remote = recommender, run, report, remote
        self.workers = run.settings.workers or default_threads()

    def ranked(self, blocks: Iterable[list[Request | Rejected]]) -> Iterator[tuple["_Block", Ranking | None]]:
        """Blocks in order, each with the ranking of its requests."""
        divided = (_Block.of(outcomes) for outcomes in blocks)
        return self._ranked_here(divided) if self.remote is None else self.remote.ranked(self.run, divided)

    def _ranked_here(self, blocks: Iterable["_Block"]) -> Iterator[tuple["_Block", Ranking | None]]:
        ahead = 1 + -(-self.workers // _WORKERS_A_BLOCK)
        batches, windows = ThreadPoolExecutor(self.workers), ThreadPoolExecutor(ahead)
        waiting: deque[tuple[_Block, Future[Ranking | None]]] = deque()
        try:
            for block in blocks:
                ranking = windows.submit(self.run.rank, self.recommender, block.requests, batches)
                waiting.append((block, ranking))
                if len(waiting) > ahead:
                    done, future = waiting.popleft()
                    yield done, future.result()
            for done, future in waiting:
                yield done, future.result()
        finally:
            batches.shutdown(wait=False, cancel_futures=True)
            windows.shutdown(wait=True, cancel_futures=True)

    def note(self, requests: list[Request]) -> None:
        """Count what the constraints of requests do."""
        for request in requests:
            if request.constraints:
                selection = self.recommender.selection(*self.run.constraints, request.constraints)
                self.report.narrow += selection.count < self.run.settings.top_k
                new = [warning for warning in selection.warnings if warning not in self.report.warnings]
                self.report.warnings += new[: _SHOWN_WARNINGS - len(self.report.warnings)]


@dataclass(frozen=True)
class _Block:
    """What some consecutive lines hold."""

    requests: list[Request]
    malformed: list[Rejected]

    @classmethod
    def of(cls, outcomes: list[Request | Rejected]) -> "_Block":
        requests = [outcome for outcome in outcomes if isinstance(outcome, Request)]
        return cls(requests, [outcome for outcome in outcomes if isinstance(outcome, Rejected)])


def _serve(
    decoder: _Decoder, blocks: Iterable[list[Request | Rejected]], sink: _Sink, report: PredictionReport
) -> None:
    """Write block after block, and count in ``report`` what became of every line."""
    for block, ranking in decoder.ranked(blocks):
        for line in block.malformed:
            sink.rejected.add(line)
        report.rejected += len(block.malformed)
        if ranking is not None:
            sink.output.write([request.user_id for request in block.requests], ranking.items, ranking.counts)
            decoder.note(block.requests)
            report.history_items += sum(len(request.item_ids) for request in block.requests)
            _count(ranking, report)
        sink.bar.update(len(block.requests) + len(block.malformed))
    sink.bar.total = sink.bar.n  # a header and blank lines were counted too
    sink.bar.refresh()


def _count(ranking: Ranking, report: PredictionReport) -> None:
    report.users += len(ranking.counts)
    report.rows += len(ranking.counts)
    report.unknown_items += int(ranking.unknown.sum())
    report.empty_histories += int(ranking.popular.sum())
    report.short_rows += int((ranking.counts < report.top_k).sum())


@contextmanager
def _writer(
    part: Path, output: Path, source: Path, settings: PredictionSettings, shard: Shard | None
) -> Iterator[PredictionWriter]:
    """The writer of ``part``, of the form that the name of ``output`` tells; finished unless an error comes."""
    writer: PredictionWriter
    if is_parquet(output):
        from genrec_core.recommend.parquet_predictions import ParquetPredictions
        from genrec_core.recommend.parquet_requests import user_type

        writer = ParquetPredictions(part, settings.top_k, user_type(source) if is_parquet(source) else None)
    else:
        writer = CsvPredictions(part, settings.top_k, header=shard is None or shard.number == 1)
    try:
        yield writer
        writer.close()
    finally:
        writer.discard()


def _parquet_rows(path: Path) -> int:
    from genrec_core.recommend.parquet_requests import count_rows

    return count_rows(path)


def _require_usable(source: Path, output: Path, shard: Shard | None) -> None:
    """Refuse before any work what must fail at its end."""
    if output.is_dir():
        raise GenrecError(f"{output}: is a folder; name a file to write")
    if source.exists() and source.resolve() in (output.resolve(), rejected_path(output).resolve()):
        raise GenrecError(f"{output}: would overwrite the requests in {source}; name another file to write")
    if is_parquet(output) and is_stream(output):
        raise GenrecError(f"{output}: is no regular file, which Parquet needs; name a file, or write CSV")
    if source.exists() and not source.is_file() and (shard is not None or is_parquet(source)):
        raise GenrecError(f"{source}: is no regular file, which shards and Parquet need; write the requests to one")


def _bar(reader: _Reader, show: bool) -> "tqdm[None]":
    """A progress bar on stderr over the lines to serve, open-ended where they come from a pipe."""
    total = None
    if show and reader.source.is_file():
        total = reader.count() if reader.lines is None else len(reader.lines)
    return tqdm(total=total, unit=" users", file=sys.stderr, disable=not show, desc="predict", mininterval=0.5)
