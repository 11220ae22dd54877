"""What ``images.py test`` does with each image: runs it as README says and compares its answers with those outside."""

import json
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from images import ENGINE, run, size_in_mb, started

from genrec_core.bundle.model_folder import ModelFolder
from genrec_core.export.torchserve import STORE, export_torchserve
from genrec_core.recommend.recommender import Recommender

MOST_MB, READY_SECONDS = 400, 180
SERVE_PORT = 18080  # podman as root shares this machine's network, where 8080 may be taken
USERS, TOPK = 50, 128
HEALTH = ("python", "/etc/genrec/healthcheck.py")


def inference(model: Path) -> None:
    """The original's command line, without a network: byte for byte what ``genrec predict`` writes outside."""
    size = size_in_mb("inference")
    assert size < MOST_MB, f"the image has {size:.0f} MB, at most {MOST_MB} are wanted"
    with _folder("out") as folder:
        requests = [f"{user} {' '.join(map(str, items))}" for user, items in enumerate(_histories(model, USERS))]
        (folder / "input.txt").write_text("\n".join([*requests, "nobody", "odd x"]) + "\n", encoding="utf-8")
        mounts = [*_mount(model, "/model"), *_mount(folder / "input.txt", "/app/input.txt")]
        mounts += ["-v", f"{folder / 'out'}:/app/out"]
        same = ["--topk", str(TOPK), *(["--rule", "not brand = OPI"] if ModelFolder(model).takes_rules else [])]
        inside = ["--input_path", "/app/input.txt", "--output_path", "/app/out/preds.csv"]
        subprocess.run(run("inference", ["--network", "none", *mounts], *inside, *same), check=True)
        outside = ["--input_path", str(folder / "input.txt"), "--output_path", str(folder / "preds.csv")]
        command = [sys.executable, "-m", "genrec_core.cli", "predict", "--model_dir", str(model)]
        subprocess.run([*command, *outside, *same], check=True)
        for name in ("preds.csv", "preds.csv.rejected"):
            assert (folder / "out" / name).read_bytes() == (folder / name).read_bytes(), f"{name} differs"
    _require_absent("inference", "torch", "dagster", "polars")


def serve(model: Path) -> None:
    """The server's answers are the recommender's; it wants its token, is healthy, and SIGTERM ends it cleanly."""
    histories, url, token = _histories(model, 5), f"http://127.0.0.1:{SERVE_PORT}", "a-trial"
    body = {"topk": 4, "instances": [{"user_id": str(u), "item_ids": items} for u, items in enumerate(histories)]}
    options = [*_publish(SERVE_PORT), *_mount(model, "/model"), "--env", f"GENREC_TOKEN={token}"]
    port = ["--port", str(SERVE_PORT)]
    with started("serve", "genrec-serve-trial", options, *port, ends_with=0) as inside:
        _wait(partial(inside, *HEALTH, f"{url}/health/ready"))
        found = _post(f"{url}/predictions/mymodel", body, token)
        assert _status(f"{url}/predictions/mymodel", body) == 401, "it does not ask for its token"
    expected = Recommender.open(model).recommend(histories, 4)
    assert [user["predictions"] for user in found["predictions"]] == [items.tolist() for items in expected]
    _require_absent("serve", "torch", "dagster", "polars")


def torchserve(model: Path) -> None:
    """An archive made outside is served, with tokens on; the answers are the recommender's."""
    histories = _histories(model, 5)
    body = {"topk": 4, "instances": [{"user_id": str(u), "item_ids": items} for u, items in enumerate(histories)]}
    with _folder() as folder:
        export_torchserve(model, folder / "export")
        environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
        subprocess.run([folder / "export" / "archive.sh"], env=environment, capture_output=True, check=True)
        mounts = _mount(folder / "export" / STORE, "/models")
        with started("torchserve", "genrec-torchserve-trial", [*_publish(8080), *mounts]) as inside:
            keys = json.loads(_wait(partial(inside, "cat", "/tmp/key_file.json")))
            ask = partial(_post, "http://127.0.0.1:8080/predictions/mymodel", body, keys["inference"]["key"])
            found = _wait(ask)
            inside(*HEALTH, "http://127.0.0.1:8080/ping")
    expected = Recommender.open(model).recommend(histories, 4)
    assert [user["predictions"] for user in found["predictions"]] == [items.tolist() for items in expected]


def dagster(model: Path) -> None:
    """The webserver knows the graph, the daemon is alive, a code location answers; ``model`` is not needed."""
    with _folder("data") as folder:
        data = ["-v", f"{folder / 'data'}:/data"]
        with started("dagster", "genrec-webserver-trial", [*_publish(3000), *data]) as inside:
            ask = partial(_post, "http://127.0.0.1:3000/graphql", {"query": "{ assetNodes { assetKey { path } } }"})
            nodes = _wait(ask)["data"]["assetNodes"]
            assert "onnx_encoder" in {node["assetKey"]["path"][0] for node in nodes}
            inside(*HEALTH, "dagster")
        for role in ("daemon", "code"):
            with started("dagster", f"genrec-{role}-trial", data, role) as inside:
                _wait(partial(inside, *HEALTH, "dagster"))


def _require_absent(image: str, *packages: str) -> None:
    code = f"from importlib.util import find_spec; print([name for name in {packages} if find_spec(name)])"
    probe = run(image, ["--entrypoint", "python"], "-c", code)
    assert subprocess.run(probe, capture_output=True, text=True, check=True).stdout.strip() == "[]"


@contextmanager
def _folder(*shared: str) -> Iterator[Path]:
    """A folder that a container's user can read, with sub-folders that it can write."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        for part in shared:
            (folder / part).mkdir()
            (folder / part).chmod(0o777)
        yield folder


def _mount(source: Path, target: str) -> list[str]:
    return ["-v", f"{source.absolute()}:{target}:ro"]


def _publish(port: int) -> list[str]:
    """Reach a container's port on this machine's loopback address; podman as root has it run in its network."""
    return ["--network", "host"] if ENGINE == "podman" else ["--publish", f"127.0.0.1:{port}:{port}"]


def _histories(model: Path, users: int) -> list[list[int]]:
    """Histories of 0, 1, 2, ... items of the catalogue."""
    items = Recommender.open(model).item_ids.tolist()
    return [items[user : 2 * user] for user in range(users)]


def _post(url: str, body: dict[str, Any], key: str = "") -> Any:
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.loads(response.read())


def _status(url: str, body: dict[str, Any]) -> int:
    """The status of an answer to a client without a token."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


def _wait(ask: Callable[[], Any]) -> Any:
    """The first answer; a server that starts refuses, or has no key file yet."""
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            return ask()
        except (OSError, ValueError, subprocess.CalledProcessError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
