"""Kills parts of the running system at random moments, again and again, and checks what is left each time.

``python tests/benchmarks/soak.py --kills 200 --seed 0`` starts a code server, the daemon and the webserver over a fresh
folder, submits runs of the sample graph with a tiny model, and sends SIGKILL to the run's process, to torchrun, to a
rank, or to the daemon. After every run it checks that

- no process of the run is left;
- every version in the storage is whole, every pointer names one, and nothing half-written lies about;
- Dagster and MLflow say of the run how it ended;
- a training that was cut off, run again, ends with the history of one that nothing disturbed (every tenth time).

It prints a line a run and one JSON object at the end; the exit code is 1 where a check failed.
"""

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import yaml
from dagster_graphql import DagsterGraphQLClient
from mlflow import MlflowClient

from genrec_core.artifacts import MANIFEST, read_json, verify_manifest
from genrec_core.errors import GenrecError
from genrec_core.storage import LATEST, latest

MARK = "GENREC_SOAK"
RUN, TORCHRUN, RANK, DAEMON = "run", "torchrun", "rank", "daemon"
ENDED = {"SUCCESS", "FAILURE", "CANCELED"}
TRAINING = {
    "d_model": 16, "heads": 2, "encoder_layers": 1, "decoder_layers": 1, "d_ff": 32, "max_history": 10, "epochs": 6,
    "batch_targets": 256, "validation_users": 20, "validation_beams": 10, "validate_every": 1, "processes": 2,
}  # fmt: skip
_LONGEST_RUN, _LONGEST_END, _START = 300.0, 90.0, 120.0
_COMPARED_EVERY = 10
_TIMINGS = {"seconds", "targets_per_second"}


