"""``python -m genrec_dagster.ui`` starts the Dagster UI and what its pages link to, all on the loopback address.

- Dagster's webserver and daemon, on ``UI_PORT`` (3000)
- MLflow's UI, on ``MLFLOW_PORT`` (5000), if trainings are logged to a local database
- the HTML pages in the storage, on ``PAGES_PORT`` (3001)
- the online server with its demo page, on ``DEMO_PORT`` (8080), as soon as a release is served

If one of them ends, so do the others. The online server alone is optional: if its port is taken or it ends, the rest
goes on.
"""

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from urllib.parse import quote

import psutil

from genrec_core.releases.pointer import SERVED
from genrec_core.storage.folders import is_there, read_small, storage_root
from genrec_dagster.instance import prepare_home
from genrec_dagster.pages import DEFAULT_PAGES_PORT, PAGES_PORT, newest_pages, newest_version, pages_url
from genrec_dagster.resources import (
    DEFAULT_MLFLOW_PORT,
    DEFAULT_UI_PORT,
    EXPERIMENT_FILE,
    MLFLOW_PORT,
    TRAINING_VIEW,
    UI_PORT,
    artifact_root,
    mlflow_ui,
    prepare_store,
    tracking_uri,
)

DEMO_PORT = "DEMO_PORT"
_DEFAULT_PORTS = {
    UI_PORT: DEFAULT_UI_PORT,
    MLFLOW_PORT: DEFAULT_MLFLOW_PORT,
    PAGES_PORT: DEFAULT_PAGES_PORT,
    DEMO_PORT: "8080",
}
_HOST = "127.0.0.1"
_TRAINED = "tiger_checkpoint"
_GROUPS = ("catalog", "model", "serving")
_STOP_SECONDS = 20
_WAIT_SECONDS, _LOOK_SECONDS = 0.5, 10
_FAILED, _INTERRUPTED = 1, 130
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
say = partial(print, flush=True)


def main() -> int:
    """Start the servers and wait: 130 after an interrupt, 1 if a port cannot be used or a server ends by itself."""
    ports = _ports()
    if refusal := _refusal(ports):
        print(refusal, file=sys.stderr)
        return _FAILED
    prepare_home()
    commands = [dagster_command(ports[UI_PORT]), [sys.executable, "-m", "genrec_dagster.pages"]]
    if MLFLOW_PORT in ports:
        prepare_store(tracking_uri())
        commands.append(mlflow_command(ports[MLFLOW_PORT]))
    waited_for = [int(port) for name, port in ports.items() if name != DEMO_PORT]
    return _run_together(commands, Demo(ports[DEMO_PORT]), waited_for)


def addresses(root: Path) -> dict[str, str]:
    """What there is to look at once ``make ui`` runs, and where: the UIs, the pages in the storage, the demo page."""
    ui = f"http://{_HOST}:{_port(UI_PORT)}"
    groups = quote(",".join(f"global@global:{group}" for group in _GROUPS))
    demo = "the demo page" if is_there(SERVED, root) else "the demo page, once a release is served"
    return {
        "Dagster": ui,
        "the graph, all groups open": f"{ui}/asset-groups?expanded={groups}",
        **{name: f"{pages_url()}/{place.as_posix()}" for name, place in newest_pages(root).items()},
        "MLflow, the trainings": _trainings(root),
        demo: f"http://{_HOST}:{_port(DEMO_PORT)}",
    }


def _trainings(root: Path) -> str:
    """The address of the trainings in MLflow's UI; of the UI alone if there is no training yet."""
    version = newest_version(_TRAINED, root)
    noted = json.loads(read_small(_TRAINED, f"{version}/{EXPERIMENT_FILE}", root) or b"{}") if version else {}
    if "experiment_id" not in noted:
        return mlflow_ui(tracking_uri())
    return f"{mlflow_ui(noted['tracking_uri'])}/#/experiments/{noted['experiment_id']}/runs{TRAINING_VIEW}"


def address_list(root: Path) -> str:
    """The addresses of :func:`addresses`, one a line."""
    found = addresses(root)
    width = max(map(len, found)) + 2
    return "\n".join(f"  {what:{width}}{address}" for what, address in found.items())


def dagster_command(port: str) -> list[str]:
    """The command of Dagster's webserver and daemon."""
    return [sys.executable, "-m", "dagster", "dev", "-w", "workspace.yaml", "-h", _HOST, "-p", port]


def mlflow_command(port: str) -> list[str]:
    """The command of MLflow's server. It reads the database's address, which may hold a password, from a variable."""
    root = artifact_root()
    files = ["--default-artifact-root", root] if root else []
    mlflow = str(Path(sys.executable).with_name("mlflow"))
    return [mlflow, "server", "--host", _HOST, "--port", port, "--workers", "1", *files]


