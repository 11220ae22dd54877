"""A Ray cluster that is there already, as a resource of dagster-ray. Imported only where work goes to Ray."""

from typing import Any

from genrec_core.engines.engine import connect
from genrec_core.errors import GenrecError

try:
    from dagster_ray import RayResource
except ModuleNotFoundError as error:
    raise GenrecError("dagster-ray is not installed; run pip install 'genrec[ray]'") from error


class RayCluster(RayResource):  # type: ignore[misc]  # its types are not read, as it is not installed everywhere
    """The cluster at an address; dagster-ray connects to it before a step's work and lets go of it afterwards.

    dagster-ray's own connection would load Ray Data in every step and on every node, and take SIGTERM from Dagster.
    """

    address: str

    @classmethod
    def at(cls, address: str | None) -> "RayCluster":
        """The cluster at ``RAY_ADDRESS``; see :func:`genrec_core.engines.engine.connect`."""
        return cls(address=address or "")

    @property
    def host(self) -> str:
        """The head's host."""
        return self.address.removeprefix("ray://").rpartition(":")[0] or self.address

    @property
    def name(self) -> str:
        """What the log calls it."""
        return f"Ray cluster {self.address}"

    @property
    def ray_address(self) -> str:
        """As Ray takes it."""
        return self.address

    @property
    def created(self) -> bool:
        """It is there: nothing of dagster-ray's starts or stops it."""
        return True

    @property
    def ready(self) -> bool:
        """Whether it answers shows when it is connected to."""
        return True

    def connect(self, context: Any) -> Any:
        """Connect this process.

        Raises:
            GenrecError: the cluster does not answer.
        """
        self._context = connect(self.address)
        return self._context

    def on_connect(self, context: Any) -> None:
        """Say so."""
        context.log.info(f"connected to {self.name}")
