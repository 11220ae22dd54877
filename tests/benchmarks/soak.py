"""Kills parts of the running system at random moments, again and again, and checks what is left each time.

``python tests/benchmarks/soak.py --kills 200 --seed 0 [--s3] [--minutes 60] [--folder DIR]`` starts a code server, the
daemon and the webserver over a folder, with ``--s3`` also an S3 server that keeps the artefacts, submits runs of the
graph of a tiny shop with a tiny model, and sends SIGKILL to the run's process, to torchrun, to a rank, to the daemon,
or to the S3 server, which is started again some seconds later. A cycle is one training: up to seven disturbed runs of
it, most of them hit several times, until one ends well; where none does, one that nothing disturbs. After every run it
checks

- that no process of a training is left, and nothing half-written lies about;
- that every version is whole, here and in the bucket, and every pointer names one;
- that Dagster and MLflow say of the run how it ended, and a run that ended well built everything;
- that a run of which only the daemon, or a training's process once, was killed ended well;

and after every cycle that the training has the very history of one that nothing disturbed.

It prints a line a run and one JSON object at the end; the exit code is 1 where a check failed. What is known is kept in
``soak.json`` in the folder after every run: the same command over the same folder goes on.
"""

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
from mlflow import MlflowClient

from genrec_core.data.sample import write_sample
from genrec_core.errors import GenrecError
from genrec_core.storage.artifacts import MANIFEST, read_json, verify_manifest, write_json
from genrec_core.storage.folders import LATEST, latest, storage_root
from genrec_dagster.training import code_revision
from tests.benchmarks.services import BUCKET, Services

RUN, TORCHRUN, RANK, DAEMON, S3 = "run", "torchrun", "rank", "daemon", "s3 server"
_ROLES = {"genrec_core.tiger.torchrun": TORCHRUN, "genrec_dagster.training_worker": RANK}
ENDED = {"SUCCESS", "FAILURE", "CANCELED"}
MODEL = ("tiger_checkpoint", "recall_metrics", "onnx_encoder", "model_release", "served_release")
# What a cycle runs: a job of the graph, and which of its assets; all where empty.
JOBS: dict[str, tuple[str, tuple[str, ...]]] = {
    "training": ("train_model", MODEL[:1]),
    "train_model": ("train_model", ()),
    "full_graph": ("full_graph", ()),
}
EPOCHS = 40
TRAINING = {
    "d_model": 16, "heads": 2, "encoder_layers": 1, "decoder_layers": 1, "d_ff": 32, "max_history": 10,
    "epochs": EPOCHS, "patience": EPOCHS, "batch_targets": 256, "validation_users": 20, "validation_beams": 10,
    "validate_every": 1, "processes": 2,
}  # fmt: skip
_OTHER_GATES = {"over_popularity": 0.0, "max_miss_share": 1.0}
_SEEDS = 3  # trainings that are made anew again and again, each compared with one undisturbed one
_TRAINS = (RUN, TORCHRUN, RANK)
_WEIGHTS = {RUN: 2, TORCHRUN: 3, RANK: 5, DAEMON: 2, S3: 5}
_HITS = ((8, 16),) * 4 + ((1, 4),) * 3  # by the number of runs it took
_LONGEST_AWAY = 10.0
_LONGEST_RUN, _LONGEST_END = 600.0, 90.0
_TIMINGS = {"seconds", "targets_per_second"}
_STATE = "soak.json"


