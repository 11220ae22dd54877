"""The server's side of a decoding process: start it, send it batches, and replace it when it is lost."""

import asyncio
import json
import logging
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genrec_core.data.ids import AnyId
from genrec_core.errors import GenrecError
from genrec_core.serving.request_body import RETRY, RefusedError

LOG = logging.getLogger("genrec.serving")
# With one decoding process a core, each keeps to its own, and the event loop to those that decode nothing. Where the
# kernel alone placed them, the server answered a seventh fewer users a second.
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
SPAWN = multiprocessing.get_context("spawn")  # a fork would copy the server's threads and sockets
_PART = 1 << 20  # bytes that are read of an answer at once
_KILL_SECONDS = 5  # until a killed process has ended


@dataclass(frozen=True)
class Answer:
    """What one user gets."""

    items: list[AnyId]  # best first
    unknown: int  # items of the history that the catalogue does not hold
    popular: bool  # the history has no known item, so these are the most popular items
    warnings: list[str]  # values in the request's rule that no item has
    details: dict[str, Any] | None = None  # further fields of the answer, if the request asks for any


class DecoderFailedError(Exception):
    """The decoding raised an error; the message is its traceback."""


class DecoderLostError(RefusedError):
    """The process ended or hangs; :meth:`Decoder.replace` starts another."""

    def __init__(self, reason: str) -> None:
        super().__init__(503, "decoder_lost", f"{reason}; try again later", headers=RETRY)


def keep_to(cores: Iterable[int]) -> None:
    """Keep the calling thread, and the threads and processes that it starts from now on, to some cores."""
    with suppress(OSError):  # the system forbids it, or took a core away
        os.sched_setaffinity(0, cores)


class Decoder:
    """One decoding process with the model in it, for one caller at a time.

    It is a process because threads would share the interpreter with the event loop, and a crash would end the server.

    Args:
        model_dir: the model folder that it opens; :meth:`ready` waits for that.
        core: the only core that it runs on; None for any.
        open_seconds: seconds within which the model must be open; None for no limit.

    Attributes:
        lost: the process died or hangs, and no other has taken its place yet.
    """

    def __init__(self, model_dir: Path, core: int | None = None, open_seconds: float | None = None) -> None:
        self.model_dir, self.core, self.open_seconds = model_dir, core, open_seconds
        self._closed = self.lost = False
        self._starting = threading.Lock()
        self._start()

    def _start(self) -> None:
        self._socket, theirs = socket.socketpair()
        self.process = SPAWN.Process(target=_run_process, args=(theirs, self.model_dir, self.core))
        self.process.start()
        theirs.close()  # the process has its own copy; when it dies, the connection ends

    def ready(self) -> dict[str, Any]:
        """Wait until the model is open and warm; return the facts that the process sent of it."""
        self._socket.settimeout(self.open_seconds)
        try:
            with self._socket.makefile("rb") as lines:
                line = lines.readline()
        except TimeoutError as error:
            raise GenrecError(
                f"{self.model_dir}: was not open after {self.open_seconds:g} s; give it longer by "
                "--open_seconds, or put it on faster storage"
            ) from error
        except OSError:
            line = b""
        self._socket.setblocking(False)
        if not line.endswith(b"\n"):
            reason = "the process that opens it died; its message is above"
            if self._closed:
                reason = "was closed before it was open; ask the model that serves now"
            raise GenrecError(f"{self.model_dir}: {reason}")
        answer = dict(json.loads(line))
        if "refused" in answer:
            raise GenrecError(answer["refused"])
        return answer

    async def decode(self, options: str, histories: list[list[AnyId]]) -> list[Answer]:
        """Rank for users who share all options, or look items up; see :mod:`genrec_core.serving.decoder_process`.

        Raises:
            RefusedError: the model has no such ranking or other thing, or the lists and the rule leave no item.
            DecoderFailedError: the decoding raised an error.
            DecoderLostError: the process ended, or could not be started.
        """
        if self._closed or self.lost:
            raise DecoderLostError(
                "this model was replaced" if self._closed else "no decoding process could be started"
            )
        try:
            answer = json.loads(await self._exchange(options, json.dumps(histories)))
        except (EOFError, OSError) as error:
            raise DecoderLostError("a decoding process ended in the middle of a batch") from error
        if "refused" in answer:
            raise RefusedError(422, **answer["refused"])
        if "failed" in answer:
            raise DecoderFailedError(answer["failed"])
        users = zip(answer["items"], answer["unknown"], answer["popular"], strict=True)
        if "details" not in answer:
            return [Answer(*user, answer["warnings"]) for user in users]
        return [
            Answer(*user, answer["warnings"], details) for user, details in zip(users, answer["details"], strict=True)
        ]

    async def _exchange(self, options: str, histories: str) -> bytearray:
        loop, answer = asyncio.get_running_loop(), bytearray()
        await loop.sock_sendall(self._socket, f'{{"options": {options}, "histories": {histories}}}\n'.encode())
        while not answer.endswith(b"\n"):
            part = await loop.sock_recv(self._socket, _PART)
            if not part:
                raise EOFError
            answer += part
        return answer

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


def _run_process(connection: socket.socket, model_dir: Path, core: int | None) -> None:
    """What the process runs: no signals, because a service manager sends SIGTERM to each process of a service."""
    if core is not None:
        keep_to([core])
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(name, "1")  # the processes share the cores already
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):  # Windows has no SIGHUP
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    from genrec_core.serving.decoder_process import answer_batches  # needs NumPy; the server's own process does not

    with suppress(ConnectionError), connection, connection.makefile("rwb") as lines:  # the server may end at any time
        answer_batches(lines, model_dir)
