"""Settings of the engine: where shards of work are computed."""

from typing import Literal

from pydantic import Field

from genrec_core.settings.base import Settings, settings_from_environment

_ENGINE = {"name": "GENREC_ENGINE", "address": "RAY_ADDRESS"}


class EngineSettings(Settings):
    """Where texts are embedded, semantic IDs assigned and lists of items decoded."""

    name: Literal["local", "ray"] = Field(
        "local", description="`local`: in the process that asks; `ray`: by the workers of a Ray cluster (extra `ray`)."
    )
    address: str | None = Field(
        None,
        description="With `ray`: HOST:PORT of a cluster that this machine is a node of, ray://HOST:PORT of another "
        "one, or `local` for one on this machine that ends with the step.",
    )


def engine_from_environment() -> EngineSettings:
    """Where work is computed: ``GENREC_ENGINE`` and Ray's own ``RAY_ADDRESS``.

    Raises:
        GenrecError: ``GENREC_ENGINE`` names no engine.
    """
    return settings_from_environment(EngineSettings, _ENGINE)
