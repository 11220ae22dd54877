"""The TorchServe export: what it writes, and a real server that answers as the recommender does."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from genrec_core.cli.main import main
from genrec_core.errors import GenrecError
from genrec_core.export.torchserve import archiver_command, export_torchserve
from genrec_core.export.torchserve_handler import RecommenderHandler
from genrec_core.recommend.recommender import Recommender
from genrec_core.storage.artifacts import read_json

if TYPE_CHECKING:
    from tests.core.tiny_model import TinyModel

TORCHSERVE = Path(sys.executable).with_name("torchserve")
START_SECONDS, OUTPUT = 120, "output.txt"


# --- the folder -----------------------------------------------------------------------------------------------------


def test_the_command_writes_the_folder_and_prints_the_call(
    tiny_model: "TinyModel", tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "export"
    assert main(["export-torchserve", "--model_dir", str(tiny_model.model_dir), "--out_dir", str(target)]) == 0
    assert capsys.readouterr().out.strip() == archiver_command()
    assert archiver_command() in (target / "archive.sh").read_text()
    assert os.access(target / "archive.sh", os.X_OK)
    assert Recommender.open(target / "extra" / "model")
    assert "onnxruntime==" in (target / "requirements.txt").read_text()
    assert "torch" not in (target / "requirements.txt").read_text()


def test_the_worker_needs_nothing_of_the_installed_package_and_no_torch(
    tiny_model: "TinyModel", tmp_path: Path
) -> None:
    export_torchserve(tiny_model.model_dir, tmp_path / "export")
    unpacked = tmp_path / "unpacked"
    shutil.copytree(tmp_path / "export" / "extra", unpacked)
    shutil.copy(tmp_path / "export" / "genrec_handler.py", unpacked)
    code = (
        "import sys, genrec_handler, genrec_core; print(genrec_core.__file__);"
        "found = {'torch', 'transformers', 'dagster', 'mlflow'} & set(sys.modules); assert not found, found"
    )
    environment = {**os.environ, "PYTHONPATH": str(unpacked)}
    asked = [sys.executable, "-c", code]
    done = subprocess.run(asked, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()).is_relative_to(unpacked)


def test_an_earlier_export_is_replaced_and_anything_else_left_alone(tiny_model: "TinyModel", tmp_path: Path) -> None:
    target = tmp_path / "export"
    target.mkdir()
    for _ in range(2):
        export_torchserve(tiny_model.model_dir, target)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").write_text("keep")
    for taken in (tmp_path / "mine", tmp_path / "mine" / "notes"):
        with pytest.raises(GenrecError, match="no earlier export"):
            export_torchserve(tiny_model.model_dir, taken)
    assert (tmp_path / "mine" / "notes").read_text() == "keep"


def test_a_damaged_model_is_refused(tiny_model: "TinyModel", tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model.model_dir, model)
    (model / "item_ids.npy").write_bytes(b"short")
    with pytest.raises(GenrecError, match=r"item_ids\.npy: differs"):
        export_torchserve(model, tmp_path / "export")
    assert not (tmp_path / "export").exists()


# --- the handler ----------------------------------------------------------------------------------------------------


def test_the_handler_answers_each_request_of_a_batch(
    tiny_model: "TinyModel", tiny_recommender: Recommender, tmp_path: Path
) -> None:
    """With TorchServe's own context, whose worker gives the handler such a batch."""
    torchserve = pytest.importorskip(
        "ts.context", reason="torchserve is not installed: pip install 'genrec[torchserve]'"
    )
    (tmp_path / "model").symlink_to(tiny_model.model_dir)
    context = torchserve.Context("mymodel", str(tmp_path), {}, 4, None, "0.12.0")
    context.request_processor = [torchserve.RequestProcessor({}) for _ in range(4)]
    handler = RecommenderHandler()
    handler.initialize(context)
    items = tiny_recommender.item_ids.tolist()
    bodies: list[dict[str, Any]] = [
        {"topk": topk, "instances": [{"user_id": "u", "item_ids": items[:topk]}]} for topk in (2, 0, 3, 2)
    ]
    answers = handler.handle([{"body": body} for body in bodies], context)
    assert [context.get_response_status(place)[0] for place in range(4)] == [200, 400, 200, 200]
    assert answers[1]["faults"][0]["field"] == "topk"
    for place in (0, 2, 3):
        topk = bodies[place]["topk"]
        expected = tiny_recommender.recommend([items[:topk]], topk)[0].tolist()
        assert answers[place] == {"predictions": [{"user_id": "u", "predictions": expected}]}


# --- the server -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Server:
    """A running TorchServe."""

    port: int
    key: str

    def ask(self, body: bytes, key: str | None = None, content_type: str = "application/json") -> tuple[int, Any]:
        """Status and decoded answer of one prediction request."""
        headers = {"Authorization": f"Bearer {self.key if key is None else key}", "Content-Type": content_type}
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("POST", "/predictions/mymodel", body, headers)
        response = connection.getresponse()
        answer = json.loads(response.read())
        connection.close()
        return response.status, answer


