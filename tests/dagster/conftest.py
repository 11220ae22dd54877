"""The whole graph, run once in this process on a tiny shop; tests read its storage or break copies of it."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import dagster as dg
import pytest

from genrec_core.releases.pointer import served_pointer
from genrec_core.storage.redact import SECRET_VARIABLES
from genrec_dagster.definitions import defs
from genrec_dagster.io_manager import ArtifactStorage
from genrec_dagster.resources import ExperimentTracker, WorkFolders

TINY_TRAINING = {
    "d_model": 16, "heads": 2, "encoder_layers": 1, "decoder_layers": 1, "d_ff": 32, "max_history": 10, "epochs": 3,
    "batch_targets": 256, "learning_rate": 0.01, "validation_users": 20, "validation_beams": 10, "validate_every": 1,
    "processes": 1,
}  # fmt: skip
RELAXED_GATES = {
    "recall_at_10": 0.0,
    "recall_at_100": 0.0,
    "recall_at_1000": 0.0,
    "over_popularity": 0.0,
    "max_miss_share": 1.0,
}


def resources_in(folder: Path) -> dict[str, Any]:
    """The resources of the definitions, with storage and tracking below ``folder``."""
    storage = str(folder / "storage")
    mlflow = folder / "mlflow"
    return {
        **(defs.resources or {}),
        "io_manager": ArtifactStorage(root=storage),
        "work": WorkFolders(root=storage),
        "tracker": ExperimentTracker(
            tracking_uri=f"sqlite:///{mlflow}/mlflow.db", artifact_root=(mlflow / "files").as_uri()
        ),
    }


def run_config(raw: Path) -> dict[str, Any]:
    """Launchpad values that make the graph small enough for a test."""
    ops = {
        "raw_beauty": {"source": str(raw)},
        "semantic_ids": {"levels": 2, "codebook_size": 8},
        "tiger_checkpoint": TINY_TRAINING,
        "recall_metrics": {"bootstrap_samples": 20, "batch_users": 64},
        "batch_predictions": {"top_k": 20},
        "onnx_encoder_onnx_latency": {"p95_milliseconds": 60_000.0, "timed_users": 10},
    }
    return {
        "ops": {name: {"config": config} for name, config in ops.items()},
        "resources": {"gates": {"config": RELAXED_GATES}},
        "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
    }


def definitions_in(folder: Path, replacement: dg.AssetsDefinition | None = None) -> dg.Definitions:
    """The definitions over ``folder``, one asset replaced by another of the same key."""
    replaced = {replacement.key} if replacement else set()
    kept = [asset for asset in defs.assets or [] if asset.key not in replaced]
    assets = [*kept, replacement] if replacement else kept
    resources = resources_in(folder)
    return dg.Definitions(assets=assets, asset_checks=defs.asset_checks, jobs=defs.jobs, resources=resources)


def instance_in(folder: Path) -> dg.DagsterInstance:
    """A Dagster instance that keeps its events in ``folder``."""
    return dg.DagsterInstance.local_temp(str(folder), overrides={"telemetry": {"enabled": False}})


SECRETS = {name: f"secret-of-{name.lower().replace('_', '-')}" for name in SECRET_VARIABLES}


class FinishedGraph:
    """A run of ``full_graph``, with secrets in its environment, and where it left its artefacts."""

    def __init__(self, folder: Path, raw: Path) -> None:
        self.folder, self.raw, self.storage = folder, raw, folder / "storage"
        self.secrets = SECRETS
        job = definitions_in(folder).resolve_job_def("full_graph")
        (folder / "events").mkdir()
        with instance_in(folder / "events") as instance, mock.patch.dict(os.environ, SECRETS):
            self.result = job.execute_in_process(run_config=run_config(raw), raise_on_error=False, instance=instance)

    def copy_storage(self, folder: Path) -> None:
        """Copy the storage below ``folder``, work folders left out."""
        shutil.copytree(self.storage, folder / "storage", ignore=shutil.ignore_patterns(".*"))

    def copy_instance(self, folder: Path) -> dg.DagsterInstance:
        """A Dagster instance below ``folder`` that remembers the run."""
        return instance_in(Path(shutil.copytree(self.folder / "events", folder / "events")))

    def run_job(self, name: str, folder: Path, instance: dg.DagsterInstance | None = None) -> dg.ExecuteInProcessResult:
        """Run one of the jobs over the storage below ``folder``; a job's own config wins."""
        job = definitions_in(folder).resolve_job_def(name)
        config = None if name == "roll_back" else self._config_for(job)
        return job.execute_in_process(run_config=config, raise_on_error=False, instance=instance)

    def rerun_from(
        self,
        asset: dg.AssetsDefinition,
        folder: Path,
        changed: dict[str, Any] | None = None,
        gates: dict[str, float] | None = None,
    ) -> dg.ExecuteInProcessResult:
        """Run ``asset`` in place of the one of its name, with no config but a changed one, then all downstream of it.

        Args:
            asset: the replacement.
            folder: where a copy of the storage goes.
            changed: configs of ops, by name, that differ from those of the finished run.
            gates: what the metrics must reach; None: what the finished run asked for.
        """
        self.copy_storage(folder)
        job = dg.define_asset_job("from_there", selection=dg.AssetSelection.assets(asset.key).downstream())
        definitions = dg.Definitions.merge(definitions_in(folder, asset), dg.Definitions(jobs=[job]))
        resolved = definitions.resolve_job_def("from_there")
        config = self._config_for(
            resolved, without="" if asset.op.name in (changed or {}) else asset.op.name, changed=changed
        )
        config["resources"]["gates"]["config"] = gates or RELAXED_GATES
        return resolved.execute_in_process(run_config=config, raise_on_error=False)

    def _config_for(
        self, job: dg.JobDefinition, without: str = "", changed: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        config = run_config(self.raw)
        ops = config["ops"] | {name: {"config": op} for name, op in (changed or {}).items()}
        config["ops"] = {name: op for name, op in ops.items() if job.has_node_named(name) and name != without}
        return config


@pytest.fixture(scope="session")
def tiny_run_config(sample_folder: Path) -> dict[str, Any]:
    """Launchpad values that build the graph of the tiny shop in a minute."""
    return run_config(sample_folder)


@pytest.fixture(scope="session")
def finished_graph(sample_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> FinishedGraph:
    import torch

    torch.set_num_threads(1)
    return FinishedGraph(tmp_path_factory.mktemp("graph"), sample_folder)


@dataclass
class Place:
    """A copy of the finished graph's storage, and of the Dagster instance that remembers its run."""

    graph: FinishedGraph
    folder: Path
    instance: dg.DagsterInstance

    @property
    def storage(self) -> Path:
        return self.folder / "storage"

    @property
    def served(self) -> str:
        """The version that is served."""
        pointer = served_pointer(self.storage)
        assert pointer is not None
        return pointer.version

    @property
    def resources(self) -> dict[str, Any]:
        return resources_in(self.folder)

    def definitions(self) -> dg.Definitions:
        return definitions_in(self.folder)

    def run_job(self, name: str) -> dg.ExecuteInProcessResult:
        return self.graph.run_job(name, self.folder, self.instance)

    def materialize(
        self,
        *assets: str,
        replacement: dg.AssetsDefinition | None = None,
        checked: bool = True,
        rule: str = "not_worse",
        config: dict[str, Any] | None = None,
        refit: bool = False,
    ) -> dg.ExecuteInProcessResult:
        """Run some assets of which only ``served_release`` has config, with their checks or without."""
        selection = dg.AssetSelection.assets(*assets)
        job = dg.define_asset_job("some", selection=selection if checked else selection.without_checks())
        definitions = dg.Definitions.merge(definitions_in(self.folder, replacement), dg.Definitions(jobs=[job]))
        release = {"release": {"config": {"rule": rule, "users": 100, "samples": 100, "refit": refit}}}
        ops = {"served_release": {"config": config}} if config else {}
        if "onnx_encoder" in assets and checked:
            ops["onnx_encoder_onnx_latency"] = {"config": {"p95_milliseconds": 60_000.0, "timed_users": 10}}
        return definitions.resolve_job_def("some").execute_in_process(
            run_config={
                "ops": ops,
                "resources": release if checked and "model_release" in assets else {},
                "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
            },
            instance=self.instance,
            raise_on_error=False,
        )


@pytest.fixture
def place(finished_graph: FinishedGraph, tmp_path: Path) -> Iterator[Place]:
    finished_graph.copy_storage(tmp_path)
    with finished_graph.copy_instance(tmp_path) as instance:
        yield Place(finished_graph, tmp_path, instance)
