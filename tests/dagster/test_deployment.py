"""Deployments: Dagster+'s file loads by its own loader; the parts of docker/compose.yaml run on a real PostgreSQL."""

import importlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import psycopg2
import pytest
import requests
import yaml
from dagster._core.storage.dagster_run import FINISHED_STATUSES
from dagster_cloud_cli.config.models import load_dagster_cloud_yaml
from dagster_graphql import DagsterGraphQLClient, DagsterGraphQLClientError

from genrec_dagster.definitions import defs

REPOSITORY = Path(__file__).parents[2]
DOCKER = REPOSITORY / "docker"
PASSWORD = r"se:cr\et"  # what a passfile has to escape
DEBIAN = "/usr/lib/postgresql/*/bin"


# --- files -----------------------------------------------------------------------------------------------------------


def test_dagster_cloud_yaml_is_valid_by_dagsters_own_loader_and_names_the_graph() -> None:
    loaded = load_dagster_cloud_yaml((REPOSITORY / "dagster_cloud.yaml").read_text(encoding="utf-8"))
    (location,) = loaded.locations
    assert location.location_name == "genrec"
    assert location.code_source is not None
    assert location.code_source.module_name is not None
    module = importlib.import_module(location.code_source.module_name)
    assert isinstance(module.defs, dg.Definitions)
    assert location.build is not None
    assert (REPOSITORY / str(location.build.directory) / "pyproject.toml").is_file()


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    """The services of the compose file."""
    content = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))
    return {name: dict(service) for name, service in content["services"].items()}


def test_a_composed_service_is_confined_and_published_on_loopback_alone(services: dict[str, dict[str, Any]]) -> None:
    assert set(services) == {"postgres", "mlflow", "code", "webserver", "daemon", "pages", "serve"}
    for name, service in services.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert not {"privileged", "network_mode", "pid"} & set(service), name
        assert service.get("user", "10001") not in {"root", "0"}, name  # the image's own user is 10001


def test_the_files_that_are_mounted_are_there_and_no_password_is(services: dict[str, dict[str, Any]]) -> None:
    mounts = [volume for service in services.values() for volume in service["volumes"] if volume.startswith("./")]
    assert mounts
    assert all((DOCKER / volume.split(":")[0]).is_file() for volume in mounts)
    secrets = {name: service["secrets"] for name, service in services.items()}
    assert secrets.pop("serve") == secrets.pop("pages") == []  # they have nothing to do with the databases
    assert all(given == ["postgres_password"] for given in secrets.values())
    assert "PASSWORD:" not in (DOCKER / "compose.yaml").read_text(encoding="utf-8")


# --- processes -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Postgres:
    """A server on loopback with the databases dagster and mlflow of the user genrec."""

    port: int

    def url(self, database: str) -> str:
        return f"postgresql+psycopg2://genrec@127.0.0.1:{self.port}/{database}"

    def connect(self, database: str) -> psycopg2.extensions.connection:
        place = {"host": "127.0.0.1", "port": self.port, "dbname": database}
        return psycopg2.connect(**place, user="genrec", password=PASSWORD)

    def count(self, database: str, query: str) -> int:
        with self.connect(database) as connection, connection.cursor() as cursor:
            cursor.execute(query)
            (number,) = cursor.fetchone() or (0,)
            return int(number)


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    """PostgreSQL in a folder of its own, as its own user where the tests run as root, which it refuses."""
    programs = next(iter(sorted(Path("/").glob(f"{DEBIAN[1:]}/initdb"), reverse=True)), None)
    found = shutil.which("initdb") or (str(programs) if programs else None)
    if found is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="genrec-postgres-"))
    owner = "postgres" if os.getuid() == 0 else None
    if owner:
        shutil.chown(folder, owner)
    try:
        with _postgres(Path(found).resolve().parent, folder, owner) as server:
            yield server
    finally:
        shutil.rmtree(folder)


@contextmanager
def _postgres(programs: Path, folder: Path, owner: str | None) -> Iterator[Postgres]:
    (folder / "password").write_text(PASSWORD)
    options = ["--username=genrec", f"--pwfile={folder / 'password'}", "--auth=scram-sha-256"]
    command = [programs / "initdb", "-D", folder / "data", *options]
    subprocess.run(command, user=owner, check=True, capture_output=True, cwd=folder)
    server = Postgres(_free_port())
    own = ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "fsync=off"]
    command = [programs / "postgres", "-D", folder / "data", "-p", str(server.port), *own]
    started = subprocess.Popen(command, user=owner, cwd=folder, stderr=subprocess.DEVNULL)
    with _stopped_at_the_end(started):
        connection = _wait(lambda: server.connect("postgres"), started)
        connection.autocommit = True  # no database is made inside a transaction
        with connection.cursor() as cursor:
            cursor.execute("CREATE DATABASE dagster")  # as POSTGRES_DB does
            cursor.execute((DOCKER / "compose" / "databases.sql").read_text(encoding="utf-8"))
        connection.close()
        yield server


def test_an_instance_with_the_composed_settings_keeps_runs_and_events_in_postgresql(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pgpass").write_text("*:*:*:*:" + re.sub(r"([\\:])", r"\\\1", PASSWORD))
    (tmp_path / "pgpass").chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "pgpass"))
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", postgres.url("dagster"))
    monkeypatch.setenv("GENREC_DATA", str(tmp_path / "data"))
    shutil.copyfile(DOCKER / "compose" / "dagster.yaml", tmp_path / "dagster.yaml")

    @dg.asset(name="noted")
    def noted() -> None: ...

    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert dg.materialize([noted], instance=instance).success
    of_asset = "dagster_event_type = 'ASSET_MATERIALIZATION' AND asset_key = '[\"noted\"]'"
    assert postgres.count("dagster", f"SELECT count(*) FROM event_logs WHERE {of_asset}") == 1