class Soak:
    """One soak.

    Args:
        services: what is attacked.
        seed: of the moments and the victims.
    """

    def __init__(self, services: Services, seed: int) -> None:
        self.services, self.seed = services, seed
        self.storage = storage_root()
        self.stores = [self.storage]
        if services.s3:
            self.stores.append(services.root / "buckets" / BUCKET / "genrec")
        self.raw = services.root / "raw"
        if not self.raw.is_dir():
            write_sample(self.raw, users=400, items=200)
        state_file = services.root / _STATE
        known = read_json(state_file) if state_file.is_file() else {}
        self.number = known.get("cycles", 0)
        self.seconds = known.get("seconds", 0)
        self.kills = Counter(known.get("kills", {}))
        self.ended = Counter(known.get("runs", {}))
        self.failures: list[str] = known.get("failures", [])
        self.compared, self.resumed = known.get("trainings_compared", 0), known.get("of_them_resumed", 0)
        self.cut_off = known.get("trainings_cut_off", 0)
        self.unfinished = known.get("unfinished_uploads", 0)
        self.longest: dict[str, float] = known.get("undisturbed_seconds", {})
        self.verified: set[Path] = set()
        self.began = time.monotonic()

    def found(self) -> dict[str, Any]:
        """What is known so far."""
        return {
            "cycles": self.number,
            "kills": dict(self.kills),
            "runs": dict(self.ended),
            "trainings_cut_off": self.cut_off,
            "trainings_compared": self.compared,
            "of_them_resumed": self.resumed,
            "unfinished_uploads": self.unfinished,
            "undisturbed_seconds": self.longest,
            "failures": self.failures,
            "seconds": round(self.seconds + time.monotonic() - self.began),
            "seed": self.seed,
        }

    def cycle(self) -> None:
        """One training, disturbed and checked until it is made; then compared."""
        self.random = random.Random(f"{self.seed}-{self.number}")
        shutil.rmtree(self.storage / ".training", ignore_errors=True)
        job = "full_graph" if self.number == 0 else self.random.choices(list(JOBS), [6, 3, 1])[0]
        cut_off = self.cut_off
        # The more runs it took, the fewer hits; the first of a kind, and the last of many, is left alone.
        hits_by_attempt = [self.random.randint(*span) for span in _HITS] if job in self.longest else []
        for attempt, hits in enumerate([*hits_by_attempt, 0]):
            if self.attempt(job, f"{self.number}.{attempt} {job}", hits) == "SUCCESS":
                self.compare(self.cut_off > cut_off)
                break
        self.number += 1
        self.keep()

    def keep(self) -> None:
        """Write down what is known."""
        write_json(self.services.root / _STATE, self.found())

    def attempt(self, job: str, what: str, hits: int) -> str:
        """One run, hit so many times, and all checks; how it ended."""
        began = time.monotonic()
        run = self.submit(job)
        done = self.disturb(run, job, hits)
        status = self.wait(run)
        if not hits:
            self.longest[job] = min(self.longest.get(job, _LONGEST_RUN), time.monotonic() - began)
        what = f"{what} after {', '.join(done) or 'nothing'}"
        self.ended[status] += 1
        self.check(run, job, status, done, what)
        seconds = time.monotonic() - began
        print(
            f"{what}: {status} in {seconds:.0f} s; {self.kills.total()} kills, {len(self.failures)} failures",
            flush=True,
        )
        self.keep()
        return status

    def submit(self, job: str) -> str:
        name, assets = JOBS[job]
        config: dict[str, Any] = {
            "ops": {"tiger_checkpoint": {"config": {**TRAINING, "seed": self.number % _SEEDS}}},
            "resources": {},
        }
        if not assets:
            config["ops"] |= {
                "recall_metrics": {"config": {"bootstrap_samples": 20, "users": 50, "exact_users": 2}},
                "onnx_encoder_onnx_latency": {"config": {"p95_milliseconds": 60000.0, "timed_users": 10}},
                "onnx_encoder_onnx_ranks_like_torch": {"config": {"users": 50}},
            }
            config["resources"] = {
                "gates": {"config": {**{f"recall_at_{k}": 0.0 for k in (10, 100, 1000)}, **_OTHER_GATES}},
                "release": {"config": {"rule": "always"}},  # the tiny models of different seeds differ much
            }
        if job == "full_graph":
            config["ops"] |= {
                "raw_beauty": {"config": {"source": str(self.raw)}},
                "semantic_ids": {"config": {"levels": 2, "codebook_size": 16}},
                "batch_predictions": {"config": {"top_k": 20}},
            }
        return self.services.client.submit_job_execution(
            name,
            repository_location_name="genrec",
            repository_name="__repository__",
            run_config=config,
            asset_selection=[dg.AssetKey(asset) for asset in assets] or None,
        )

    def status(self, run: str) -> str:
        return str(self.services.client.get_run_status(run).value)

    def goes_on(self, run: str) -> bool:
        return self.status(run) not in ENDED

    def disturb(self, run: str, job: str, hits: int) -> list[str]:
        """Kill at random moments one of what is alive then; whom."""
        moments = sorted(self.random.uniform(0, self.longest.get(job, 0)) for _ in range(hits))
        began, done = time.monotonic(), []
        for moment in moments:
            while time.monotonic() < began + moment and self.goes_on(run):
                time.sleep(0.2)
            if not self.goes_on(run):
                break
            alive, training = self.alive(), self.training_goes_on()
            kind = self.random.choices(list(alive), [_weight(kind, training) for kind in alive])[0]
            try:
                self.random.choice(alive[kind]).send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue
            done.append(kind)
            self.kills[kind] += 1
            self.cut_off += training and kind in _TRAINS
            self.bring_back(kind)
        return done

    def alive(self) -> dict[str, list[psutil.Process]]:
        """What can be killed now, by kind."""
        found = {DAEMON: [psutil.Process(self.services.daemon.pid)]}
        if self.services.s3:
            found[S3] = [psutil.Process(self.services.s3.pid)]
        for process in self.services.processes():
            if kind := self.role(process):
                found.setdefault(kind, []).append(process)
        return found

    def bring_back(self, kind: str) -> None:
        """Start a service again; the S3 server after a while."""
        if kind == DAEMON:
            self.services.daemon.wait()
            self.services.start_daemon()
        elif kind == S3 and self.services.s3:
            self.services.s3.wait()
            time.sleep(self.random.uniform(0, _LONGEST_AWAY))
            self.services.start_s3()

    def role(self, process: psutil.Process) -> str | None:
        """What a process does: the code server forks or spawns a run's, and a resource tracker of no interest."""
        try:
            command, parent = process.cmdline(), process.ppid()
        except psutil.NoSuchProcess:
            return None
        if parent == self.services.code.pid and "resource_tracker" not in " ".join(command):
            return RUN
        return next((role for module, role in _ROLES.items() if module in command), None)

    def training_goes_on(self) -> bool:
        """Whether a training is between its first epoch and its last."""
        if not any(self.role(process) == RANK for process in self.services.processes()):
            return False
        for progress in self.storage.glob(".training/*/state/progress.json"):
            try:
                return 1 <= read_json(progress)["epoch"] < EPOCHS
            except GenrecError:  # it is being replaced
                return True
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

    def check(self, run: str, job: str, status: str, done: list[str], what: str) -> None:
        """All that must hold after a run; what is tidied by a sensor is waited for."""
        self.check_end(run, job, status, done, what)
        self.soon(what, lambda: self.running() + self.left_behind() + self.untrue(run, status))
        for store in self.stores:
            self.check_versions(store, what)

    def check_end(self, run: str, job: str, status: str, done: list[str], what: str) -> None:
        survived = not {RUN, S3} & set(done) and len([kind for kind in done if kind != DAEMON]) <= 1
        if survived and status != "SUCCESS" and self.began_to_work(run):
            self.fail(f"{what}: run {run} ended as {status}")
        if status == "SUCCESS":
            for asset in JOBS[job][1] or MODEL:
                if not all((store / asset / run / MANIFEST).is_file() for store in self.stores):
                    self.fail(f"{what}: run {run} ended well, and {asset} has no version of it")

    def began_to_work(self, run: str) -> bool:
        """Whether the run started: a daemon that is killed while it launches one leaves it to the run monitoring."""
        with dg.DagsterInstance.get() as instance:
            record = instance.get_run_record_by_id(run)
        return record is not None and record.start_time is not None

    def soon(self, what: str, faults: Callable[[], list[str]]) -> None:
        """Wait until there is no fault."""
        until = time.monotonic() + _LONGEST_END
        while found := faults():
            if time.monotonic() > until:
                for fault in found:
                    self.fail(f"{what}: {fault}")
                return
            time.sleep(1)

    def running(self) -> list[str]:
        """What still trains."""
        found = [process for process in self.services.processes() if self.role(process) in (TORCHRUN, RANK)]
        return [f"process {process.pid} still trains" for process in found]

    def left_behind(self) -> list[str]:
        """What lies half-written in the storage, or in this machine's mirror of it."""
        patterns = (".work/*/*", "*/.*.part", "*/.*.old", "*/*/.*.part")
        return [f"{left} was left behind" for pattern in patterns for left in self.storage.glob(pattern)]

    def untrue(self, run: str, status: str) -> list[str]:
        """What MLflow says otherwise than Dagster."""
        client = MlflowClient(tracking_uri=self.services.env["MLFLOW_TRACKING_URI"])
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        trained = (self.storage / "tiger_checkpoint" / run / MANIFEST).is_file()
        wanted = {"FINISHED"} if status == "SUCCESS" else {"FAILED", "KILLED"}
        if trained:  # though the run may have been killed before it could say so to Dagster
            wanted.add("FINISHED")
        found = [logged.info.status for logged in client.search_runs(experiments, f"tags.dagster_run = '{run}'")]
        return [f"Dagster says {status} of {run}, MLflow {said}" for said in found if said not in wanted]

    def check_versions(self, store: Path, what: str) -> None:
        """Every pointer names a whole version, and no version that looks whole is not."""
        for pointer in store.glob(f"*/{LATEST}"):
            version = read_json(pointer)["version"]
            if not (pointer.parent / version / MANIFEST).is_file():
                self.fail(f"{what}: {pointer} names {version}, which has no manifest")
        for version in set(store.glob("[!.]*/[!.]*/")) - self.verified:
            self.verified.add(version)
            if store != self.storage and not (version / MANIFEST).is_file():
                self.unfinished += 1  # an upload was cut off; no reader takes it, and clean_storage removes it
                continue
            try:
                verify_manifest(version)
            except (GenrecError, OSError) as error:
                self.fail(f"{what}: {error}")

    def compare(self, resumed: bool) -> None:
        """The training must equal one of the same seed that nothing disturbed."""
        seed = self.number % _SEEDS
        whole = self.services.root / "undisturbed" / code_revision() / f"{seed}"
        if not (whole / "best").is_dir():
            options = ["--processes", str(TRAINING["processes"]), "--output", str(whole)]
            for name, value in {**TRAINING, "seed": seed}.items():
                options.append(f"--{name}={value}")
            self.services.command("genrec", "train", *options)
        made = latest("tiger_checkpoint", self.storage)
        if losses(made) != losses(whole / "best"):
            self.fail(f"cycle {self.number}: {made} has another history than {whole}")
        self.compared += 1
        self.resumed += resumed

    def fail(self, failure: str) -> None:
        print(f"FAILED {failure}", flush=True)
        self.failures.append(failure)


