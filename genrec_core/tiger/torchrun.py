"""torchrun's command line: how the processes of a training find each other, on one machine or on several."""

from genrec_core.errors import GenrecError
from genrec_core.settings import RendezvousSettings, TrainingSettings


def torchrun_arguments(settings: TrainingSettings, rendezvous: RendezvousSettings) -> list[str]:
    """Arguments of torchrun on one machine, up to the program that it starts.

    A single machine meets on the loopback address and a free port; ``--standalone`` would ask for the machine's name.
    Several meet where ``rendezvous`` says, by torchrun's static rendezvous: the machine of rank 0 is then always the
    one that was given rank 0, which reports to Dagster and writes the checkpoint.

    Raises:
        GenrecError: see :func:`require_reachable`.
    """
    require_reachable(rendezvous)
    common = ["--nproc-per-node", str(settings.processes), "--max-restarts", "0"]
    if rendezvous.nodes == 1:
        meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1"]
        return ["--nnodes", "1", *common, *meeting]
    place = ["--nnodes", str(rendezvous.nodes), "--node-rank", str(rendezvous.node_rank)]
    meeting = ["--rdzv-backend", "static", "--rdzv-endpoint", rendezvous.endpoint]
    patience = ["--rdzv-conf", f"timeout={rendezvous.timeout_seconds}"]
    own = ["--local-addr", rendezvous.local_address] if rendezvous.local_address else []
    return [*place, *common, *meeting, *patience, *own]


def torchrun_environment(settings: TrainingSettings, rendezvous: RendezvousSettings) -> dict[str, str]:
    """Threads of a process, and the network interface by which gloo and NCCL reach the other machines."""
    interface = "lo" if rendezvous.nodes == 1 else rendezvous.interface
    threads = {"OMP_NUM_THREADS": str(settings.threads_per_process)}
    return {**threads, "GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": interface}


def require_reachable(rendezvous: RendezvousSettings) -> None:
    """Refuse a rendezvous at which several machines cannot meet.

    Raises:
        GenrecError: several machines and no fixed port, or a machine number that is not one of theirs.
    """
    if rendezvous.nodes == 1:
        return
    host, _, port = rendezvous.endpoint.rpartition(":")
    if not host or not port.isdecimal() or int(port) == 0:
        raise GenrecError(
            f"rendezvous {rendezvous.endpoint!r} of {rendezvous.nodes} nodes: write HOST:PORT, an address of node 0 "
            "that the others reach and a free port there"
        )
    if rendezvous.node_rank >= rendezvous.nodes:
        raise GenrecError(
            f"node_rank {rendezvous.node_rank} of {rendezvous.nodes} nodes: they count from 0 to {rendezvous.nodes - 1}"
        )
