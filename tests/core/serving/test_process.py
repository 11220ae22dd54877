"""The server as a process: it batches, reloads without losing a request, refuses beyond its queue, and stops."""

import json
import os
import shutil
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genrec_core.artifacts import write_manifest
from genrec_core.inference.recommender import POPULARITY, Recommender

if TYPE_CHECKING:
    from conftest import TinyModel

StartServer = Callable[..., Any]


def post(url: str, body: dict[str, Any], **headers: str) -> tuple[int, dict[str, Any], dict[str, str]]:
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.load(answer), dict(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error), dict(error.headers)


def users(recommender: Recommender, count: int) -> dict[str, Any]:
    known = recommender.item_ids.tolist()
    return {
        "topk": 5,
        "instances": [{"user_id": str(user), "item_ids": known[user : user + 3]} for user in range(count)],
    }


def test_many_clients_get_their_own_answers_and_sigterm_ends_it(
    start_server: StartServer, tiny_recommender: Recommender
):
    server = start_server("--threads", "2", "--batch_users", "4")
    known = tiny_recommender.item_ids.tolist()
    histories = [known[first : first + 1 + first % 7] for first in range(60)]
    wanted = [items.tolist() for items in tiny_recommender.recommend(histories, 6)]

    def ask(number: int) -> tuple[int, list[int]]:
        body = {"topk": 6, "instances": [{"user_id": number, "item_ids": histories[number]}]}
        status, answer, _ = post(f"{server.url}/predictions/mymodel", body)
        return status, answer["predictions"][0]["predictions"]

    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(ask, range(60))) == [(200, items) for items in wanted]
    assert server.stop() == 0
    assert "Traceback" not in "".join(server.log)


def test_beyond_the_queue_it_says_when_to_come_back(start_server: StartServer, tiny_recommender: Recommender):
    server = start_server("--queue", "5", "--threads", "1")
    status, answer, headers = post(f"{server.url}/predictions/mymodel", users(tiny_recommender, 6))
    assert (status, answer["error"]["code"], headers["retry-after"]) == (503, "queue_full", "1")
    assert post(f"{server.url}/predictions/mymodel", users(tiny_recommender, 5))[0] == 200


def test_a_reload_under_load_loses_no_request_and_a_broken_release_changes_nothing(
    start_server: StartServer, tiny_model: "TinyModel", tiny_recommender: Recommender, tmp_path: Path
):
    first, second, broken, link = (tmp_path / name for name in ("first", "second", "broken", "current"))
    for folder in (first, second, broken):
        shutil.copytree(tiny_model.model_dir, folder)
    import numpy as np

    np.save(second / POPULARITY, np.arange(90)[::-1].copy())
    write_manifest(second)
    (broken / POPULARITY).write_bytes(b"cut off")
    link.symlink_to(first)
    server = start_server(model_dir=link)
    url, body = f"{server.url}/predictions/mymodel", users(tiny_recommender, 4)

    def moved(target: Path) -> None:
        (tmp_path / "next").symlink_to(target)
        os.replace(tmp_path / "next", link)

    version = json.load(urllib.request.urlopen(f"{server.url}/model"))["version"]
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(post, url, body) for _ in range(40)]
        moved(second)
        status, reloaded, _ = post(f"{server.url}/admin/reload", {})
        answers += [pool.submit(post, url, body) for _ in range(40)]
        assert {answer.result()[0] for answer in answers} == {200}
    assert (status, reloaded["changed"]) == (200, True)
    assert reloaded["version"] != version
    moved(broken)
    status, refused, _ = post(f"{server.url}/admin/reload", {})
    assert (status, refused["error"]["code"]) == (409, "reload_failed")
    assert post(url, body)[0] == 200
    moved(first)
    server.process.send_signal(signal.SIGHUP)
    deadline = time.monotonic() + 20
    while json.load(urllib.request.urlopen(f"{server.url}/model"))["version"] != version:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert server.stop(signal.SIGINT) == 0


def test_a_port_in_use_is_an_error(start_server: StartServer, tiny_model: "TinyModel"):
    import subprocess
    import sys

    port = start_server().url.rsplit(":", 1)[1]
    command = [sys.executable, "-m", "genrec_core.cli", "serve", "--model_dir", str(tiny_model.model_dir)]
    second = subprocess.run([*command, "--port", port], capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 2
    assert f"cannot listen on 127.0.0.1 port {port}" in second.stderr
