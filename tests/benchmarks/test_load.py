"""The clients of the server's benchmark: what they count, and what they find wrong."""

import asyncio
import json
from collections.abc import Callable

import pytest

from tests.benchmarks.load import Load, ask_for

BODIES = [json.dumps({"instances": [{"user_id": str(user), "item_ids": [1]}]}).encode() for user in range(3)]


def answer(user: str, items: list[int], status: str = "200 OK") -> bytes:
    body = json.dumps({"predictions": [{"user_id": user, "predictions": items}]}).encode()
    return f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def asked_of(answer_to: Callable[[str], bytes], lost: bool = False) -> Load:
    """What clients see of a server that answers each user so, in two pieces; or closes the connection instead."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            user = json.loads(await reader.readexactly(length))["instances"][0]["user_id"]
            if lost:
                writer.close()
                return
            found = answer_to(user)
            writer.write(found[:30])
            await writer.drain()
            await asyncio.sleep(0.001)
            writer.write(found[30:])

    async def run() -> Load:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        load = await ask_for(host, port, BODIES, 2, 0.1, 0.2)
        server.close()
        return load

    return asyncio.run(run())


def test_answers_of_the_counted_time_are_counted() -> None:
    load = asked_of(lambda user: answer(user, [4, 5]))
    assert load.errors == 0
    assert 2 <= len(load.times) <= 2 * 0.2 / 0.001
    assert all(0.001 <= seconds < 1 for seconds in load.times)
    assert load.rate == len(load.times) / 0.2


@pytest.mark.parametrize(
    "wrong",
    [
        lambda user: answer("2", [4]) if user == "1" else answer(user, [4]),
        lambda user: answer(user, [] if user == "1" else [4]),
        lambda user: answer(user, [4], "503 Service Unavailable" if user == "1" else "200 OK"),
    ],
)
def test_another_user_no_items_and_another_status_are_errors(wrong: Callable[[str], bytes]) -> None:
    load = asked_of(wrong)
    assert 1 <= load.errors < len(load.times)  # a third of all, of which two thirds of the time is counted


def test_lost_connections_are_errors() -> None:
    assert asked_of(lambda user: b"", lost=True).errors == 2
