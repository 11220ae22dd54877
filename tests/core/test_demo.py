"""``genrec demo`` serves the model in its folder, or refuses before it trains."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from genrec_core.cli.main import main
from genrec_core.storage.folders import set_latest

if TYPE_CHECKING:
    from tests.core.tiny_model import TinyModel


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def demo(folder: Path, port: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "genrec_core.cli", "demo", "--folder", str(folder), "--port", str(port)]
    return subprocess.Popen([*command, "--no_browser"], stderr=subprocess.PIPE, text=True)


def status(port: int, path: str) -> int:
    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request("GET", path)
    return connection.getresponse().status


def test_a_trained_model_is_served_at_once_and_the_address_is_shown(tiny_model: "TinyModel", tmp_path: Path) -> None:
    shutil.copytree(tiny_model.model_dir, tmp_path / "onnx_encoder" / "v1")
    set_latest("onnx_encoder", "v1", tmp_path)
    port = free_port()
    process = demo(tmp_path, port)
    try:
        assert process.stderr is not None
        shown = next(line for line in process.stderr if line.startswith("open "))
        assert shown == f"open http://127.0.0.1:{port}/ in a browser; Ctrl+C ends the demo\n"
        assert (status(port, "/"), status(port, "/health/ready")) == (200, 200)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def test_a_port_in_use_is_refused_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["demo", "--folder", str(tmp_path), "--port", str(port)]) == 2
    assert f"--port {port}: is in use" in capsys.readouterr().err
    assert main(["demo", "--folder", str(tmp_path), "--port", "0"]) == 2
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_the_first_start_trains_and_the_second_finds_the_model(tmp_path: Path) -> None:
    seconds = []
    for _ in range(2):
        began, port = time.monotonic(), free_port()
        process = demo(tmp_path, port)
        try:
            assert process.stderr is not None
            assert any(line.startswith("open ") for line in process.stderr)
            assert status(port, "/") == 200
            seconds.append(time.monotonic() - began)
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
    assert seconds[1] < seconds[0] / 3
