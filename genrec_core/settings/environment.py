"""Settings that environment variables give: engine, machines that train together, greatest age of assets."""

import os
from typing import ClassVar, Literal

from pydantic import Field, ValidationError

from genrec_core.errors import GenrecError
from genrec_core.settings.base import Form, Settings

_RENDEZVOUS = {
    "nodes": "GENREC_NODES",
    "node_rank": "GENREC_NODE_RANK",
    "endpoint": "GENREC_RENDEZVOUS",
    "interface": "GENREC_INTERFACE",
    "local_address": "GENREC_LOCAL_ADDRESS",
}


class EngineSettings(Settings):
    """Where texts are embedded, semantic IDs assigned and users' lists computed."""

    main: ClassVar[tuple[str, ...]] = ("name", "address")

    name: Literal["local", "ray"] = Field(
        "local",
        description="Where work is computed. `local`: in the process of the step. `ray`: on a Ray cluster; needs the "
        "extra `ray`.",
    )
    address: str | None = Field(
        None,
        description="Address of the Ray cluster: HOST:PORT if this machine is one of its nodes, else ray://HOST:PORT. "
        "`local`: a cluster on this machine that ends with the step.",
    )


def engine_from_environment() -> EngineSettings:
    """Read ``GENREC_ENGINE`` and Ray's own ``RAY_ADDRESS``."""
    return settings_from_environment(EngineSettings, {"name": "GENREC_ENGINE", "address": "RAY_ADDRESS"})


class RendezvousSettings(Settings):
    """How the machines of one training find each other."""

    main: ClassVar[tuple[str, ...]] = ("nodes", "node_rank", "endpoint", "interface")

    nodes: int = Field(
        1, ge=1, le=1024, description="Number of machines that train together. All must share one storage."
    )
    node_rank: int = Field(
        0,
        ge=0,
        description="Number of this machine among those that train together, from 0. Machine 0 writes the checkpoint.",
    )
    endpoint: str = Field("127.0.0.1:0", description="HOST:PORT of machine 0, where all machines of a training meet.")
    interface: str = Field(
        "lo",
        min_length=1,
        description="Network interface of this machine that leads to the other machines of a training.",
    )
    local_address: str | None = Field(
        None, description="Address of this machine for the other machines of a training. Unset: its host name."
    )
    timeout_seconds: int = Field(900, ge=1, description="Seconds to wait for the other machines of a training.")


def rendezvous_from_environment() -> RendezvousSettings:
    """Read ``GENREC_NODES``, ``GENREC_NODE_RANK``, ``GENREC_RENDEZVOUS`` and so on."""
    return settings_from_environment(RendezvousSettings, _RENDEZVOUS)


class FreshnessSettings(Settings):
    """Greatest age of an asset's newest version, in hours; Dagster warns at half of it."""

    raw_hours: float = Field(24.0 * 7, ge=0.1)  # since the raw data changed or was received
    release_hours: float = Field(24.0 * 30, ge=0.1)  # since the served release was chosen
    predictions_hours: float = Field(24.0 * 7, ge=0.1)


def freshness_from_environment() -> FreshnessSettings:
    """Read ``GENREC_FRESH_RAW_HOURS`` and so on."""
    variables = {name: f"GENREC_FRESH_{name.upper()}" for name in FreshnessSettings.model_fields}
    return settings_from_environment(FreshnessSettings, variables)


def settings_from_environment(form: type[Form], variables: dict[str, str]) -> Form:
    """Read fields from environment variables, named by field; an unset or empty variable leaves the default."""
    values = {name: os.environ[variable] for name, variable in variables.items() if os.environ.get(variable)}
    try:
        return form.model_validate(values)
    except ValidationError as error:
        fault = error.errors()[0]
        variable = variables[str(fault["loc"][0])]
        raise GenrecError(f"{variable}={fault['input']}: {fault['msg']}") from error