def _weight(kind: str, training: bool) -> int:
    """How likely a kind is hit; a training that has something to lose is the more likely one."""
    return _WEIGHTS[kind] * (3 if training and kind in _TRAINS else 1)


def losses(checkpoint: Path) -> list[dict[str, Any]]:
    """The history of a training without its timings."""
    entries = read_json(checkpoint / "training_history.json")["epochs"]
    return [{name: value for name, value in entry.items() if name not in _TIMINGS} for entry in entries]


def cancel_queued_runs() -> None:
    """Cancel what a soak that was stopped left in the queue."""
    with dg.DagsterInstance.get() as instance:
        for run in instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.QUEUED])):
            instance.report_run_canceled(run, "the soak that asked for it was stopped")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200, help="stop after the cycle that reaches so many (200)")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="or after the cycle that passes this time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--s3", action="store_true", help="keep the artefacts in an S3 server, and kill that too")
    parser.add_argument("--folder", type=Path, help="where to work, or to go on (a temporary folder)")
    options = parser.parse_args()
    root = (options.folder or Path(tempfile.mkdtemp(prefix="genrec-soak-"))).absolute()
    root.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + 60 * options.minutes
    services = Services(root, bucket=options.s3)
    try:
        services.start_all()
        cancel_queued_runs()
        soak = Soak(services, options.seed)
        with suppress(KeyboardInterrupt):  # what is known is printed, and the same command goes on from there
            while soak.kills.total() < options.kills and time.monotonic() < until:
                soak.cycle()
    finally:
        services.end_processes()
    print(json.dumps(soak.found(), indent=2))
    return 1 if soak.failures else 0


if __name__ == "__main__":
    sys.exit(main())
