"""The running system that ``soak.py`` attacks: code server, daemon, webserver and, where wanted, an S3 server."""

import os
import socket
import subprocess
import sys
import time
import uuid
from contextlib import closing
from pathlib import Path

import psutil
import yaml
from dagster_graphql import DagsterGraphQLClient

MARK = "GENREC_SOAK"
BUCKET = "shop"
_KEY, _SECRET = "genrec-soak-key", "genrec-soak-secret"
_START = 180.0
# Dagster's own run monitoring, at a pace that lets a soak go on.
_MONITORING = {"enabled": True, "start_timeout_seconds": 120, "poll_interval_seconds": 10}
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class Services:
    """The services over one folder; starting them ends what an earlier soak over it left running.

    Args:
        root: the folder.
        bucket: keep the artefacts in a bucket of an S3 server of its own, instead of a folder.
    """

    def __init__(self, root: Path, bucket: bool) -> None:
        self.root, self.mark, self.bucket = root, _mark_of(root), bucket
        self.env = self._environment(bucket)
        self.workspace = root / "workspace.yaml"
        self.s3: subprocess.Popen[bytes] | None = None

    def start_all(self) -> None:
        """Start every service."""
        self.end_processes()
        if self.bucket:
            (self.root / "buckets" / BUCKET).mkdir(parents=True, exist_ok=True)
            self.s3_port = free_port()
            self.env["AWS_ENDPOINT_URL_S3"] = f"http://127.0.0.1:{self.s3_port}"
            self.start_s3()
        os.environ.update(self.env)  # this process reads the same storage
        self._prepare_instance()
        code, web, address = free_port(), free_port(), ["-h", "127.0.0.1", "-p"]
        server = {"host": "127.0.0.1", "port": code, "location_name": "genrec"}
        self.workspace.write_text(yaml.safe_dump({"load_from": [{"grpc_server": server}]}))
        self.code = self.start(
            "code", "dagster", "api", "grpc", "-m", "genrec_dagster.definitions", *address, str(code)
        )
        listening(code)
        self.start_daemon()
        self.web = self.start("web", "dagster-webserver", "-w", str(self.workspace), *address, str(web))
        listening(web)
        self.command("dagster", "sensor", "stop", "rebuild", "-w", str(self.workspace))  # builds of no cycle
        self.client = DagsterGraphQLClient("127.0.0.1", port_number=web)

    def _environment(self, bucket: bool) -> dict[str, str]:
        root = self.root
        keys = {"AWS_ACCESS_KEY_ID": _KEY, "AWS_SECRET_ACCESS_KEY": _SECRET, "AWS_EC2_METADATA_DISABLED": "true"}
        return {
            **os.environ,
            **_ONE_THREAD,
            **(keys if bucket else {}),
            MARK: self.mark,
            "DAGSTER_HOME": str(root / "home"),
            "GENREC_STORAGE": f"s3://{BUCKET}/genrec" if bucket else str(root / "storage"),
            "GENREC_MIRROR": str(root / "mirror"),
            "MLFLOW_TRACKING_URI": f"sqlite:///{root}/mlflow/mlflow.db",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "PRESET": "sample",
            "GENREC_RAW": "",
        }

    def _prepare_instance(self) -> None:
        self.command("python", "-m", "genrec_dagster.instance")
        settings = self.root / "home" / "dagster.yaml"
        settings.write_text(yaml.safe_dump({**yaml.safe_load(settings.read_text()), "run_monitoring": _MONITORING}))
        # Three processes that find no database would each begin to make it.
        self.command("dagster", "run", "list")

    def command(self, program: str, *arguments: str) -> None:
        """Run a command to its end."""
        subprocess.run(
            [str(Path(sys.executable).parent / program), *arguments], env=self.env, check=True, capture_output=True
        )

    def start(self, name: str, program: str, *arguments: str) -> "subprocess.Popen[bytes]":
        """A process whose output goes to a log file."""
        command = [str(Path(sys.executable).parent / program), *arguments]
        with (self.root / f"{name}.log").open("ab") as log:
            return subprocess.Popen(command, env=self.env, stdout=log, stderr=log)

    def start_daemon(self) -> None:
        """Dagster's daemon, which launches queued runs and ticks the sensors."""
        self.daemon = self.start("daemon", "dagster-daemon", "run", "-w", str(self.workspace))

    def start_s3(self) -> None:
        """The S3 server; without a cache of files it forgets nothing when it is killed."""
        address = ("--addr", f"127.0.0.1:{self.s3_port}", "--auth-key", f"{_KEY},{_SECRET}")
        options = ("--vfs-cache-mode", "off", "--dir-cache-time", "50ms", "--config", os.devnull)
        self.s3 = self.start("s3", "rclone", "serve", "s3", *address, *options, str(self.root / "buckets"))
        listening(self.s3_port)

    def processes(self) -> list[psutil.Process]:
        """Everything alive that carries the mark: the services and all that they started."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return [process for process in found if process.pid != os.getpid()]

    def end_processes(self) -> None:
        """Kill the services and all that they started."""
        for process in self.processes():
            process.kill()


def _mark_of(root: Path) -> str:
    """What the processes of this folder's soaks carry in their environment."""
    file = root / "mark"
    if not file.is_file():
        file.write_text(uuid.uuid4().hex)
    return file.read_text()


def free_port() -> int:
    """A port that nothing listens on."""
    with closing(socket.socket()) as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def listening(port: int) -> None:
    """Wait until a service listens."""
    until = time.monotonic() + _START
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)
