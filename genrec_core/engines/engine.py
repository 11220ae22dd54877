"""Where the shards of a large piece of work are computed: in this process, or by the workers of a Ray cluster.

Shards are the same wherever they are computed, and results come in the order of the shards. So all engines give the
same results.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

from genrec_core.engines.ray_engine import RayEngine, connect
from genrec_core.settings import EngineSettings

Common = TypeVar("Common")
Shard = TypeVar("Shard")
Result = TypeVar("Result")


class Engine(Protocol):
    """Computes shards."""

    def map(
        self, function: Callable[[Common, Shard], Result], common: Common, shards: Iterable[Shard]
    ) -> Iterator[Result]:
        """``function(common, shard)`` of each shard, in the order of the shards.

        Args:
            function: a function of a module; a worker finds it by its name. It is called again for a shard whose
                worker died.
            common: an argument that is the same for all shards; it is sent once.
            shards: read a few ahead of the computation, never all at once.
        """


class LocalEngine:
    """Computes one shard after the other in this process."""

    def map(
        self, function: Callable[[Common, Shard], Result], common: Common, shards: Iterable[Shard]
    ) -> Iterator[Result]:
        """See :meth:`Engine.map`."""
        return (function(common, shard) for shard in shards)


@contextmanager
def open_engine(settings: EngineSettings) -> Iterator[Engine | None]:
    """The engine that the settings name; None for this process.

    Raises:
        GenrecError: Ray is not installed, its cluster does not answer, or no address is given.
    """
    if settings.name == "local":
        yield None
        return
    connection = connect(settings.address)
    try:
        yield RayEngine()
    finally:
        connection.disconnect()