def demo_command(port: str) -> list[str]:
    """The command of the online server on the served release, with its demo page."""
    return [sys.executable, "-m", "genrec_core.cli", "serve", "--port", port, "--threads", "1"]


def _port(variable: str) -> str:
    return os.environ.get(variable) or _DEFAULT_PORTS[variable]


def _ports() -> dict[str, str]:
    """The ports to listen on, by variable; MLflow's is not among them if a tracking server elsewhere has the UI."""
    remote = tracking_uri().startswith(("http://", "https://"))
    return {name: _port(name) for name in _DEFAULT_PORTS if not (remote and name == MLFLOW_PORT)}


def _refusal(ports: dict[str, str]) -> str:
    """Why the ports cannot be used, and what to do; empty if they can."""
    for variable, port in ports.items():
        if not port.isdecimal() or not 0 < int(port) < 1 << 16:
            return f"{variable} is {port!r}; set it to a port from 1 to 65535"
    for port in ports.values():
        same = [variable for variable, other in ports.items() if other == port]
        if len(same) > 1:
            return f"{' and '.join(same)} are both {port}; set one of them to another port"
    for variable, port in ports.items():
        if variable != DEMO_PORT and _is_taken(int(port)):
            return f"port {port} is taken; stop what listens there, or set another: {variable}=..."
    return ""


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError:
            return True
    return False


@dataclass
class Demo:
    """The online server, which the others do not need. It starts once a release is served, and is not started twice."""

    port: str
    process: psutil.Popen | None = None
    over: bool = False  # it is not started any more
    _look_again: float = 0.0

    def look(self, environment: dict[str, str]) -> None:
        """Start it if it can start now, and say so if it has ended by itself."""
        if self.over or time.monotonic() < self._look_again:
            return
        self._look_again = time.monotonic() + _LOOK_SECONDS
        if self.process is None:
            self._start(environment)
        elif self.process.poll() is not None:
            self._give_up("the demo page's server ended by itself")

    def _start(self, environment: dict[str, str]) -> None:
        if _is_taken(int(self.port)):
            self._give_up(f"port {self.port} is taken")
        elif is_there(SERVED):
            self.process = psutil.Popen(demo_command(self.port), env=environment, start_new_session=True)

    def _give_up(self, reason: str) -> None:
        self.over = True
        say(f"{reason}, so there is no demo page; the rest goes on. Start it by itself: genrec serve --port PORT")


def _run_together(commands: list[list[str]], demo: Demo | None = None, waited_for: Sequence[int] = ()) -> int:
    """Run servers until one ends or a signal comes, then end all of them; ``demo`` may end alone.

    Once all ports of ``waited_for`` answer, the addresses are printed.
    """
    for number in _ENDING:  # SIGINT too: a shell's background job would ignore it, and so would the servers
        signal.signal(number, _interrupt)
    environment = {
        **os.environ,
        "MLFLOW_BACKEND_STORE_URI": tracking_uri(),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    servers: list[psutil.Popen] = []
    told = not waited_for
    try:
        for command in commands:  # in their own sessions, so that Ctrl-C reaches them once, from here
            servers.append(psutil.Popen(command, env=environment, start_new_session=True))
        while not (ended := [server for server in servers if server.poll() is not None]):
            if not told and all(map(_is_taken, waited_for)):
                told = True
                say(address_list(storage_root()))
            if demo and told:  # the others first: each takes a core while it starts
                demo.look(environment)
            time.sleep(_WAIT_SECONDS)
    except KeyboardInterrupt:
        return _INTERRUPTED
    finally:
        _stop(servers + ([demo.process] if demo and demo.process else []))
    print(f"{' '.join(commands[servers.index(ended[0])][:4])} ended, so the others were stopped", file=sys.stderr)
    return _FAILED


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _stop(servers: list[psutil.Popen]) -> None:
    """End servers and all their processes, even if a server itself has ended already."""
    for number in _ENDING:
        signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C would leave some processes running
    processes = {process for server in servers for process in _processes_of(server)}
    for server in servers:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGINT)
    for process in psutil.wait_procs(processes, timeout=_STOP_SECONDS)[1]:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _processes_of(server: psutil.Popen) -> set[psutil.Process]:
    """The children of a server and the processes of its session. Children of an ended server have another parent."""
    processes = set(server.children(recursive=True)) if server.is_running() else set()
    for process in psutil.process_iter():
        with suppress(ProcessLookupError, PermissionError):
            if os.getsid(process.pid) == server.pid:
                processes.add(process)
    return processes


if __name__ == "__main__":
    sys.exit(main())