class Deployment:
    """The services of the compose file as processes of docker/dagster.sh, with its dagster.yaml."""

    def __init__(self, folder: Path, postgres: Postgres) -> None:
        self.folder, self.postgres = folder, postgres
        self.ports = {name: _free_port() for name in ("mlflow", "code", "webserver", "daemon")}
        (folder / "etc").mkdir()
        (folder / "password").write_text(PASSWORD + "\n")
        shutil.copyfile(DOCKER / "compose" / "dagster.yaml", folder / "etc" / "dagster.yaml")
        workspace = (DOCKER / "compose" / "workspace.yaml").read_text(encoding="utf-8")
        here = workspace.replace("host: code", "host: 127.0.0.1").replace("4000", str(self.ports["code"]))
        (folder / "etc" / "workspace.yaml").write_text(here)

    @contextmanager
    def running(self, *services: str) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
        with ExitStack() as stack:
            yield {name: stack.enter_context(_stopped_at_the_end(self._start(name))) for name in services}

    def _start(self, service: str) -> "subprocess.Popen[bytes]":
        own = self.folder / service
        own.mkdir()
        environment = {
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
            "PYTHONPATH": str(REPOSITORY),
            "HOME": str(own),
            "TMPDIR": str(own),
            "OMP_NUM_THREADS": "1",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "HF_HUB_OFFLINE": "1",
            "GENREC_ETC": str(self.folder / "etc"),
            "GENREC_PORT": str(self.ports[service]),
            "GENREC_DATA": str(self.folder / "data"),
            "GENREC_STORAGE": str(self.folder / "data" / "storage"),
            "DAGSTER_HOME": str(own / "dagster"),
            "DAGSTER_POSTGRES_URL": self.postgres.url("dagster"),
            "POSTGRES_PASSWORD_FILE": str(self.folder / "password"),
            "PGPASSFILE": str(own / "pgpass"),
            "MLFLOW_TRACKING_URI": self.url("mlflow"),
            **({"MLFLOW_BACKEND_STORE_URI": self.postgres.url("mlflow")} if service == "mlflow" else {}),
        }
        log = (self.folder / f"{service}.log").open("wb")
        command = ["sh", str(DOCKER / "dagster.sh"), service]
        return subprocess.Popen(command, env=environment, cwd=own, stdout=log, stderr=subprocess.STDOUT)

    def url(self, service: str) -> str:
        return f"http://127.0.0.1:{self.ports[service]}"

    def said(self) -> str:
        """All that the services logged."""
        return "".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("*.log")))


@pytest.mark.slow
def test_the_graph_materialises_through_the_composed_parts_on_postgresql(
    postgres: Postgres, tmp_path: Path, tiny_run_config: dict[str, Any]
) -> None:
    deployment = Deployment(tmp_path, postgres)
    with deployment.running("mlflow") as first:
        health = f"{deployment.url('mlflow')}/health"
        _wait(lambda: requests.get(health, timeout=5).raise_for_status(), *first.values())
        with deployment.running("code", "webserver", "daemon") as others:
            client = DagsterGraphQLClient("127.0.0.1", port_number=deployment.ports["webserver"])
            submit = partial(client.submit_job_execution, "full_graph", run_config=tiny_run_config)
            run_id = _wait(submit, *others.values())
            status = _finished(client, run_id)
            everything = [each for process in (first | others).values() for each in _with_children(process.pid)]
    said = deployment.said()
    assert status == dg.DagsterRunStatus.SUCCESS, said[-5000:]
    assert PASSWORD not in said
    assert not psutil.wait_procs(everything, timeout=30)[1]

    of_run = f"FROM event_logs WHERE run_id = '{run_id}' AND dagster_event_type = 'ASSET_MATERIALIZATION'"
    assert postgres.count("dagster", f"SELECT count(DISTINCT asset_key) {of_run}") == len(defs.assets or [])
    assert postgres.count("dagster", f"SELECT count(*) FROM runs WHERE status = 'SUCCESS' AND run_id = '{run_id}'") == 1
    assert postgres.count("mlflow", "SELECT count(*) FROM runs WHERE status = 'FINISHED'") == 1
    assert list((tmp_path / "data" / "mlflow" / "artifacts").rglob("MLmodel"))
    assert list((tmp_path / "data" / "storage" / "batch_predictions").rglob("predictions.csv"))


def _finished(client: DagsterGraphQLClient, run_id: str) -> dg.DagsterRunStatus:
    deadline = time.monotonic() + 900
    while (status := client.get_run_status(run_id)) not in FINISHED_STATUSES:
        assert time.monotonic() < deadline, f"the run is still {status}"
        time.sleep(1)
    return status


@contextmanager
def _stopped_at_the_end(process: "subprocess.Popen[bytes]") -> "Iterator[subprocess.Popen[bytes]]":
    """SIGTERM has to end it."""
    try:
        yield process
        process.terminate()
        process.wait(timeout=120)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _with_children(process: int) -> list[psutil.Process]:
    return [psutil.Process(process), *psutil.Process(process).children(recursive=True)]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(ask: Callable[[], Any], *servers: "subprocess.Popen[bytes]") -> Any:
    """The first answer; servers that start refuse."""
    deadline = time.monotonic() + 240
    while True:
        try:
            return ask()
        except (OSError, psycopg2.OperationalError, DagsterGraphQLClientError):  # requests' own are OSErrors
            if time.monotonic() > deadline or any(server.poll() is not None for server in servers):
                raise
            time.sleep(0.5)
