"""No process of ours talks to anyone unasked: no name is looked up, and nothing is left in the home folder."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from genrec_core import switch_reports_off
from genrec_core.export.torchserve import export_torchserve

if TYPE_CHECKING:
    from tests.core.tiny_model import TinyModel

LookedUp = Callable[..., list[str]]
GENREC = (sys.executable, "-m", "genrec_core.cli")
REPORT_SECONDS = 20  # onnxruntime's first report comes about ten seconds after it was imported
ASK = """
import json, subprocess, sys, time, urllib.request
body = json.dumps({"topk": 1, "instances": [{"user_id": "1", "item_ids": []}]}).encode()

def asked(seconds, key=lambda: ""):
    deadline = time.monotonic() + 120
    while True:
        try:
            headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key()}"}
            url = "http://127.0.0.1:8080/predictions/mymodel"
            assert json.load(urllib.request.urlopen(urllib.request.Request(url, body, headers)))["predictions"]
            break
        except (OSError, ValueError):  # it starts
            assert time.monotonic() < deadline
            time.sleep(0.2)
    time.sleep(seconds)

"""
SERVE = """
server = subprocess.Popen([sys.executable, "-m", "genrec_core.cli", "serve", "--model_dir", sys.argv[1]])
asked(float(sys.argv[2]))
server.terminate()
sys.exit(server.wait())
"""
TORCHSERVE = """
import os
os.chdir(sys.argv[1])
subprocess.run(["./archive.sh"], check=True)
server = subprocess.Popen(["torchserve", "--start", "--foreground", "--ncs", "--ts-config", "config.properties"])
asked(float(sys.argv[2]), lambda: json.load(open("key_file.json"))["inference"]["key"])
subprocess.run(["torchserve", "--stop", "--foreground"], check=True)
server.wait()
"""
PYFUNC = """
import sys, time
from genrec_core.export.pyfunc import _load_pyfunc
_load_pyfunc(sys.argv[1])
time.sleep(float(sys.argv[2]))
"""


def test_a_look_up_would_be_seen(looked_up: LookedUp, tmp_path: Path) -> None:
    ask = "import socket, contextlib\nwith contextlib.suppress(OSError): socket.getaddrinfo('reports.example', 443)"
    assert set(looked_up(sys.executable, "-c", ask)) == {"reports.example"}
    looked_up(sys.executable, "-c", "import onnxruntime")
    assert list((tmp_path / "home").rglob("onnxruntime.db"))


def test_predictions_report_to_nobody(looked_up: LookedUp, tiny_model: "TinyModel", tmp_path: Path) -> None:
    requests = tmp_path / "requests.txt"
    requests.write_text("anna 1 2 3\n")
    paths = ["--input_path", str(requests), "--output_path", str(tmp_path / "lists.csv")]
    assert looked_up(*GENREC, "predict", "--model_dir", str(tiny_model.model_dir), *paths) == []
    assert (tmp_path / "lists.csv").read_text().startswith("user_id,pred_1")
    assert list((tmp_path / "home").iterdir()) == []


@pytest.mark.slow
def test_the_server_reports_to_nobody(looked_up: LookedUp, tiny_model: "TinyModel", tmp_path: Path) -> None:
    assert looked_up(sys.executable, "-c", ASK + SERVE, str(tiny_model.model_dir), str(REPORT_SECONDS)) == []
    assert list((tmp_path / "home").iterdir()) == []


@pytest.mark.slow
def test_torchserve_reports_to_nobody(looked_up: LookedUp, tiny_model: "TinyModel", tmp_path: Path) -> None:
    pytest.importorskip("ts", reason="torchserve is not installed: pip install 'genrec[torchserve]'")
    export_torchserve(tiny_model.model_dir, tmp_path / "export")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    served = (str(tmp_path / "export"), str(REPORT_SECONDS))
    assert looked_up(sys.executable, "-c", ASK + TORCHSERVE, *served, PATH=path, PYTHONPATH="") == []
    assert list((tmp_path / "home").rglob("*onnxruntime*")) == []


@pytest.mark.slow
def test_the_pyfunc_model_reports_to_nobody(looked_up: LookedUp, tiny_model: "TinyModel", tmp_path: Path) -> None:
    assert looked_up(sys.executable, "-c", PYFUNC, str(tiny_model.model_dir), str(REPORT_SECONDS)) == []
    assert list((tmp_path / "home").iterdir()) == []


def test_a_value_that_the_user_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
    switch_reports_off()
    assert (os.environ["ORT_DISABLE_TELEMETRY"], os.environ["RAY_USAGE_STATS_ENABLED"]) == ("0", "0")


def test_a_program_that_imported_onnxruntime_earlier_is_told_that_it_reports() -> None:
    kept = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    warned = []
    for first, environment in (("import onnxruntime; ", {"CI": "1"}), ("", {}), ("import onnxruntime; ", os.environ)):
        code = f"{first}import genrec_core, onnxruntime"
        done = subprocess.run(
            [sys.executable, "-c", code], env={**kept, **environment}, capture_output=True, text=True, check=True
        )
        warned.append("onnxruntime was imported before genrec_core, so it reports to its maker" in done.stderr)
    assert warned == [True, False, False]
