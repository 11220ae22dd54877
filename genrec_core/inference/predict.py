"""Serves a request file: streams it through a recommender into ``user_id,pred_1..pred_K``, whole or not at all."""

import csv
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, TextIO

import numpy as np
from tqdm import tqdm

from genrec_core.artifacts import atomic_file
from genrec_core.errors import GenrecError
from genrec_core.inference.recommender import Ranking
from genrec_core.inference.requests import Rejected, Request, read_requests
from genrec_core.settings import PredictionSettings, RankingMode

_WINDOW_BATCHES = 16  # batches read ahead, so that users of like length can be decoded together
_WINDOW_ITEMS = 1 << 18  # history items read ahead, at most (one history may be longer)
_SHOWN_CONTENT = 200  # characters of a rejected line that are kept
_BLOCK_BYTES = 1 << 20


class Ranks(Protocol):
    """What :func:`predict_file` needs of a recommender."""

    def rank(
        self,
        histories: list[list[int]],
        top_k: int,
        *,
        beams: int | None,
        exclude_seen: bool,
        ranking: RankingMode,
        allowed: np.ndarray | None,
        batch_users: int,
    ) -> Ranking:
        """See :meth:`genrec_core.inference.recommender.Recommender.rank`."""


@dataclass
class PredictionReport:
    """What became of a request file.

    Args:
        users: requests served; a user who asks twice counts twice.
        rows: rows written, one a request.
        top_k: item columns a row.
        unknown_items: history entries dropped because the catalogue does not hold them.
        empty_histories: requests without a known item, which got the popular items.
        rejected: malformed lines, listed in ``OUT.rejected``.
        short_rows: rows with fewer than ``top_k`` items; their last cells are empty.
        seconds: wall time.
    """

    users: int = 0
    rows: int = 0
    top_k: int = 0
    unknown_items: int = 0
    empty_histories: int = 0
    rejected: int = 0
    short_rows: int = 0
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
            self.rejected and f"{self.rejected} malformed lines were not served: {rejected_path(output)}",
        ]
        return [line for line in said if isinstance(line, str)]


def rejected_path(output: Path) -> Path:
    """Where the malformed lines of a request file go: ``OUT.rejected``."""
    return output.with_name(output.name + ".rejected")


def predict_file(
    recommender: Ranks,
    source: Path,
    output: Path,
    settings: PredictionSettings,
    *,
    allowed: np.ndarray | None = None,
    show_progress: bool = True,
) -> PredictionReport:
    """Serve every request of ``source``, in its order.

    ``output`` appears whole or not at all. Malformed lines go to ``OUT.rejected`` (CSV: line, reason, content); without
    any, no such file is left. Memory does not grow with the number of users.

    Args:
        recommender: a :class:`~genrec_core.inference.recommender.Recommender`.
        source: requests in either form of :func:`~genrec_core.inference.requests.read_requests`.
        output: the CSV file to write, ``user_id,pred_1..pred_K``; a cell is empty where no item is left.
        settings: items a user, beams, batch size, whether seen items are left out.
        allowed: catalogue rows that may be recommended, bool [n_items]; None for all.
        show_progress: a bar on stderr with users a second.

    Raises:
        GenrecError: ``source`` cannot be read or holds no request that can be served, or ``output`` cannot be written.
    """
    began = time.monotonic()
    _require_usable(source, output)
    report = PredictionReport(top_k=settings.top_k)
    try:
        with RejectedLines(rejected_path(output)) as rejected, atomic_file(output) as part:
            with part.open("w", encoding="utf-8", newline="") as file, _bar(source, show_progress) as bar:
                _serve(recommender, read_requests(source), _Sink(file, rejected, bar), settings, allowed, report)
            if not report.users:
                raise NothingServedError(
                    f"{source}: none of its {report.rejected} lines is a request, the first: {rejected.first}; "
                    f"see {rejected.path}"
                )
    except OSError as error:
        raise GenrecError(f"{output}: cannot be written ({error.strerror or error}); it is left as it was") from error
    report.seconds = time.monotonic() - began
    return report


class NothingServedError(GenrecError):
    """Every line of a request file is malformed."""


