"""The server's side of a decoding process: starts it, gives it batches, and starts it again where it died."""

import asyncio
import json
import logging
import math
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from weakref import WeakSet

from genrec_core.errors import GenrecError

LOG = logging.getLogger("genrec.serving")
_END_SECONDS = 5  # for all processes of a model together; what runs on then is killed
_POLL_SECONDS = 0.2
_HEADER = struct.Struct("!i")  # bytes of a message, as multiprocessing.connection sends them
_PIECE = 1 << 16  # bytes
_decoders = WeakSet["Decoder"]()  # all of this process


@dataclass(frozen=True)
class Decoded:
    """What the users of a batch get.

    Args:
        items: item ids of each user, best first, as JSON: nobody reads them before the client.
        counts: how many items each user gets.
        unknown: how many items of each history the catalogue does not hold.
        popular: which users have no known item and so got the popular ones.
        warnings: values of the rule that no item has.
    """

    items: list[str]
    counts: list[int]
    unknown: list[int]
    popular: list[bool]
    warnings: list[str]


class UnservableError(GenrecError):
    """The model cannot do what was asked.

    Args:
        reason: why.
        about: ``constraints``, where they are at fault, or ``ranking``.
    """

    def __init__(self, reason: str, about: str) -> None:
        super().__init__(reason)
        self.about = about


class DecoderFailedError(Exception):
    """A fault of the decoding itself; the message is its traceback."""


class DecoderLostError(Exception):
    """The process ended in the middle of a batch, or hangs; :meth:`Decoder.replace` starts another."""


class Decoder:
    """One decoding process and the model in it, for one caller at a time.

    A process of its own, not a thread: threads that decode share the interpreter with each other and with the event
    loop, which costs about a tenth of the throughput, and a crash would take the server with it.

    Args:
        model_dir: the model it opens; :meth:`ready` waits for that.
        open_seconds: within which it must have opened the model.

    Attributes:
        lost: the process died or hung, and none has taken its place yet.
    """

    def __init__(self, model_dir: Path, open_seconds: float = math.inf) -> None:
        self.model_dir, self.open_seconds = model_dir, open_seconds
        self._closed = self.lost = False
        self._starting = threading.Lock()
        self._start()
        _decoders.add(self)

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        descriptor = str(theirs.fileno())
        command = [sys.executable, "-m", "genrec_core.serving.decoding", descriptor, str(self.model_dir)]
        # One thread each: the decoding processes share the cores already.
        environment = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", **os.environ}
        with theirs:
            self.process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], env=environment, stdin=subprocess.DEVNULL, start_new_session=True
            )
        self.socket = ours

    def ready(self) -> dict[str, Any]:
        """Wait until the model is open and warm.

        Returns:
            Facts of the model; see :func:`genrec_core.serving.decoding.facts`.

        Raises:
            GenrecError: it cannot be opened, takes too long, or is not wanted any more.
        """
        deadline = time.monotonic() + self.open_seconds
        try:
            with Connection(os.dup(self.socket.fileno())) as connection:
                while not connection.poll(_POLL_SECONDS):
                    if self._closed:
                        raise GenrecError(
                            f"{self.model_dir}: was closed before it was open; ask the model that serves now"
                        )
                    if time.monotonic() > deadline:
                        raise GenrecError(
                            f"{self.model_dir}: was not open after {self.open_seconds:g} s; give it longer by "
                            "--open_seconds, or put it on faster storage"
                        )
                answer = json.loads(connection.recv_bytes())
            self.socket.setblocking(False)
        except (EOFError, OSError) as error:
            raise GenrecError(f"{self.model_dir}: the process that opens it died; its message is above") from error
        if "refused" in answer:
            raise GenrecError(answer["refused"])
        return dict(answer)

    async def decode(self, options: str, histories: list[list[int]]) -> Decoded:
        """Rank for users who share all options; see :func:`genrec_core.serving.decoding.decode`.

        Raises:
            UnservableError: the model cannot do what was asked.
            DecoderFailedError: it failed.
            DecoderLostError: it died, or could not be started.
        """
        if self._closed or self.lost:
            raise DecoderLostError(
                "this model was replaced" if self._closed else "no decoding process could be started"
            )
        try:
            answered = await self._answer(f"{options}\n{json.dumps(histories)}".encode())
        except (EOFError, OSError) as error:
            raise DecoderLostError("a decoding process ended in the middle of a batch") from error
        head, *items = answered.split("\n")
        answer = json.loads(head)
        if "refused" in answer:
            raise UnservableError(answer["refused"], answer["about"])
        if "failed" in answer:
            raise DecoderFailedError(answer["failed"])
        return Decoded(items, **answer)

    async def _answer(self, message: bytes) -> str:
        """What the process answers to a message."""
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(self.socket, _HEADER.pack(len(message)) + message)
        received, wanted = bytearray(), _HEADER.size
        while len(received) < wanted:
            piece = await loop.sock_recv(self.socket, _PIECE)
            if not piece:
                raise EOFError
            received += piece
            if len(received) >= _HEADER.size:
                wanted = _HEADER.size + _HEADER.unpack_from(received)[0]
        return received[_HEADER.size :].decode()

    async def replace(self) -> bool:
        """Start another process in the place of one that died or hangs.

        Returns:
            Whether that went well.
        """
        self.lost = True
        try:
            await asyncio.to_thread(self._replace)
            self.lost = False
        except (GenrecError, OSError, subprocess.SubprocessError):
            LOG.exception("no decoding process could be started in the place of one that ended")
        return not self.lost

    def _replace(self) -> None:
        if self._closed:
            return
        self.socket.close()
        self.process.kill()
        LOG.error("a decoding process ended with %s; starting another", self.process.wait(_END_SECONDS))
        with self._starting:
            if self._closed:
                return
            self._start()
        self.ready()

    def hang_up(self) -> None:
        """Tell the process to end, without waiting for it."""
        with self._starting:
            self._closed = True
        self.socket.close()

    def close(self) -> None:
        """End the process."""
        close_all([self])


def close_all(decoders: list[Decoder]) -> None:
    """End processes; those that have not ended soon are killed."""
    for decoder in decoders:
        decoder.hang_up()
    deadline = time.monotonic() + _END_SECONDS
    for decoder in decoders:
        try:
            decoder.process.wait(max(0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            decoder.process.kill()
            decoder.process.wait()


def kill_all() -> None:
    """Kill every decoding process of this server, whatever it does; who waits for one gets an error."""
    for decoder in list(_decoders):
        decoder.process.kill()
