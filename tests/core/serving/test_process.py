"""The server as a process: it batches, reloads without losing a request, refuses beyond its queue, and stops."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest
import uvicorn

from genrec_core.bundle.item_additions import add_items
from genrec_core.bundle.model_folder import POPULARITY, ModelFolder
from genrec_core.bundle.new_items import NewItems
from genrec_core.embedding.item_embeddings import ItemEmbeddings
from genrec_core.errors import GenrecError
from genrec_core.recommend.recommender import Recommender
from genrec_core.releases.pointer import first_pointer, serve, withdraw_from_served
from genrec_core.serving.metrics import Metrics
from genrec_core.serving.models import ModelHolder
from genrec_core.serving.process import _first_load, read_token
from genrec_core.storage.artifacts import write_manifest
from genrec_core.storage.folders import set_latest, storage_root

if TYPE_CHECKING:
    from tests.core.tiny_model import TinyModel

StartServer = Callable[..., Any]


FORBIDDEN = ("torch", "transformers", "onnx", "dagster", "mlflow", "polars", "numpy", "onnxruntime")
WITHOUT = f"""
import sys
for name in {FORBIDDEN}:
    sys.modules[name] = None  # importing it raises ImportError
import genrec_core.serving.app, genrec_core.serving.process
"""


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
    server = start_server("--queue", "4", "--threads", "1", "--batch_users", "1")
    url, body = f"{server.url}/predictions/mymodel", {**users(tiny_recommender, 4), "topk": 80}
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: post(url, body), range(64)))
    assert {status for status, _, _ in answers} == {200, 503}
    refused = [
        (answer["error"]["code"], headers["retry-after"]) for status, answer, headers in answers if status == 503
    ]
    assert set(refused) == {("queue_full", "1")}
    assert post(url, body)[0] == 200


def test_what_is_in_flight_is_answered_before_it_ends(start_server: StartServer, tiny_recommender: Recommender):
    server = start_server("--threads", "1", "--batch_users", "1")
    body = {**users(tiny_recommender, 60), "topk": 80}
    for decoder in server.decoders():
        decoder.send_signal(signal.SIGTERM)  # as a service manager does: to every process of the service
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(post, f"{server.url}/predictions/mymodel", body)
        while "genrec_queue_users 0.0" in urllib.request.urlopen(f"{server.url}/metrics").read().decode():
            assert not answer.done()
        decoders = server.decoders()
        assert server.stop() == 0
        status, content, _ = answer.result()
    assert (status, len(content["predictions"])) == (200, 60)
    assert not any(decoder.is_running() for decoder in decoders)


def test_a_decoding_process_that_died_is_replaced(start_server: StartServer, tiny_recommender: Recommender):
    server = start_server("--threads", "1")
    (decoder,) = server.decoders()
    decoder.kill()
    url, body = f"{server.url}/predictions/mymodel", users(tiny_recommender, 2)
    status, answer, headers = post(url, body)
    assert (status, answer["error"]["code"], headers["retry-after"]) == (503, "decoder_lost", "1")
    assert post(url, body)[0] == 200
    assert "a decoding process ended with -9" in "".join(server.log)


def test_a_process_that_reads_newer_content_in_the_place_of_another_has_it_loaded_everywhere(
    start_server: StartServer, tiny_model: "TinyModel", tiny_recommender: Recommender, tmp_path: Path
):
    folder = shutil.copytree(tiny_model.model_dir, tmp_path / "model")
    server = start_server("--threads", "1", model_dir=folder)
    gone = answers(server.url, tiny_recommender)[0]
    ModelFolder(folder).withdraw(np.array([gone]))
    (decoder,) = server.decoders()
    decoder.kill()
    url, body = f"{server.url}/predictions/mymodel", users(tiny_recommender, 1)
    assert post(url, body)[0] == 503
    assert gone not in answers(server.url, tiny_recommender)
    assert json.load(urllib.request.urlopen(f"{server.url}/model"))["version"] == ModelFolder(folder).version


def test_users_of_a_process_that_hangs_are_told_in_time_and_it_is_replaced(
    start_server: StartServer, tiny_recommender: Recommender
):
    server = start_server("--threads", "1", "--decode_seconds", "1", "--batch_users", "2")
    (decoder,) = server.decoders()
    url, body = f"{server.url}/predictions/mymodel", users(tiny_recommender, 2)
    assert post(url, body)[0] == 200
    decoder.suspend()
    began = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: post(url, body), range(4), timeout=20))
    refused = {
        (answer["error"]["code"], headers["retry-after"]) for status, answer, headers in answers if status == 503
    }
    assert refused == {("decoder_lost", "1")}  # those who waited a second in the queue too
    assert time.monotonic() - began < 10
    while post(url, body)[0] != 200:
        assert time.monotonic() - began < 20
    assert not decoder.is_running()
    assert "a batch was not decoded after 1 s" in "".join(server.log)


def test_sigterm_ends_it_in_time_though_processes_hang(start_server: StartServer, tiny_recommender: Recommender):
    server = start_server("--threads", "2", "--decode_seconds", "60", "--grace_seconds", "1")
    url, body = f"{server.url}/predictions/mymodel", users(tiny_recommender, 2)
    decoders = server.decoders()
    for decoder in decoders:
        decoder.suspend()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(post, url, body)
        time.sleep(0.3)
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 12
        assert asked.exception() or asked.result()[0] >= 500
    assert not any(decoder.is_running() for decoder in decoders)


def test_sigterm_ends_it_in_time_though_a_process_hangs_while_it_opens_the_model(
    tiny_model: "TinyModel", decoders_of: Callable[[int], list[psutil.Process]]
):
    options = ["--model_dir", str(tiny_model.model_dir), "--port", "0", "--threads", "1", "--grace_seconds", "0"]
    with subprocess.Popen([sys.executable, "-m", "genrec_core.cli", "serve", *options]) as server:
        deadline = time.monotonic() + 60
        while not (decoders := decoders_of(server.pid)) and time.monotonic() < deadline:
            time.sleep(0.01)
        (decoder,) = decoders
        decoder.suspend()
        time.sleep(3)  # until it listens, and so takes the signal
        server.terminate()
        assert server.wait(20) == 2
    assert not decoder.is_running()


def test_a_server_that_is_killed_leaves_no_process_behind(start_server: StartServer):
    server = start_server("--threads", "1")
    decoders = server.decoders()
    server.process.kill()
    gone, alive = psutil.wait_procs(decoders, timeout=10)
    assert (len(gone), alive) == (1, [])


def test_items_added_to_the_model_are_recommended_after_a_reload(
    start_server: StartServer, tiny_model: "TinyModel", tmp_path: Path
):
    folder = shutil.copytree(tiny_model.model_dir, tmp_path / "model")
    server = start_server("--threads", "1", model_dir=folder)
    instance = {"user_id": "1", "item_ids": [5, int(np.load(folder / "item_ids.npy")[3])]}
    url, body = f"{server.url}/predictions/mymodel", {"topk": 3, "instances": [instance], "allow": [5, 6]}
    assert post(url, body)[0] == 422  # the lists leave no item
    new = NewItems(np.array([5, 6]), ["a", "b"], [{}, {}])
    add_items(folder, new, ItemEmbeddings.load(tiny_model.embeddings).raw[:2] + np.float32(0.1))
    assert post(f"{server.url}/admin/reload", {})[1]["changed"] is True
    assert post(url, body)[1]["predictions"][0]["predictions"] == [6]


def answers(url: str, tiny_recommender: Recommender) -> list[int]:
    """What one user gets."""
    (answer,) = post(f"{url}/predictions/mymodel", users(tiny_recommender, 1))[1]["predictions"]
    return list(answer["predictions"])


def test_a_withdrawn_item_is_gone_after_a_reload_and_back_once_it_is_restored(
    start_server: StartServer, tiny_model: "TinyModel", tiny_recommender: Recommender, tmp_path: Path
):
    folder = shutil.copytree(tiny_model.model_dir, tmp_path / "model")
    server = start_server("--threads", "1", model_dir=folder)
    before = answers(server.url, tiny_recommender)
    ModelFolder(folder).withdraw(np.array(before[:1]))
    assert answers(server.url, tiny_recommender) == before  # until it is told
    reloaded = post(f"{server.url}/admin/reload", {})[1]
    assert (reloaded["changed"], reloaded["version"]) == (True, ModelFolder(folder).version)
    assert before[0] not in answers(server.url, tiny_recommender)
    assert post(f"{server.url}/admin/reload", {})[1]["changed"] is False
    ModelFolder(folder).withdraw(np.array(before[:1]), restore=True)
    assert post(f"{server.url}/admin/reload", {})[1]["changed"] is True
    assert answers(server.url, tiny_recommender) == before


@pytest.mark.usefixtures("object_server")
def test_an_item_withdrawn_on_another_machine_is_gone_from_a_server_of_the_bucket(
    start_server: StartServer,
    tiny_model: "TinyModel",
    tiny_recommender: Recommender,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("GENREC_STORAGE", "s3://shop/genrec")
    root = storage_root()
    shutil.copytree(tiny_model.model_dir, root / "model_release" / "one" / "model")
    write_manifest(root / "model_release" / "one")
    set_latest("model_release", "one", root)
    serve(first_pointer("one", "a test"), root)
    server = start_server("--threads", "1", model_dir=None, GENREC_MIRROR=str(tmp_path / "mirror of the server"))
    before = answers(server.url, tiny_recommender)
    withdraw_from_served(np.array(before[:1]))
    assert post(f"{server.url}/admin/reload", {})[1]["changed"] is True
    assert before[0] not in answers(server.url, tiny_recommender)
    withdraw_from_served(np.array(before[:1]), restore=True)
    assert post(f"{server.url}/admin/reload", {})[1]["changed"] is True
    assert answers(server.url, tiny_recommender) == before


def test_the_newest_model_is_found_again_on_reload(start_server: StartServer, tiny_model: "TinyModel", tmp_path: Path):
    for version in ("one", "two"):
        shutil.copytree(tiny_model.model_dir, tmp_path / "onnx_encoder" / version)
    np.save(tmp_path / "onnx_encoder" / "two" / POPULARITY, np.arange(90))
    write_manifest(tmp_path / "onnx_encoder" / "two")
    set_latest("onnx_encoder", "one", tmp_path)
    token = {"Authorization": "Bearer s3cret"}
    server = start_server("--threads", "1", model_dir=tmp_path / "onnx_encoder", GENREC_TOKEN="s3cret")
    assert post(f"{server.url}/admin/reload", {})[0] == 401
    assert post(f"{server.url}/admin/reload", {}, **token)[1]["changed"] is False
    set_latest("onnx_encoder", "two", tmp_path)
    assert post(f"{server.url}/admin/reload", {}, **token)[1]["changed"] is True
    assert "s3cret" not in "".join(server.log)


def test_a_reload_under_load_loses_no_request_and_a_broken_release_changes_nothing(
    start_server: StartServer, tiny_model: "TinyModel", tiny_recommender: Recommender, tmp_path: Path
):
    first, second, broken, link = (tmp_path / name for name in ("first", "second", "broken", "current"))
    for folder in (first, second, broken):
        shutil.copytree(tiny_model.model_dir, folder)
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
    port = start_server().url.rsplit(":", 1)[1]
    command = [sys.executable, "-m", "genrec_core.cli", "serve", "--model_dir", str(tiny_model.model_dir)]
    second = subprocess.run([*command, "--port", port], capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 2
    assert f"cannot listen on 127.0.0.1 port {port}" in second.stderr


def test_a_model_that_cannot_be_opened_ends_it(tiny_model: "TinyModel", tmp_path: Path):
    broken = Path(shutil.copytree(tiny_model.model_dir, tmp_path / "broken"))
    (broken / POPULARITY).write_bytes(b"cut off")
    command = [sys.executable, "-m", "genrec_core.cli", "serve", "--port", "0", "--threads", "1"]
    done = subprocess.run(
        [*command, "--model_dir", str(broken)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "differs from the sha256" in done.stderr.splitlines()[-1]


def test_it_is_not_ready_before_it_listens(tiny_model: "TinyModel", caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO", "genrec.serving")
    holder, server = ModelHolder(tiny_model.model_dir, 1, Metrics()), uvicorn.Server(uvicorn.Config("none"))

    async def listen_late() -> None:
        saying = asyncio.create_task(_first_load(server, holder))
        while not holder.current:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert "ready: model" not in caplog.text
        server.started = True
        await saying

    try:
        asyncio.run(listen_late())
    finally:
        holder.close()
    assert "ready: model" in caplog.text


def test_the_process_that_answers_needs_no_numpy_and_no_onnxruntime():
    subprocess.run([sys.executable, "-c", WITHOUT], check=True)


def test_a_token_comes_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("GENREC_TOKEN", raising=False)
    assert read_token(None) is None
    file = tmp_path / "token"
    file.write_text("from-file\n")
    file.chmod(0o600)
    monkeypatch.setenv("GENREC_TOKEN", "from-environment")
    assert (read_token(file), read_token(None)) == ("from-file", "from-environment")
    monkeypatch.setenv("GENREC_TOKEN", "")
    with pytest.raises(GenrecError, match="GENREC_TOKEN: no token in it"):
        read_token(None)
    for content in ("", "two words", "schlüssel"):
        file.write_text(content)
        with pytest.raises(GenrecError, match="no token in it"):
            read_token(file)
