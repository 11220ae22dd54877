"""Feed malformed input to text files, CSV, HTTP and tables of raw data, and count how each answered.

    python tests/benchmarks/fuzz.py [--inputs 100000] [--seed 0] [--model_dir DIR]

A third of the inputs goes to each of the first three; the door of raw data gets one for each twenty of the others, as
tests/core/data/test_table_fuzz.py does. Files are read and checked line by line, every twentieth also served as by
``genrec predict``, as tests/core/recommend/test_fuzz.py does; bodies go to a real ``genrec serve`` and each answer is
compared with the recommender's, as tests/core/serving/test_app.py does; every tenth request has a malformed head. Every
fifth is a query of /items or a body of /similar, as tests/core/serving/test_item_routes.py makes them.
Prints one JSON object; the exit code is 1 where something crashed, took five seconds or gave a wrong answer.
"""

import argparse
import http.client
import json
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from genrec_core.errors import GenrecError
from genrec_core.recommend.recommender import Recommender
from genrec_core.recommend.request_files import Request
from genrec_core.storage.folders import latest
from tests.benchmarks.machine import describe

TESTS = Path(__file__).parents[1] / "core"
SERVED_EVERY, HEAD_EVERY, ITEMS_EVERY, SECONDS = 20, 10, 5, 5.0
REFUSALS = (400, 422)
_SHOWN_FAULTS = 5


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000, metavar="N", help="of all doors together (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the first input (%(default)s)")
    parser.add_argument("--model_dir", type=Path, metavar="DIR", help="an exported model (the newest)")
    options = parser.parse_args()
    model_dir = options.model_dir or latest("onnx_encoder")
    began, faults, third = time.monotonic(), list[str](), options.inputs // 3
    with tempfile.TemporaryDirectory(prefix="genrec-fuzz-") as folder:
        text = _files(Tried(faults), third, options.seed, Path(folder), forms=(0,))
        table = _files(Tried(faults), third, options.seed + third, Path(folder), forms=(1, 2, 3))
        tables = _tables(Tried(faults), options.inputs // 20, options.seed, Path(folder))
    over_http = _requests(Tried(faults), options.inputs - 2 * third, options.seed, model_dir)
    summary = {
        "inputs": options.inputs, "faults": len(faults), "text": text, "csv": table, "http": over_http,
        "tables": tables,
        "first_faults": faults[:_SHOWN_FAULTS], "seconds": round(time.monotonic() - began, 1), **describe(),
    }  # fmt: skip
    print(json.dumps(summary))
    return 1 if faults else 0


class Tried:
    """Counts what became of inputs, notes what is wrong and the slowest."""

    def __init__(self, faults: list[str]) -> None:
        self.faults, self.counts, self.slowest = faults, Counter[str](), 0.0

    def one(self, name: str, attempt: Callable[[], dict[str, int]]) -> None:
        """Try one input; whatever it raises is a fault."""
        began = time.monotonic()
        try:
            self.counts.update(attempt())
        except Exception as error:  # a crash of any kind is what is looked for
            self.faults.append(f"{name}: {type(error).__name__}: {error}"[:500])
        taken = time.monotonic() - began
        self.slowest = max(self.slowest, taken)
        if taken > SECONDS:
            self.faults.append(f"{name}: took {taken:.1f} s")

    def summary(self, inputs: int) -> dict[str, Any]:
        """The counts, and the slowest in milliseconds."""
        return {"inputs": inputs, **dict(sorted(self.counts.items())), "slowest_ms": round(self.slowest * 1e3, 1)}


def _files(tried: Tried, count: int, first: int, folder: Path, forms: tuple[int, ...]) -> dict[str, Any]:
    """Malformed files in the given forms."""
    door = _module(TESTS / "recommend" / "test_fuzz.py")

    def attempt(seed: int) -> dict[str, int]:
        outcomes = door.check(door.malformed(random.Random(seed), forms), folder, seed % SERVED_EVERY == 0)
        requests = sum(isinstance(outcome, Request) for outcome in outcomes)
        return {"refused": not outcomes, "requests": requests, "rejected_lines": len(outcomes) - requests}

    for seed in range(first, first + count):
        tried.one(f"file {seed} of forms {forms}", lambda seed=seed: attempt(seed))
    return tried.summary(count)


def _tables(tried: Tried, count: int, first: int, folder: Path) -> dict[str, Any]:
    """Malformed tables of raw data."""
    door = _module(TESTS / "data" / "test_table_fuzz.py")

    def attempt(seed: int) -> dict[str, int]:
        read = door.check(seed, folder)
        return {"read": read, "refused": not read}

    for seed in range(first, first + count):
        tried.one(f"tables {seed}", lambda seed=seed: attempt(seed))
    return tried.summary(count)


def _requests(tried: Tried, count: int, seed: int, model_dir: Path) -> dict[str, Any]:
    """Malformed bodies and heads."""
    door, item_door = (_module(TESTS / "serving" / f"{name}.py") for name in ("test_app", "test_item_routes"))
    recommender, draw = Recommender.open(model_dir), random.Random(seed)
    items = recommender.item_ids.tolist()
    with _serving(model_dir) as (port, log):
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=2 * SECONDS)
        for number in range(count):
            body = door.malformed(draw, items)
            if number % HEAD_EVERY == 0:
                head = _malformed_head(draw, body)
                tried.one(f"head {head[:200]!r}", lambda head=head: _ask_raw(port, head))
            elif number % (2 * ITEMS_EVERY) == 1:
                query = item_door.malformed_query(draw, items).encode("ascii", "ignore").decode()
                tried.one(f"query {query!r}", lambda query=query: _ask_items(client, item_door, query, recommender))
            elif number % ITEMS_EVERY == 1:
                alike = item_door.malformed_similar(draw, items)
                tried.one(f"similar {alike!r}", lambda alike=alike: _ask_similar(client, item_door, alike, recommender))
            else:
                tried.one(f"body {body!r}", lambda body=body: _ask(client, door, body, recommender))
        good = json.dumps({"topk": 3, "instances": [{"user_id": "1", "item_ids": items[:2]}]}).encode()
        tried.one("a good request at the end", lambda: _require(_ask(client, door, good, recommender), "200"))
    tried.faults += [line for line in log if "Traceback" in line]
    return tried.summary(count)


