"""Where assets compute their shards: in the process of the step, or on a Ray cluster."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import dagster as dg

from genrec_core.settings import EngineSettings, engine_from_environment
from genrec_dagster.config import defaults_from

if TYPE_CHECKING:
    from genrec_core.engines.engine import Engine


@defaults_from(engine_from_environment())
class ComputeEngine(EngineSettings, dg.ConfigurableResource[None]):
    """Where texts are embedded, semantic IDs assigned and lists decoded."""

    @contextmanager
    def open(self, context: dg.AssetExecutionContext) -> "Iterator[Engine | None]":
        """The engine for the time of a step; None is the process of the step.

        Raises:
            GenrecError: Ray is not installed, or its cluster does not answer.
        """
        if self.name == "local":
            yield None
            return
        from genrec_core.engines.engine import RayEngine
        from genrec_dagster.ray_cluster import RayCluster

        with RayCluster(address=self.address or "").yield_for_execution(context):
            engine = RayEngine()
            context.log.info(f"computing on {engine.cores} cores of the Ray cluster at {self.address}")
            yield engine
