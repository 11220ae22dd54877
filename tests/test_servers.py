"""Every server listens on this machine alone unless it is told otherwise."""

import re
from pathlib import Path

from genrec_core.export import torchserve
from genrec_core.settings import RendezvousSettings, ServingSettings
from genrec_dagster.ui import dagster_command, mlflow_command

REPOSITORY = Path(__file__).parents[1]


def test_the_online_server_and_the_rendezvous_are_on_the_loopback_address() -> None:
    assert ServingSettings().host == "127.0.0.1"
    assert RendezvousSettings().endpoint.startswith("127.0.0.1:")
    assert RendezvousSettings().interface == "lo"


def test_torchserve_is_on_the_loopback_address_and_asks_for_a_token() -> None:
    addresses = re.findall(r"^\w+_address=http://([^:]+):", torchserve._SERVER_CONFIG, re.MULTILINE)
    assert addresses == ["127.0.0.1"] * 3
    assert "disable_token_authorization=true" not in torchserve._SERVER_CONFIG


def test_the_pages_that_make_shows_are_on_the_loopback_address() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    assert re.findall(r"(?:-h|--host) (\S+)", makefile) == ["127.0.0.1"]
    for command, host in ((dagster_command("3000"), "-h"), (mlflow_command("5000"), "--host")):
        assert command[command.index(host) + 1] == "127.0.0.1"


def test_the_parts_as_processes_are_on_the_loopback_address() -> None:
    """Only the image says otherwise, for what is in a container listens to nobody but who publishes it."""
    script = (REPOSITORY / "docker" / "dagster.sh").read_text()
    assert "host=${GENREC_HOST:-127.0.0.1}" in script
    assert set(re.findall(r"(?:-h|--host) (\S+)", script)) == {'"$host"'}
    assert "0.0.0.0" not in script
