"""Machines that train together find each other by torchrun's arguments, and give the losses of one machine."""

import json
import os
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from genrec_core.cli.main import main
from genrec_core.errors import GenrecError
from genrec_core.settings import RendezvousSettings, TrainingSettings
from genrec_core.tiger.torchrun import torchrun_command
from tests.benchmarks.two_nodes import ADDRESSES, INTERFACE, joined_namespaces

WORKER = """
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
import test_training
from genrec_core.tiger.distributed import distributed
from genrec_core.tiger.training import train

with distributed() as world:
    print("rank", world.rank, "of", world.size, flush=True)
    train(test_training.cyclic_data(), test_training.small_settings(epochs=2), Path(sys.argv[2]), world)
"""


def test_one_machine_meets_on_loopback_whatever_its_network() -> None:
    settings, alone = TrainingSettings(processes=3), RendezvousSettings(interface="eth0")
    command, environment = torchrun_command(settings, alone, ["worker.py"])
    assert command[command.index("--nproc-per-node") + 1] == "3"
    assert "--rdzv-endpoint=127.0.0.1:0" in command
    assert environment["GLOO_SOCKET_IFNAME"] == "lo"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"endpoint": "127.0.0.1:0"}, "write HOST:PORT"),
        ({"endpoint": "trainer"}, "write HOST:PORT"),
        ({"endpoint": "trainer:29500", "node_rank": 2}, "node_rank 2 of 2 nodes"),
    ],
)
def test_a_rendezvous_where_nobody_can_meet_is_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(GenrecError, match=said):
        torchrun_command(TrainingSettings(), RendezvousSettings.model_validate({"nodes": 2, **changes}), ["worker.py"])


def test_train_refuses_such_a_rendezvous_before_it_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], sample_folder: Path
) -> None:
    inputs = ["--histories", str(sample_folder), "--semantic_ids", "none", "--embeddings", "none"]
    assert main(["train", *inputs, "--nodes", "2", "--output", str(tmp_path / "out")]) == 2
    assert "a free port of node 0 that the others reach" in capsys.readouterr().err


@pytest.mark.slow
def test_two_nodes_of_one_process_give_the_losses_of_one_node_of_two(tmp_path: Path) -> None:
    together = trained(tmp_path, "together", [([], RendezvousSettings())], processes=2)
    port = free_port()
    apart = trained(tmp_path, "apart", [([], meeting(rank, f"127.0.0.1:{port}")) for rank in (1, 0)], processes=1)
    assert apart == together


@pytest.mark.slow
def test_two_nodes_in_network_namespaces_of_their_own_train_together(tmp_path: Path) -> None:
    together = trained(tmp_path, "together", [([], RendezvousSettings())], processes=2)
    with namespaces_or_skip() as names:
        nodes = [
            (["ip", "netns", "exec", name], meeting(rank, f"{ADDRESSES[0]}:29511", ADDRESSES[rank], INTERFACE))
            for rank, name in enumerate(names)
        ]
        apart = trained(tmp_path, "apart", nodes, processes=1)
    assert apart == together


@pytest.mark.slow
def test_nodes_that_do_not_share_their_storage_are_told_so(tmp_path: Path) -> None:
    port = free_port()
    agents = [agent(tmp_path, f"own-{rank}", [], meeting(rank, f"127.0.0.1:{port}"), processes=1) for rank in (0, 1)]
    said = [process.communicate(timeout=300)[0] for process in agents]
    assert all(process.returncode for process in agents)
    assert any("1 of 2 processes do not see what process 0 writes there" in text for text in said)


def meeting(rank: int, endpoint: str, address: str = "127.0.0.1", interface: str = "lo") -> RendezvousSettings:
    """Machine ``rank`` of two."""
    values = {"nodes": 2, "node_rank": rank, "endpoint": endpoint, "interface": interface, "local_address": address}
    return RendezvousSettings.model_validate({**values, "timeout_seconds": 180})


def trained(
    folder: Path, name: str, nodes: Sequence[tuple[list[str], RendezvousSettings]], processes: int
) -> list[dict[str, float]]:
    """The epochs of a training whose agents are process groups of their own, each behind the command given for it."""
    agents = [agent(folder, name, prefix, rendezvous, processes) for prefix, rendezvous in nodes]
    for process in agents:
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0, said[-3000:]
    epochs: list[dict[str, float]] = json.loads((folder / name / "best" / "training_history.json").read_text())[
        "epochs"
    ]
    return epochs


def agent(
    folder: Path, name: str, prefix: list[str], rendezvous: RendezvousSettings, processes: int
) -> "subprocess.Popen[str]":
    script = folder / "worker.py"
    script.write_text(WORKER)
    settings = TrainingSettings(processes=processes)
    program = [str(script), str(Path(__file__).parent), str(folder / name)]
    command, variables = torchrun_command(settings, rendezvous, program)
    environment = {**os.environ, **variables}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen([*prefix, *command], env=environment, text=True, start_new_session=True, **streams)


@contextmanager
def namespaces_or_skip() -> Iterator[tuple[str, str]]:
    """Two machines of a kind; the test is skipped where none can be made."""
    with ExitStack() as stack:
        try:
            names = stack.enter_context(joined_namespaces())
        except GenrecError as error:
            pytest.skip(str(error))
        yield names


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
