"""What all tests share: one CPU thread, no network, no setting of the caller's, a tiny shop, and an S3 server."""

import http.client
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import polars as pl
import pytest

from genrec_core.data.sample import write_sample
from genrec_core.data.sources import read_catalog
from genrec_core.recommend.recommender import Recommender
from genrec_core.settings import CatalogSettings
from genrec_core.storage import object_store
from tests.core.tiny_model import TinyModel, build_tiny_model, make_shop

# torch and mlflow, which read these, are imported later.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
for _name in (
    "PRESET",
    "GENREC_RAW",
    "GENREC_RAW_SHA256",
    "GENREC_STORAGE",
    "DAGSTER_HOME",
    "MLFLOW_TRACKING_URI",
    "GENREC_INBOX",
    "GENREC_MIRROR",
    "GENREC_FRESH_RAW_HOURS",
    "GENREC_FRESH_RELEASE_HOURS",
    "GENREC_FRESH_PREDICTIONS_HOURS",
    "GENREC_ENGINE",
    "RAY_ADDRESS",
    "GENREC_ALERT_SLACK",
    "GENREC_ALERT_EMAIL",
    "GENREC_ALERT_WARNINGS",
):
    os.environ.pop(_name, None)  # what the caller set for runs changes no test


@pytest.fixture(scope="session")
def sample_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The raw files of 200 users and 120 items."""
    folder = tmp_path_factory.mktemp("sample")
    write_sample(folder, users=200, items=120)
    return folder


@pytest.fixture(scope="session")
def tiny_catalog(sample_folder: Path) -> pl.DataFrame:
    """The item catalogue of the tiny shop."""
    return read_catalog(sample_folder, CatalogSettings())


@pytest.fixture(scope="session")
def beauty_folder() -> Path:
    """The real Amazon Beauty files, where ``GENREC_TEST_BEAUTY`` names their folder."""
    folder = os.environ.get("GENREC_TEST_BEAUTY")
    if not folder:
        pytest.skip("GENREC_TEST_BEAUTY names no folder with the Amazon Beauty files")
    return Path(folder)


KEY, SECRET = "genrec-test-key", "genrec-test-secret"


class ObjectServer:
    """``rclone serve s3`` over a folder, in which each bucket is a folder of plain files."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self._monkeypatch = folder, monkeypatch
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        rclone = Path(sys.executable).with_name("rclone")
        address = ("--addr", f"127.0.0.1:{self.port}", "--auth-key", f"{KEY},{SECRET}")
        # Without a cache of files it forgets nothing when it is killed.
        command = [rclone, "serve", "s3", *address, "--vfs-cache-mode", "off", "--dir-cache-time", "50ms", self.folder]
        environment = {**os.environ, "RCLONE_CONFIG": os.devnull}
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(200):
            with socket.socket() as asked:
                if asked.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise TimeoutError("rclone serve s3 does not listen")

    def use(self, key: str = KEY, secret: str = SECRET, port: int | None = None) -> None:
        """Let boto3 ask this server, or what listens at ``port``."""
        given = {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret, "AWS_EC2_METADATA_DISABLED": "true"}
        for name, value in {**given, "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{port or self.port}"}.items():
            self._monkeypatch.setenv(name, value)
        object_store._client.cache_clear()

    @contextmanager
    def faulty(self) -> Iterator["FaultyProxy"]:
        """Let boto3 ask this server through a proxy."""
        proxy = FaultyProxy(self.port)
        threading.Thread(target=proxy.server.serve_forever, daemon=True).start()
        self.use(port=proxy.port)
        yield proxy
        proxy.server.shutdown()
        proxy.server.server_close()

    def notice(self) -> None:
        """Wait until the server sees what was changed in its folder behind its back."""
        time.sleep(0.2)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


