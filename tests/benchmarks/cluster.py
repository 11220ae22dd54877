"""Embeddings, semantic IDs and predictions on a Ray cluster of two nodes, beside one process: equal, and how fast.

The nodes are network namespaces of this machine, each with one core of it; beside them the same work is done without
Ray on one core and on two. A node is killed in the middle of the embeddings, too.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from genrec_core.bundle.model_folder import ModelFolder
from genrec_core.embedding.item_embeddings import ITEM_TEXT, RAW
from genrec_core.errors import GenrecError
from genrec_core.storage.folders import latest
from tests.benchmarks.cluster_work import Work
from tests.benchmarks.machine import describe
from tests.benchmarks.two_nodes import RayNodes, run_on, two_ray_nodes
from tests.benchmarks.workload import random_histories

COMPARED = ("embeddings", "assignment", "predictions")
_KILLED_AFTER = 4  # batches of texts


def run(
    model_dir: Path | None = None, texts: int = 1280, copies: int = 8, users: int = 4096, top_k: int = 100
) -> dict[str, Any]:
    """Compute everything on one core, on two, and on two nodes of one.

    Args:
        model_dir: the exported model; the newest ``onnx_encoder`` of the storage where None. Texts, vectors and
            codebooks are the newest of the storage.
        texts: texts that are embedded.
        copies: how often all item vectors are encoded.
        users: users with random histories that are served.
        top_k: items a user.

    Returns:
        ``equal`` (whether a part's result is the same to the byte everywhere), ``speedup`` over one core of two cores
        and of two nodes, ``overhead`` of Ray, what a killed node did, then each run's figures, machine, commit.

    Raises:
        GenrecError: there is no model, or network namespaces are not allowed here.
    """
    with TemporaryDirectory(prefix="genrec-cluster-") as place:
        folder = Path(place)
        model = (model_dir or latest("onnx_encoder")).absolute()
        work = _work(folder, model, texts, copies, users, top_k)
        (folder / "work.json").write_text(work.model_dump_json())
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) < 2:
            raise GenrecError("two nodes of one core need a machine with two")
        runs = {f"local_{count}": _local(folder, cores[:count]) for count in (1, 2)}
        with two_ray_nodes() as nodes:
            own_mb = [nodes.own_mb(node) for node in range(2)]
            runs["ray_2"] = figures_of(nodes, folder, "ray", ("overhead", *COMPARED))
            peak_mb = [nodes.own_mb(node) for node in range(2)]
            killed = _killed_node(nodes, folder)
            started = {"start_s": nodes.start_s, "own_mb": own_mb, "own_mb_with_models": peak_mb}
        rates = {name: {part: run[part]["a_second"] for part in COMPARED} for name, run in runs.items()}
        return {
            "equal": {part: len({run[part]["sha256"] for run in runs.values()}) == 1 for part in COMPARED},
            "speedup": {
                name: {part: round(rates[name][part] / rates["local_1"][part], 2) for part in COMPARED}
                for name in ("local_2", "ray_2")
            },
            "overhead": {**started, "connect_s": runs["ray_2"]["connected"]["seconds"], **runs["ray_2"]["overhead"]},
            "killed_node": {**killed, "equal": killed["sha256"] == runs["local_1"]["embeddings"]["sha256"]},
            "benchmark": "cluster",
            "runs": runs,
            **describe(),
        }


def _work(folder: Path, model_dir: Path, texts: int, copies: int, users: int, top_k: int) -> Work:
    item_ids = ModelFolder(model_dir).item_ids
    drawn, requests = random_histories(users, len(item_ids), seed=0), folder / "requests.txt"
    lines = (f"{user} {' '.join(map(str, item_ids[drawn.of(user)]))}\n" for user in range(users))
    requests.write_text("".join(lines))
    embeddings = latest("item_embeddings").absolute()
    return Work(
        texts=embeddings / ITEM_TEXT, n_texts=texts, semantic_ids=latest("semantic_ids").absolute(),
        vectors=embeddings / RAW, copies=copies, model_dir=model_dir, requests=requests, top_k=top_k,
    )  # fmt: skip


def _local(folder: Path, cores: Sequence[int]) -> dict[str, Any]:
    """The figures of this machine's ``cores`` without Ray."""
    name = f"local_{len(cores)}"
    command = ["taskset", "--cpu-list", ",".join(map(str, cores)), *command_of(folder, name, len(cores), COMPARED)]
    given = {name: value for name, value in os.environ.items() if name not in ("GENREC_ENGINE", "OMP_NUM_THREADS")}
    environment = {**given, "OMP_NUM_THREADS": str(len(cores))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return by_part(done.returncode, done.stdout, done.stderr)


def command_of(folder: Path, name: str, cores: int, parts: Sequence[str]) -> list[str]:
    """The command that computes ``parts`` into ``folder / name``."""
    return [sys.executable, "-m", "tests.benchmarks.cluster_work", str(folder), name, str(cores), *parts]


def started_on(nodes: RayNodes, folder: Path, name: str, parts: Sequence[str]) -> "subprocess.Popen[str]":
    """Start the work on the head's machine, computed by the cluster."""
    engine = ["env", "GENREC_ENGINE=ray", f"RAY_ADDRESS={nodes.address}"]
    return run_on(nodes, 0, [*engine, *command_of(folder, name, 2, parts)])


def figures_of(nodes: RayNodes, folder: Path, name: str, parts: Sequence[str]) -> dict[str, Any]:
    """The figures of ``parts`` on the cluster."""
    process = started_on(nodes, folder, name, parts)
    said, complained = process.communicate()
    return by_part(process.returncode, said, complained)


def by_part(code: int, said: str, complained: str) -> dict[str, Any]:
    """What :mod:`tests.benchmarks.cluster_work` printed, by part.

    Raises:
        GenrecError: it failed.
    """
    if code:
        raise GenrecError(f"the measured process ended with {code}: {complained[-1500:]}")
    lines: list[Mapping[str, Any]] = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    return {line["part"]: {name: value for name, value in line.items() if name != "part"} for line in lines}


def _killed_node(nodes: RayNodes, folder: Path) -> dict[str, Any]:
    """Embed once more, with every process of the second node killed after some batches."""
    process = started_on(nodes, folder, "killed", ("embeddings",))
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if " of " in line and said.count(" of ") == _KILLED_AFTER:
            began = time.perf_counter()
            processes = nodes.kill(1)
            break
    else:
        return by_part(process.wait() or 1, "", said)
    output, complained = process.communicate()
    figures: dict[str, Any] = by_part(process.returncode, output, complained)["embeddings"]
    return {"processes": processes, "seconds_to_the_end": round(time.perf_counter() - began, 1), **figures}
