"""The server's side of a decoding process: start it, send it batches, and replace it when it is lost."""

import asyncio
import json
import logging
import multiprocessing
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from genrec_core.errors import GenrecError
from genrec_core.serving.request_body import RETRY, RefusedError

LOG = logging.getLogger("genrec.serving")
SPAWN = multiprocessing.get_context("spawn")  # a fork would copy the server's threads and sockets
_KILL_SECONDS = 5  # until a killed process has ended


@dataclass(frozen=True)
class Answer:
    """What one user gets."""

    items: list[int]  # best first
    unknown: int  # items of the history that the catalogue does not hold
    popular: bool  # the history has no known item, so these are the most popular items
    warnings: list[str]  # values in the request's rule that no item has


class DecoderFailedError(Exception):
    """The decoding raised an error; the message is its traceback."""


class DecoderLostError(RefusedError):
    """The process ended or hangs; :meth:`Decoder.replace` starts another."""

    def __init__(self, reason: str) -> None:
        super().__init__(503, "decoder_lost", f"{reason}; try again later", headers=RETRY)


class Decoder:
    """One decoding process with the model in it, for one caller at a time.

    It is a process because threads would share the interpreter with the event loop, and a crash would end the server.

    Args:
        model_dir: the model folder that it opens; :meth:`ready` waits for that.
        open_seconds: seconds within which the model must be open; None for no limit.

    Attributes:
        lost: the process died or hangs, and no other has taken its place yet.
    """

    def __init__(self, model_dir: Path, open_seconds: float | None = None) -> None:
        self.model_dir, self.open_seconds = model_dir, open_seconds
        self._closed = self.lost = False
        self._starting = threading.Lock()
        self._thread = ThreadPoolExecutor(1)  # waits for answers, so that the event loop does not
        self._start()

    def _start(self) -> None:
        self._connection, theirs = SPAWN.Pipe()
        self.process = SPAWN.Process(target=_run_process, args=(theirs, self.model_dir))
        self.process.start()
        theirs.close()  # the process has its own copy; when it dies, the connection ends

    def ready(self) -> dict[str, Any]:
        """Wait until the model is open and warm; return the facts that the process sent of it."""
        try:
            if not self._connection.poll(self.open_seconds):
                raise GenrecError(
                    f"{self.model_dir}: was not open after {self.open_seconds:g} s; give it longer by "
                    "--open_seconds, or put it on faster storage"
                )
            answer = json.loads(self._connection.recv_bytes())
        except (EOFError, OSError) as error:
            reason = "the process that opens it died; its message is above"
            if self._closed:
                reason = "was closed before it was open; ask the model that serves now"
            raise GenrecError(f"{self.model_dir}: {reason}") from error
        if "refused" in answer:
            raise GenrecError(answer["refused"])
        return dict(answer)

    async def decode(self, options: str, histories: list[list[int]]) -> list[Answer]:
        """Rank for users who share all options; see :func:`genrec_core.serving.decoder_process.decode`.

        Raises:
            RefusedError: the model has no such ranking, or the lists and the rule leave no item.
            DecoderFailedError: the decoding raised an error.
            DecoderLostError: the process ended, or could not be started.
        """
        if self._closed or self.lost:
            raise DecoderLostError(
                "this model was replaced" if self._closed else "no decoding process could be started"
            )
        loop = asyncio.get_running_loop()
        try:
            answer = await loop.run_in_executor(self._thread, self._exchange, options, histories)
        except (EOFError, OSError) as error:
            raise DecoderLostError("a decoding process ended in the middle of a batch") from error
        if "refused" in answer:
            raise RefusedError(422, **answer["refused"])
        if "failed" in answer:
            raise DecoderFailedError(answer["failed"])
        users = zip(answer["items"], answer["unknown"], answer["popular"], strict=True)
        return [Answer(*user, answer["warnings"]) for user in users]

    def _exchange(self, options: str, histories: list[list[int]]) -> dict[str, Any]:
        self._connection.send_bytes(json.dumps({"options": json.loads(options), "histories": histories}).encode())
        return dict(json.loads(self._connection.recv_bytes()))

    async def replace(self) -> bool:
        """Start another process in place of a lost one; return whether it opened the model."""
        self.lost = True
        try:
            await asyncio.to_thread(self._replace)
            self.lost = False
        except (GenrecError, OSError):
            LOG.exception("no decoding process could be started in place of a lost one")
        return not self.lost

    def _replace(self) -> None:
        self.process.kill()
        self.process.join(_KILL_SECONDS)
        LOG.error("a decoding process ended with %s; starting another", self.process.exitcode)
        with self._starting:
            if self._closed:
                return
            self._start()
        self.ready()

    def close(self) -> None:
        """Kill the process. It keeps nothing, so nothing is lost."""
        with self._starting:
            self._closed = True
        self.process.kill()


def kill_all() -> None:
    """Kill the decoding processes of this server; code that waits for one of them gets an error."""
    for process in multiprocessing.active_children():
        process.kill()


def _run_process(connection: Connection, model_dir: Path) -> None:
    """What the process runs: no signals, because a service manager sends SIGTERM to each process of a service."""
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(name, "1")  # the processes share the cores already
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):  # Windows has no SIGHUP
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    from genrec_core.serving.decoder_process import answer_batches  # needs NumPy; the server's own process does not

    answer_batches(connection, model_dir)