class FaultyProxy:
    """Passes requests to a server; the next ones it answers with 500, breaks off half-way, or lets hang.

    Args:
        port: of the server.
        faults: what becomes of the next requests by ``method``, first to last: ``500``, ``half``, ``hang``.
    """

    def __init__(self, port: int) -> None:
        self.faults: list[str] = []
        self.method, self.broken = "GET", 0
        self.if_none_match = "ignored"  # as this server does; "honoured" as AWS does, "unknown" is answered with 501
        self._put, self._putting = set[str](), threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *arguments: object) -> None:
                pass

            def pass_on(self) -> None:
                fault = proxy.faults.pop(0) if proxy.faults and self.command == proxy.method else None
                proxy.broken += fault is not None
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if fault == "500":
                    self.send_response(500)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                if fault == "hang":
                    time.sleep(3)
                    self.close_connection = True
                    return
                if self.command == "PUT" and self.headers.get("If-None-Match") and proxy.if_none_match != "ignored":
                    with proxy._putting:
                        if proxy.if_none_match == "unknown":
                            self.refuse(501, "NotImplemented")
                        elif self.path in proxy._put:
                            self.refuse(412, "PreconditionFailed")
                        else:
                            proxy._put.add(self.path)
                            self.ask_upstream(body, fault)
                    return
                self.ask_upstream(body, fault)

            def refuse(self, status: int, code: str) -> None:
                content = f"<Error><Code>{code}</Code><Message>refused</Message></Error>".encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def ask_upstream(self, body: bytes, fault: str | None) -> None:
                upstream = http.client.HTTPConnection("127.0.0.1", port)
                upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    if name.lower() != "expect":
                        upstream.putheader(name, value)
                upstream.endheaders(body or None)
                answer = upstream.getresponse()
                content = answer.read()
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("transfer-encoding", "content-length", "connection"):
                        self.send_header(name, value)
                length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
                self.send_header("Content-Length", length or "0")
                self.end_headers()
                self.wfile.write(content[: len(content) // 2] if fault == "half" else content)
                self.close_connection = fault == "half"

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = pass_on  # noqa: N815 - http.server asks for these names

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port: int = self.server.server_address[1]


@pytest.fixture
def object_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectServer]:
    """A running S3 server with the bucket ``shop``, which the environment names."""
    folder = tmp_path / "buckets"
    (folder / "shop").mkdir(parents=True)
    monkeypatch.setenv("GENREC_MIRROR", str(tmp_path / "mirror"))
    monkeypatch.setattr(object_store, "_PAUSES", (0.1, 0.2))
    server = ObjectServer(folder, monkeypatch)
    server.start()
    server.use()
    yield server
    server.kill()
    object_store._client.cache_clear()


class SmallDisk:
    """A file system of 16 MiB.

    Args:
        folder: where it is mounted.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def filled(self) -> Iterator[None]:
        """Leave no room on it."""
        ballast = self.folder / "ballast"
        with suppress(OSError), ballast.open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
        yield
        ballast.unlink()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A disk that is soon full; skips the test where this user may not mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a file system")
    yield SmallDisk(folder)
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


UNSHARE = ("unshare", "--net", "--mount", "--map-root-user")
SWITCHED_OFF = ("ORT_", "MLFLOW_", "DAGSTER_", "HF_", "RAY_", "CI", "GITHUB_")  # by this process, or for it


@pytest.fixture
def looked_up(tmp_path: Path) -> Callable[..., list[str]]:
    """Called with a command that ends by itself, and its environment: the names that it and its children look up.

    Its home folder is ``tmp_path / "home"``. Variables that switch telemetry off here are not passed on. The test is
    skipped where this user may not open a network namespace.
    """
    if subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not open a network namespace")
    home, names = tmp_path / "home", tmp_path / "names"
    home.mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(SWITCHED_OFF)}

    def run(*command: str, **environment: str) -> list[str]:
        done = subprocess.run(
            [*UNSHARE, sys.executable, str(Path(__file__).with_name("lookups.py")), str(names), *command],
            env={**kept, "HOME": str(home), "PYTHONPATH": str(Path(__file__).parents[1]), **environment},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return names.read_text().split()

    return run


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    """A model of 90 items, built once; or the one in ``GENREC_TEST_MODEL``, where torch is not installed."""
    if folder := os.environ.get("GENREC_TEST_MODEL"):
        return TinyModel(Path(folder))
    return build_tiny_model(tmp_path_factory.mktemp("tiny_model"))


@pytest.fixture(scope="session")
def tiny_recommender(tiny_model: TinyModel) -> Recommender:
    return Recommender.open(tiny_model.model_dir)


@pytest.fixture(scope="session")
def shop_dir(tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with what ``make_shop`` adds."""
    folder = shutil.copytree(tiny_model.model_dir, tmp_path_factory.mktemp("shop") / "model")
    make_shop(folder)
    return folder


@pytest.fixture(scope="session")
def shop(shop_dir: Path) -> Recommender:
    """The same model in this process."""
    return Recommender.open(shop_dir)
