"""Settings of the engine: where shards of work are computed."""

from typing import Literal

from pydantic import Field

from genrec_core.settings.base import Settings, settings_from_environment


class EngineSettings(Settings):
    """Where texts are embedded, semantic IDs assigned and users' lists computed."""

    name: Literal["local", "ray"] = Field(
        "local",
        description="Where the work is computed: `local`, in this process; `ray`, by the workers of a Ray cluster "
        "(needs the extra `ray`).",
    )
    address: str | None = Field(
        None,
        description="Address of the Ray cluster: HOST:PORT if this machine is one of its nodes, ray://HOST:PORT "
        "otherwise, or `local` for a cluster on this machine that ends with the step.",
    )


def engine_from_environment() -> EngineSettings:
    """Read ``GENREC_ENGINE`` and Ray's own ``RAY_ADDRESS``."""
    return settings_from_environment(EngineSettings, {"name": "GENREC_ENGINE", "address": "RAY_ADDRESS"})