@pytest.fixture(scope="module")
def server(tiny_model: "TinyModel") -> Iterator[Server]:
    """TorchServe with the tiny model, on free ports of the loopback address, with token authorisation."""
    if not shutil.which("java"):
        pytest.skip("no Java: TorchServe needs openjdk-17-jre-headless")
    if not TORCHSERVE.is_file():
        pytest.skip("torchserve is not installed: pip install 'genrec[torchserve]'")
    # Not tmp_path: the path of a Unix socket below it would be too long.
    with tempfile.TemporaryDirectory(prefix="ts") as name:
        folder = Path(name) / "export"
        export_torchserve(tiny_model.model_dir, folder)
        port, *others = free_ports(3)
        write_ports(folder / "config.properties", [port, *others])
        environment = {variable: value for variable, value in os.environ.items() if variable != "PYTHONPATH"}
        environment["PATH"] = f"{TORCHSERVE.parent}:{environment['PATH']}"
        environment |= {
            "TMPDIR": name,
            "TEMP": name,
            "LOG_LOCATION": f"{name}/logs",
            "METRICS_LOCATION": f"{name}/logs",
        }
        subprocess.run([folder / "archive.sh"], env=environment, capture_output=True, check=True)
        with running(folder, environment) as process:
            yield wait_until_ready(process, folder, port)
        assert not (folder / "key_file.json").exists()


@contextmanager
def running(folder: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """TorchServe as the README starts and stops it; none of its processes is left."""
    family: list[psutil.Process] = []
    started = [TORCHSERVE, "--start", "--foreground", "--ncs", "--ts-config", "config.properties"]
    with (folder / OUTPUT).open("wb") as output:
        process = subprocess.Popen(started, cwd=folder, env=environment, stdout=output, stderr=output)
    try:
        yield process
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(family) >= 2, "the server and its worker were to run"
    finally:
        subprocess.run([TORCHSERVE, "--stop", "--foreground"], cwd=folder, env=environment, check=True)
        process.wait(timeout=60)
    left = psutil.wait_procs(family, timeout=30)[1]
    assert not left, f"still running: {left}"


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(opened.getsockname()[1]) for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


def write_ports(config: Path, ports: list[int]) -> None:
    text = config.read_text()
    for standard, port in zip((8080, 8081, 8082), ports, strict=True):
        assert f"127.0.0.1:{standard}" in text
        text = text.replace(f"127.0.0.1:{standard}", f"127.0.0.1:{port}")
    config.write_text(text)


def wait_until_ready(process: subprocess.Popen[bytes], folder: Path, port: int) -> Server:
    """Wait for the key file and for the first answer that is not 'no worker yet'."""
    last, deadline = "nothing", time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.2)
        if not (folder / "key_file.json").is_file():
            continue
        try:
            found = Server(port, read_json(folder / "key_file.json")["inference"]["key"])
            status, answer = found.ask(b'{"topk": 1, "instances": [{"user_id": "1", "item_ids": []}]}')
        except (OSError, GenrecError) as error:  # not listening yet, or the key file half written
            last = str(error)
            continue
        if status == 200:
            return found
        last = f"{status} {answer}"
    raise AssertionError(f"TorchServe is not ready, last seen: {last}\n{(folder / OUTPUT).read_text()[-4000:]}")


def test_the_server_answers_as_the_recommender_does(server: Server, tiny_recommender: Recommender) -> None:
    items = tiny_recommender.item_ids.tolist()
    histories = [items[:4], [items[7], 5, items[9]], [], [5]]  # no item has the id 5
    users = [{"user_id": str(user), "item_ids": history} for user, history in enumerate(histories)]
    expected = tiny_recommender.recommend(histories, 4)
    assert server.ask(json.dumps({"topk": 4, "instances": users}).encode()) == (
        200,
        {"predictions": [{"user_id": str(u), "predictions": ids.tolist()} for u, ids in enumerate(expected)]},
    )


def test_requests_at_once_get_their_own_answers_and_errors(server: Server, tiny_recommender: Recommender) -> None:
    items = tiny_recommender.item_ids.tolist()
    bodies = [
        {"topk": 3 + user % 2, "instances": [{"user_id": str(user), "item_ids": items[user : user + 3]}]}
        for user in range(40)
    ]
    bodies[5] = {"topk": -1, "instances": []}
    with ThreadPoolExecutor(20) as clients:
        found = list(clients.map(server.ask, [json.dumps(body).encode() for body in bodies]))
    for user, (status, answer) in enumerate(found):
        if user == 5:
            assert (status, [fault["field"] for fault in answer["faults"]]) == (400, ["topk", "instances"])
        else:
            expected = tiny_recommender.recommend([items[user : user + 3]], 3 + user % 2)[0].tolist()
            assert (status, answer) == (200, {"predictions": [{"user_id": str(user), "predictions": expected}]})


@pytest.mark.parametrize(
    ("body", "content_type", "said"),
    [
        (b'{"topk": 4, "instances": [{"user_id": "1"}]}', "application/json", "instances.0.item_ids"),
        (b'{"topk": 4, "instances": [{"user_id": "1", "item_ids": []}], "allow": [5]}', "application/json", "no item"),
        (b'{"topk', "application/json", "Invalid JSON"),
        (b'{"topk": 4}', "application/x-www-form-urlencoded", "Content-Type: application/json"),
    ],
)
def test_a_bad_request_gets_a_structured_400(server: Server, body: bytes, content_type: str, said: str) -> None:
    status, answer = server.ask(body, content_type=content_type)
    assert (status, answer["code"], answer["type"]) == (400, 400, "InvalidRequest")
    assert said in answer["message"]


def test_without_the_token_nobody_is_answered(server: Server) -> None:
    body = b'{"topk": 1, "instances": [{"user_id": "1", "item_ids": []}]}'
    status, answer = server.ask(body, key="wrong")
    assert (status, answer["type"]) == (400, "InvalidKeyException")
