"""Clients that ask a server without pause over connections of their own, in one cheap asyncio process."""

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count

import numpy as np

PATH = "/predictions/mymodel"
_HEAD = "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
_STATUS_OK = b"HTTP/1.1 200 "


@dataclass
class Load:
    """What the clients saw.

    Args:
        seconds: how long was counted.
        times: seconds from sending a request to the end of its answer, of each answer that came in that time.
        errors: answers of another status, for another user or with another number of items, and lost connections;
            also those before and after the counted time.
    """

    seconds: float
    times: list[float] = field(default_factory=list)
    errors: int = 0

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.times) / self.seconds

    def percentile(self, share: float) -> float:
        """Milliseconds within which ``share`` percent of the answers came."""
        return float(np.percentile(self.times, share)) * 1e3 if self.times else float("nan")


async def ask_for(
    host: str, port: int, bodies: Sequence[bytes], clients: int, warm_seconds: float, seconds: float
) -> Load:
    """Ask for ``warm_seconds`` and then ``seconds`` that count.

    Args:
        host: where the server listens.
        port: its port.
        bodies: JSON requests of one user each, asked in turn and over again; user ``i`` has the id ``str(i)``.
        clients: connections; each asks again as soon as it has its answer.
        warm_seconds: what is not counted.
        seconds: what is counted.
    """
    heads = [_HEAD.format(path=PATH, host=host, length=len(body)).encode() for body in bodies]
    asked = [head + body for head, body in zip(heads, bodies, strict=True)]
    loop, load = asyncio.get_running_loop(), Load(seconds)
    users = (number % len(asked) for number in count())
    begins = time.perf_counter() + warm_seconds
    connections = [
        (await loop.create_connection(lambda: _Client(asked, users, load, begins), host, port))[1]
        for _ in range(clients)
    ]
    await asyncio.sleep(warm_seconds + seconds)
    for client in connections:
        client.finish()
    await asyncio.gather(*(client.ended for client in connections))
    return load


class _Client(asyncio.Protocol):
    """One connection: sends a request, reads its answer, sends the next."""

    def __init__(self, asked: Sequence[bytes], users: Iterator[int], load: Load, begins: float) -> None:
        self.asked, self.users, self.load, self.begins = asked, users, load, begins
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.received, self.finishing = bytearray(), False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._ask()

    def _ask(self) -> None:
        self.user, self.sent = next(self.users), time.perf_counter()
        self.transport.write(self.asked[self.user])

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, found, body = bytes(self.received).partition(b"\r\n\r\n")
        if not found or len(body) < _length(head):
            return
        now = time.perf_counter()
        self.load.errors += not self._right(head, body)
        if self.begins <= self.sent and now < self.begins + self.load.seconds:
            self.load.times.append(now - self.sent)
        self.received.clear()
        if self.finishing:
            self.transport.close()
        else:
            self._ask()

    def _right(self, head: bytes, body: bytes) -> bool:
        """Whether this is the answer of the user who asked."""
        if not head.startswith(_STATUS_OK):
            return False
        (answer,) = json.loads(body)["predictions"]
        return bool(answer["user_id"] == str(self.user) and answer["predictions"])

    def finish(self) -> None:
        """Close the connection once its answer is there."""
        self.finishing = True

    def connection_lost(self, error: Exception | None) -> None:
        self.load.errors += not self.finishing
        self.ended.set_result(None)


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            return int(value)
    return 0
