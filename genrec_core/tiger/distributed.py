"""The torchrun process group: gloo on CPU, nccl on CUDA; a plain process is a world of one.

If a machine has fewer GPUs than processes, they share the GPUs and use gloo, because nccl needs a GPU a process.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from genrec_core.errors import GenrecError


@dataclass(frozen=True)
class World:
    """This process among its peers."""

    rank: int
    size: int
    device: torch.device

    @property
    def sums_sparse(self) -> bool:
        """Whether gradients may be sparse: gloo sums them over processes, nccl does not."""
        return self.size == 1 or dist.get_backend() != "nccl"

    def sum(self, value: float) -> float:
        """Sum a number over all processes, in float64."""
        total = torch.tensor(value, dtype=torch.float64, device=self.device)
        if self.size > 1:
            dist.all_reduce(total)
        return float(total)

    def require_shared(self, folder: Path) -> None:
        """Raise on all processes if one does not see ``folder``: machines that train together must share storage."""
        if self.size == 1:
            return
        # A new name each time: a network file system may remember that an old name was not there.
        token = int(self.sum(secrets.randbits(32) if self.rank == 0 else 0))
        mark = folder / f".seen-by-all-{token:x}"
        if self.rank == 0:
            mark.touch()
        self.wait()
        blind = self.sum(0 if mark.is_file() else 1)
        self.wait()
        if self.rank == 0:
            mark.unlink()
        if blind:
            raise GenrecError(
                f"{folder}: {blind:.0f} of {self.size} processes do not see what process 0 writes there; put it on "
                "storage that all machines share, under the same path"
            )

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def distributed() -> Iterator[World]:
    """Join the processes that torchrun started (``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK``) and leave them at the end.

    After an error this process does not leave the group: gloo would wait for peers that wait for this process, and
    torchrun, which ends them all when one exits, would never see the exit.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    device, backend = _device_and_backend()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if size == 1:
        yield World(0, 1, device)
        return
    dist.init_process_group(backend)
    yield World(dist.get_rank(), size, device)
    dist.destroy_process_group()


def _device_and_backend() -> tuple[torch.device, str]:
    """The device of this process, and how the processes exchange tensors."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not gpus:
        return torch.device("cpu"), "gloo"
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % gpus)
    return device, "nccl" if int(os.environ.get("LOCAL_WORLD_SIZE", "1")) <= gpus else "gloo"