def _ask(client: http.client.HTTPConnection, door: ModuleType, body: bytes, recommender: Recommender) -> dict[str, int]:
    return _checked(client, "POST", door.PATH, body, lambda answer: door.is_right(answer, body, recommender))


def _ask_items(
    client: http.client.HTTPConnection, door: ModuleType, query: str, recommender: Recommender
) -> dict[str, int]:
    right = partial(door.is_right_query, query=query, recommender=recommender)
    return _checked(client, "GET", f"/items?{query}", None, right)


def _ask_similar(
    client: http.client.HTTPConnection, door: ModuleType, body: bytes, recommender: Recommender
) -> dict[str, int]:
    right = partial(door.is_right_similar, body=body, recommender=recommender)
    return _checked(client, "POST", door.SIMILAR, body, right)


def _checked(
    client: http.client.HTTPConnection, method: str, path: str, body: bytes | None, right: Callable[[Any], bool]
) -> dict[str, int]:
    """The status of an answer, which must be right or a refusal."""
    try:
        client.request(method, path, body, {"Content-Type": "application/json"})
        answer = client.getresponse()
        content = json.loads(answer.read())
    except BaseException:
        client.close()  # the next one has a connection of its own
        raise
    if answer.status == 200:
        assert right(content), f"wrong answer: {content}"
    else:
        assert answer.status in REFUSALS, f"status {answer.status}: {content}"
        assert set(content["error"]) == {"code", "message", "field"}, content
    return {str(answer.status): 1}


def _require(found: dict[str, int], status: str) -> dict[str, int]:
    assert status in found, found
    return found


def _malformed_head(draw: random.Random, body: bytes) -> bytes:
    """A request in which something is the matter with the line or the headers too."""
    head = bytearray(
        b"POST /predictions/mymodel HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n"
        b"Content-Length: %d\r\n" % len(body)
    )
    for _ in range(draw.randint(1, 4)):
        place = draw.randrange(len(head))
        piece = draw.choice(
            [b"\0", b"\r\n", b"\n", b":", b" ", b"\xff", b"-1", b"9" * 30, b"Transfer-Encoding: chunked\r\n"]
        )
        head[place : place + draw.randrange(6)] = piece
    return bytes(head) + b"\r\n" + body


def _ask_raw(port: int, request: bytes) -> dict[str, int]:
    """The status of an answer to these bytes; a server may close the connection instead, but not hang or fail."""
    with socket.create_connection(("127.0.0.1", port), timeout=2 * SECONDS) as connection:
        received = b""
        try:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(1 << 16):
                received += part
        except ConnectionError:
            return {"head_closed": 1}
    if not received:
        return {"head_closed": 1}
    status = re.match(rb"HTTP/1\.[01] (\d{3}) ", received)
    assert status, f"no answer of HTTP: {received[:100]!r}"
    assert status[1] < b"500", received[:300]
    return {f"head_{status[1].decode()}": 1}


@contextmanager
def _serving(model_dir: Path) -> Iterator[tuple[int, list[str]]]:
    """A server in a process of its own: its port and its log."""
    command = [sys.executable, "-m", "genrec_core.cli", "serve", "--port", "0", "--threads", "1", "--max_topk", "100"]
    process = subprocess.Popen([*command, "--model_dir", str(model_dir)], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    log: list[str] = []
    try:
        for line in process.stderr:
            log.append(line)
            if "ready: model" in line:
                break
        else:
            raise GenrecError(f"the server did not start: {''.join(log[-3:])}")
        (found,) = re.findall(r"http://127\.0\.0\.1:(\d+)", "".join(log))
        threading.Thread(target=lambda: log.extend(process.stderr or ()), daemon=True).start()
        yield int(found), log
        process.send_signal(signal.SIGTERM)
        if code := process.wait(60):
            log.append(f"Traceback? the server ended with exit code {code}")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _module(path: Path) -> ModuleType:
    """A module of the tests, which are no package."""
    spec = spec_from_file_location(f"fuzz_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    sys.exit(main())
