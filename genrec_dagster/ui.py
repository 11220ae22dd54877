"""``python -m genrec_dagster.ui`` starts the Dagster UI and, if trainings are logged to a local database, MLflow's UI.

They listen on the loopback address, on ``UI_PORT`` (3000) and ``MLFLOW_PORT`` (5000). If one ends, so does the other.
"""

import os
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType

import psutil

from genrec_dagster.instance import prepare_home
from genrec_dagster.resources import DEFAULT_MLFLOW_PORT, MLFLOW_PORT, artifact_root, prepare_store, tracking_uri

_HOST = "127.0.0.1"
_STOP_SECONDS = 20
_FAILED, _INTERRUPTED = 1, 130
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> int:
    """Start the servers and wait: 130 after an interrupt, 1 if a port cannot be used or a server ends by itself."""
    ports = {"UI_PORT": os.environ.get("UI_PORT") or "3000"}
    if not tracking_uri().startswith(("http://", "https://")):
        ports[MLFLOW_PORT] = os.environ.get(MLFLOW_PORT) or DEFAULT_MLFLOW_PORT
    if refusal := _refusal(ports):
        print(refusal, file=sys.stderr)
        return _FAILED
    prepare_home()
    commands = [dagster_command(ports["UI_PORT"])]
    if MLFLOW_PORT in ports:
        prepare_store(tracking_uri())
        commands.append(mlflow_command(ports[MLFLOW_PORT]))
        print(f"MLflow: http://{_HOST}:{ports[MLFLOW_PORT]}", flush=True)
    print(f"Dagster: http://{_HOST}:{ports['UI_PORT']}", flush=True)
    return _run_together(commands)


def dagster_command(port: str) -> list[str]:
    """The command of Dagster's webserver and daemon."""
    return [sys.executable, "-m", "dagster", "dev", "-w", "workspace.yaml", "-h", _HOST, "-p", port]


def mlflow_command(port: str) -> list[str]:
    """The command of MLflow's server. It reads the database's address, which may hold a password, from a variable."""
    root = artifact_root()
    files = ["--default-artifact-root", root] if root else []
    mlflow = str(Path(sys.executable).with_name("mlflow"))
    return [mlflow, "server", "--host", _HOST, "--port", port, "--workers", "1", *files]


def _refusal(ports: dict[str, str]) -> str:
    """Why the ports cannot be used, and what to do; empty if they can."""
    for variable, port in ports.items():
        if not port.isdecimal() or not 0 < int(port) < 1 << 16:
            return f"{variable} is {port!r}; set it to a port from 1 to 65535"
    if len(set(ports.values())) < len(ports):
        return f"{' and '.join(ports)} are both {ports['UI_PORT']}; set one of them to another port"
    for variable, port in ports.items():
        if _is_taken(int(port)):
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


def _run_together(commands: list[list[str]]) -> int:
    """Run servers until one ends or a signal comes, then end all of them."""
    for number in _ENDING:  # SIGINT too: a shell's background job would ignore it, and so would the servers
        signal.signal(number, _interrupt)
    environment = {
        **os.environ,
        "MLFLOW_BACKEND_STORE_URI": tracking_uri(),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    servers: list[psutil.Popen] = []
    try:
        for command in commands:  # in their own sessions, so that Ctrl-C reaches them once, from here
            servers.append(psutil.Popen(command, env=environment, start_new_session=True))
        while not (ended := [server for server in servers if server.poll() is not None]):
            time.sleep(0.5)
    except KeyboardInterrupt:
        return _INTERRUPTED
    finally:
        _stop(servers)
    print(f"{' '.join(commands[servers.index(ended[0])][:4])} ended, so the other was stopped", file=sys.stderr)
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