class Services:
    """The code server, the daemon and the webserver over one folder."""

    def __init__(self, root: Path) -> None:
        self.root, self.mark = root, uuid.uuid4().hex
        self.env = {
            **os.environ,
            MARK: self.mark,
            "DAGSTER_HOME": str(root / "home"),
            "GENREC_STORAGE": str(root / "storage"),
            "MLFLOW_TRACKING_URI": f"sqlite:///{root}/mlflow/mlflow.db",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "PRESET": "sample",
            "GENREC_RAW": "",
        }
        for command in (["python", "-m", "genrec_dagster.instance"], ["dagster", "run", "list"]):
            # The second makes the databases: three processes that find none each begin to make them.
            program = str(Path(sys.executable).parent / command[0])
            subprocess.run([program, *command[1:]], env=self.env, check=True, capture_output=True)
        code, web = free_port(), free_port()
        server = {"host": "127.0.0.1", "port": code, "location_name": "genrec"}
        (root / "workspace.yaml").write_text(yaml.safe_dump({"load_from": [{"grpc_server": server}]}))
        address = ["-h", "127.0.0.1", "-p"]
        self.code = self.start(
            "code", "dagster", "api", "grpc", "-m", "genrec_dagster.definitions", *address, str(code)
        )
        listening(code)
        self.daemon = self.start_daemon()
        self.web = self.start("web", "dagster-webserver", "-w", str(root / "workspace.yaml"), *address, str(web))
        listening(web)
        # What it would build again after a killed run is not a part of the cycle.
        stop = ["sensor", "stop", "rebuild", "-w", str(root / "workspace.yaml")]
        dagster = str(Path(sys.executable).parent / "dagster")
        subprocess.run([dagster, *stop], env=self.env, check=True, capture_output=True)
        self.client = DagsterGraphQLClient("127.0.0.1", port_number=web)

    def start(self, name: str, program: str, *arguments: str) -> "subprocess.Popen[bytes]":
        """A process whose output goes to a log file."""
        command = [str(Path(sys.executable).parent / program), *arguments]
        with (self.root / f"{name}.log").open("ab") as log:
            return subprocess.Popen(command, env=self.env, stdout=log, stderr=log)

    def start_daemon(self) -> "subprocess.Popen[bytes]":
        """Dagster's daemon, which launches queued runs and ticks the sensors."""
        return self.start("daemon", "dagster-daemon", "run", "-w", str(self.root / "workspace.yaml"))

    def processes(self) -> list[psutil.Process]:
        """Everything alive that carries the mark: the services and all that they started."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found

    def working(self) -> list[psutil.Process]:
        """Those that belong to a training."""
        return [process for process in self.processes() if role(process) in (TORCHRUN, RANK)]

    def stop(self) -> None:
        """End everything."""
        for service in (self.web, self.daemon, self.code):
            service.terminate()
        time.sleep(2)
        for process in self.processes():
            process.kill()


def free_port() -> int:
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
            time.sleep(0.5)


def role(process: psutil.Process) -> str | None:
    """What a process does in a training."""
    try:
        command = process.cmdline()
    except psutil.NoSuchProcess:
        return None
    names = {"genrec_dagster.launcher": TORCHRUN, "genrec_dagster.training_worker": RANK}
    return next((kind for name, kind in names.items() if name in command), None)


class Soak:
    """One soak.

    Args:
        services: what is attacked.
        seed: of the moments and the victims.
    """

    def __init__(self, services: Services, seed: int) -> None:
        self.services, self.random = services, random.Random(seed)
        self.kills: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        self.failures: list[str] = []
        self.verified: set[Path] = set()
        self.compared = 0
        self.longest = 60.0  # seconds of an undisturbed run, measured by the first

    def cycle(self, number: int) -> None:
        """Disturb a run, check, run it again undisturbed, check again."""
        job = "full_graph" if number == 0 else self.random.choice(["train_model", "train_model", "full_graph"])
        victims = [] if number == 0 else self.random.choices([RUN, TORCHRUN, RANK, DAEMON], k=self.random.randint(1, 3))
        began = time.monotonic()
        run = self.submit(job, number)
        done = self.disturb(run, victims)
        status = self.wait(run)
        if number == 0:
            self.longest = time.monotonic() - began
        self.check(run, status, f"{number} {job} after {done or 'nothing'}")
        if status != "SUCCESS":
            run = self.submit(job, number)
            status = self.wait(run)
            self.check(run, status, f"{number} {job} again")
            if status != "SUCCESS":
                self.fail(f"{number} {job}: run again undisturbed, it ended as {status}")
            elif number % _COMPARED_EVERY == 0 or self.compared == 0:
                self.compare(number)

    def submit(self, job: str, seed: int) -> str:
        config = {
            "ops": {
                "tiger_checkpoint": {"config": {**TRAINING, "seed": seed}},
                "recall_metrics": {"config": {"bootstrap_samples": 20}},
                "onnx_encoder_onnx_latency": {"config": {"p95_milliseconds": 60000.0, "timed_users": 10}},
            },
            "resources": {
                "gates": {"config": {f"recall_at_{k}": 0.0 for k in (10, 100, 1000)}},
                "release": {"config": {"rule": "off"}},  # each cycle trains another seed; tiny models differ much
            },
        }
        config["resources"]["gates"]["config"]["max_miss_share"] = 1.0
        return self.services.client.submit_job_execution(
            job, repository_location_name="genrec", repository_name="__repository__", run_config=config
        )

    def status(self, run: str) -> str:
        return str(self.services.client.get_run_status(run).value)

    def disturb(self, run: str, victims: list[str]) -> list[str]:
        """Kill the victims at random moments; which were found."""
        moments = sorted(self.random.uniform(0, self.longest) for _ in victims)
        began, done = time.monotonic(), []
        for moment, kind in zip(moments, victims, strict=True):
            while time.monotonic() < began + moment and self.status(run) not in ENDED:
                time.sleep(0.2)
            victim = self.find(run, kind, until=time.monotonic() + self.longest)
            if victim is None:
                continue
            try:
                victim.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue
            done.append(kind)
            self.kills[kind] += 1
            if kind == DAEMON:
                self.services.daemon.wait()
                self.services.daemon = self.services.start_daemon()
        return done

    def find(self, run: str, kind: str, until: float) -> psutil.Process | None:
        """A process of the kind, waited for as long as the run goes on."""
        if kind == DAEMON:
            return psutil.Process(self.services.daemon.pid)
        while time.monotonic() < until and self.status(run) not in ENDED:
            if kind == RUN:
                found = [process for process in self.services.processes() if self.works_on(process)]
            else:
                found = [process for process in self.services.working() if role(process) == kind]
            if found:
                return self.random.choice(found)
            time.sleep(0.2)
        return None

    def works_on(self, process: psutil.Process) -> bool:
        """Whether it is the process of a run: what the code server forked or spawned, its resource tracker apart."""
        try:
            return process.ppid() == self.services.code.pid and "resource_tracker" not in " ".join(process.cmdline())
        except psutil.NoSuchProcess:
            return False

    def wait(self, run: str) -> str:
        """How the run ended."""
        until = time.monotonic() + _LONGEST_RUN
        while (status := self.status(run)) not in ENDED:
            if time.monotonic() > until:
                self.fail(f"run {run} still {status} after {_LONGEST_RUN:.0f} s")
                return status
            time.sleep(0.5)
        return status

    def check(self, run: str, status: str, what: str) -> None:
        self.ended[status] += 1
        self.check_processes(what)
        self.check_storage(what)
        self.check_tracking(run, status, what)
        print(f"{what}: {status}; {sum(self.kills.values())} kills, {len(self.failures)} failures", flush=True)

    def check_processes(self, what: str) -> None:
        until = time.monotonic() + _LONGEST_END
        while left := self.services.working():
            if time.monotonic() > until:
                self.fail(f"{what}: left running: {[' '.join(process.cmdline())[:120] for process in left]}")
                return
            time.sleep(0.5)

    def check_storage(self, what: str) -> None:
        storage = self.services.root / "storage"
        for pointer in storage.glob(f"*/{LATEST}"):
            if not (latest(pointer.parent.name, storage) / MANIFEST).is_file():
                self.fail(f"{what}: {pointer} names a version without a manifest")
        for version in storage.glob("[!.]*/*"):
            if not version.is_dir() or version in self.verified:
                continue
            if version.name.startswith("."):
                self.fail(f"{what}: {version} was left half-written")
                continue
            try:
                verify_manifest(version)
            except (GenrecError, OSError) as error:
                self.fail(f"{what}: {error}")
            self.verified.add(version)
        for left in storage.glob(".work/*/*"):
            self.fail(f"{what}: {left} was left behind")

    def check_tracking(self, run: str, status: str, what: str) -> None:
        client = MlflowClient(tracking_uri=self.services.env["MLFLOW_TRACKING_URI"])
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        for found in client.search_runs(experiments, f"tags.dagster_run = '{run}'"):
            wanted = {"SUCCESS": {"FINISHED"}}.get(status, {"FAILED", "KILLED", "FINISHED"})
            if found.info.status not in wanted:
                self.fail(f"{what}: Dagster says {status}, MLflow {found.info.status}")
            if found.info.status == "FINISHED" and status != "SUCCESS" and not self.trained(run):
                self.fail(f"{what}: Dagster says {status}, MLflow FINISHED, and there is no checkpoint")

    def trained(self, run: str) -> bool:
        """Whether the run had built its checkpoint before it ended."""
        return (self.services.root / "storage" / "tiger_checkpoint" / run / MANIFEST).is_file()

    def compare(self, seed: int) -> None:
        """The resumed training must equal one of the same seed that nothing disturbed."""
        storage = self.services.root / "storage"
        target = Path(tempfile.mkdtemp(dir=self.services.root)) / "model"
        options = ["--processes", str(TRAINING["processes"]), "--output", str(target)]
        for name, value in {**TRAINING, "seed": seed}.items():
            options += ["--set", f"{name}={value}"]
        subprocess.run(
            [sys.executable, "-m", "genrec_core.cli", "train", *options],
            env={**self.services.env, "OMP_NUM_THREADS": "1"}, check=True, capture_output=True, timeout=_LONGEST_RUN,
        )  # fmt: skip
        resumed, whole = latest("tiger_checkpoint", storage), target / "best"
        if losses(resumed) != losses(whole):
            self.fail(f"seed {seed}: resumed {losses(resumed)}, undisturbed {losses(whole)}")
        self.compared += 1

    def fail(self, failure: str) -> None:
        print(f"FAILED {failure}", flush=True)
        self.failures.append(failure)


def losses(checkpoint: Path) -> list[dict[str, Any]]:
    """The history of a training without its timings."""
    entries = read_json(checkpoint / "training_history.json")["epochs"]
    return [{name: value for name, value in entry.items() if name not in _TIMINGS} for entry in entries]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where to work (a temporary folder)")
    options = parser.parse_args()
    root = (options.folder or Path(tempfile.mkdtemp(prefix="genrec-soak-"))).absolute()
    root.mkdir(parents=True, exist_ok=True)
    began, services = time.monotonic(), Services(root)
    soak, number = Soak(services, options.seed), 0
    try:
        while sum(soak.kills.values()) < options.kills:
            soak.cycle(number)
            number += 1
    finally:
        services.stop()
    found = {
        "kills": dict(soak.kills),
        "runs": dict(soak.ended),
        "resumed_trainings_compared": soak.compared,
        "failures": soak.failures,
        "seconds": round(time.monotonic() - began),
        "seed": options.seed,
    }
    print(json.dumps(found, indent=2))
    return 1 if soak.failures else 0


if __name__ == "__main__":
    sys.exit(main())
