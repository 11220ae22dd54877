"""The torchrun process group: gloo on CPU, nccl on CUDA; a plain process is a world of one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class World:
    """This process among its peers."""

    rank: int
    size: int
    device: torch.device

    def sum(self, *values: float) -> list[float]:
        """Sum numbers over all processes, in float64."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return [float(value) for value in total.tolist()]

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def distributed() -> Iterator[World]:
    """Join the processes that torchrun started (``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK``) and leave them at the end.

    After an error the group is not left: gloo would wait for peers that wait for this process, and torchrun, which ends
    them all when one exits, would never see the exit.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    if size == 1:
        yield World(0, 1, device)
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    yield World(dist.get_rank(), size, device)
    dist.destroy_process_group()
