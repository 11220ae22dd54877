"""Writes ``OUT.rejected``: the lines of a request file that could not be served, with the reasons."""

import csv
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TextIO

from genrec_core.errors import GenrecError
from genrec_core.recommend.requests import Rejected
from genrec_core.storage.artifacts import atomic_file

_SHOWN_CONTENT = 200  # characters of a rejected line that are kept


class NothingServedError(GenrecError):
    """Every line of a request file is malformed."""


class RejectedLines:
    """A CSV of line, reason and content. It appears at the end of the block; without a line it is removed.

    Args:
        path: the file; None where the lines are not kept.
        continues: tells whether the file continues one that has the header; called for the first line.
    """

    def __init__(self, path: Path | None, continues: Callable[[], bool]) -> None:
        self.path, self.first, self._continues = path, "", continues
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
            if not self._continues():
                self._file.write("line,reason,content\n")
        reason, content = (text.replace("\r", "\\r") for text in (line.reason, line.content[:_SHOWN_CONTENT]))
        csv.writer(self._file, lineterminator="\n").writerow([line.line, reason, content])  # csv quotes \n, but not \r

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Publish, also where no line at all could be served; after any other error an older file stays."""
        if kind is not None and not issubclass(kind, NothingServedError):
            self._stack.__exit__(kind, error, trace)
            return
        self._stack.close()
        if self._file is None and self.path is not None and self.path.is_file():
            self.path.resolve().unlink()  # the file behind a link, so that the link stays
