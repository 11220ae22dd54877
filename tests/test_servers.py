"""Every server listens on this machine alone unless it is told otherwise, and no container runs as root."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from genrec_core.export import torchserve
from genrec_core.settings import RendezvousSettings, ServingSettings

REPOSITORY = Path(__file__).parents[1]
COMPOSE = yaml.safe_load((REPOSITORY / "docker" / "compose.yaml").read_text())


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
    assert re.findall(r"(?:-h|--host) (\S+)", makefile) == ["127.0.0.1"] * 2


def test_the_parts_as_processes_are_on_the_loopback_address() -> None:
    """Only the image says otherwise, for what is in a container listens to nobody but who publishes it."""
    script = (REPOSITORY / "docker" / "dagster.sh").read_text()
    assert "host=${GENREC_HOST:-127.0.0.1}" in script
    assert set(re.findall(r"(?:-h|--host) (\S+)", script)) == {'"$host"'}
    assert "0.0.0.0" not in script


@pytest.mark.parametrize("service", COMPOSE["services"])
def test_a_container_is_published_on_the_loopback_address_and_may_do_little(service: str) -> None:
    config = COMPOSE["services"][service]
    assert all(port.startswith("127.0.0.1:") for port in config.get("ports", []))
    assert config["read_only"]
    assert config["cap_drop"] == ["ALL"]
    assert config["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("name", ["genrec.yaml", "training-pod.yaml"])
def test_no_pod_runs_as_root(name: str) -> None:
    pods = _pods(list(yaml.safe_load_all((REPOSITORY / "docker" / "k8s" / name).read_text())))
    assert pods
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"]
        for container in pod["containers"]:
            assert not container["securityContext"]["allowPrivilegeEscalation"]


def _pods(node: Any) -> list[dict[str, Any]]:
    """Whatever has containers, wherever in a manifest."""
    if isinstance(node, dict):
        return ([node] if "containers" in node else []) + [pod for value in node.values() for pod in _pods(value)]
    return [pod for value in node for pod in _pods(value)] if isinstance(node, list) else []