class RejectedLines:
    """``OUT.rejected``: written aside and published at the end; removed if there is no line for it."""

    def __init__(self, path: Path) -> None:
        self.path, self.first = path, ""
        self._stack = ExitStack()
        self._file: TextIO | None = None

    def __enter__(self) -> "RejectedLines":
        return self

    def add(self, line: Rejected) -> None:
        """Note a line with its number, the reason and the start of its text."""
        if self._file is None:
            part = self._stack.enter_context(atomic_file(self.path))
            self._file = self._stack.enter_context(part.open("w", encoding="utf-8", newline=""))
            self._file.write("line,reason,content\n")
            self.first = f"line {line.line}: {line.reason}"
        row = (line.line, line.reason, line.content[:_SHOWN_CONTENT])
        csv.writer(self._file, lineterminator="\n").writerow(row)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Publish, also where no line at all could be served; leave an older file alone on any other error."""
        if kind is not None and not issubclass(kind, NothingServedError):
            self._stack.__exit__(kind, error, trace)
            return
        self._stack.close()
        if self._file is None:
            self.path.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Sink:
    """Where the outcomes of a request file go."""

    output: TextIO
    rejected: RejectedLines
    bar: "tqdm[None]"


def _serve(
    recommender: Ranks,
    outcomes: Iterable[Request | Rejected],
    sink: _Sink,
    settings: PredictionSettings,
    allowed: np.ndarray | None,
    report: PredictionReport,
) -> None:
    """Serve window after window, and count in ``report`` what became of every line."""
    writer = csv.writer(sink.output, lineterminator="\n")
    writer.writerow(["user_id", *(f"pred_{rank}" for rank in range(1, settings.top_k + 1))])
    for window in _windows(outcomes, _WINDOW_BATCHES * settings.batch_users):
        requests = [outcome for outcome in window if isinstance(outcome, Request)]
        malformed = [outcome for outcome in window if isinstance(outcome, Rejected)]
        for line in malformed:
            sink.rejected.add(line)
        report.rejected += len(malformed)
        if requests:
            _serve_window(recommender, requests, writer.writerow, settings, allowed, report)
        sink.bar.update(len(window))
    sink.bar.total = sink.bar.n  # a header and blank lines were counted too
    sink.bar.refresh()


def _serve_window(
    recommender: Ranks,
    requests: list[Request],
    write: Callable[[list[object]], object],
    settings: PredictionSettings,
    allowed: np.ndarray | None,
    report: PredictionReport,
) -> None:
    ranking = recommender.rank(
        [request.item_ids for request in requests],
        settings.top_k,
        beams=settings.beams,
        exclude_seen=settings.exclude_seen,
        ranking=settings.ranking,
        allowed=allowed,
        batch_users=settings.batch_users,
    )
    for user, request in enumerate(requests):
        items: list[object] = ranking.of(user).tolist()
        write([request.user_id, *items, *[""] * (settings.top_k - len(items))])
    report.users += len(requests)
    report.rows += len(requests)
    report.unknown_items += int(ranking.unknown.sum())
    report.empty_histories += int(ranking.popular.sum())
    report.short_rows += int((ranking.counts < settings.top_k).sum())


def _windows(outcomes: Iterable[Request | Rejected], lines: int) -> Iterator[list[Request | Rejected]]:
    """Consecutive outcomes, at most ``lines`` and few enough items that they fit the memory."""
    window: list[Request | Rejected] = []
    size = 0
    for outcome in outcomes:
        window.append(outcome)
        size += len(outcome.item_ids) if isinstance(outcome, Request) else len(outcome.content)
        if len(window) == lines or size >= _WINDOW_ITEMS:
            yield window
            window, size = [], 0
    if window:
        yield window


def _require_usable(source: Path, output: Path) -> None:
    """Refuse before any work what must fail at its end."""
    if output.is_dir():
        raise GenrecError(f"{output}: is a folder; name a file to write")
    if source.exists() and source.resolve() in (output.resolve(), rejected_path(output).resolve()):
        raise GenrecError(f"{output}: would overwrite the requests in {source}; name another file to write")


def _bar(source: Path, show: bool) -> "tqdm[None]":
    """A progress bar on stderr over the lines of ``source``, open-ended where it is a pipe."""
    total = _count_lines(source) if show and source.is_file() else None
    return tqdm(total=total, unit=" users", file=sys.stderr, disable=not show, desc="predict", mininterval=0.5)


def _count_lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(_BLOCK_BYTES), b""))
