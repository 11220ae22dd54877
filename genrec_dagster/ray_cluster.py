"""A running Ray cluster as a resource of dagster-ray. This module is imported only if work goes to Ray."""

from typing import Any

from genrec_core.engines.engine import connect
from genrec_core.errors import GenrecError

try:
    from dagster_ray import RayResource
except ModuleNotFoundError as error:
    raise GenrecError("dagster-ray is not installed; run pip install 'genrec[ray]'") from error


class RayCluster(RayResource):  # type: ignore[misc]  # its types are not read, as it is not installed everywhere
    """The cluster at an address. dagster-ray connects to it before a step's work and disconnects afterwards.

    dagster-ray's own way to connect would load Ray Data in each step and on each node, and take SIGTERM from Dagster.
    """

    address: str

    @property
    def host(self) -> str:
        return self.address.removeprefix("ray://").rpartition(":")[0] or self.address

    @property
    def name(self) -> str:
        return f"Ray cluster {self.address}"

    @property
    def ray_address(self) -> str:
        return self.address

    @property
    def created(self) -> bool:
        return True  # so dagster-ray neither starts nor stops it

    @property
    def ready(self) -> bool:
        return True  # whether it answers is seen when this process connects

    def connect(self, context: Any) -> Any:
        """Connect this process; a GenrecError if the cluster does not answer."""
        self._context = connect(self.address)
        return self._context

    def on_connect(self, context: Any) -> None:
        context.log.info(f"connected to {self.name}")
