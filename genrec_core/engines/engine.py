"""Where the shards of a large piece of work are computed: in this process, or by the workers of a Ray cluster.

What belongs to a shard does not depend on where it is computed, and results come in the order of the shards, so that
every engine gives the same.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

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
            function: a function of a module, by whose name a worker finds it. It may be called more than once for a
                shard, where a worker died.
            common: what it needs for every shard; it is sent once.
            shards: taken a few ahead of what is computed, never all at once.
        """


class LocalEngine:
    """Computes one shard after the other in this process; operators may use all of its threads."""

    def map(
        self, function: Callable[[Common, Shard], Result], common: Common, shards: Iterable[Shard]
    ) -> Iterator[Result]:
        """See :meth:`Engine.map`."""
        return (function(common, shard) for shard in shards)


@contextmanager
def open_engine(settings: EngineSettings) -> Iterator[Engine | None]:
    """The engine that the settings name; None for this process, which each kind of work uses in its own way.

    Raises:
        GenrecError: Ray is not installed, its cluster does not answer, or no address is given.
    """
    if settings.name == "local":
        yield None
        return
    from genrec_core.engines.ray_engine import RayEngine, connected

    with connected(settings.address):
        yield RayEngine()
