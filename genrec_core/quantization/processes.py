"""The rows that a process of torchrun works on, and sums over the processes."""

from dataclasses import dataclass

import torch
import torch.distributed as dist

# Rows are dealt in blocks of this size for any number of processes, so that each block gives the same result.
BLOCK_ROWS = 1024


@dataclass(frozen=True)
class RowShare:
    """The rows ``start..stop`` of ``total`` that process ``rank`` of ``ranks`` holds; one process has no ``group``."""

    total: int
    start: int
    stop: int
    rank: int
    ranks: int
    group: dist.ProcessGroup | None

    @classmethod
    def of(cls, total: int, group: dist.ProcessGroup | None) -> "RowShare":
        """Deal whole blocks of rows to the processes of ``group``, in order."""
        rank, ranks = (0, 1) if group is None else (dist.get_rank(group), dist.get_world_size(group))
        blocks = -(-total // BLOCK_ROWS)
        first, last = rank * blocks // ranks, (rank + 1) * blocks // ranks
        return cls(total, min(first * BLOCK_ROWS, total), min(last * BLOCK_ROWS, total), rank, ranks, group)

    def __len__(self) -> int:
        return self.stop - self.start

    def blocks(self) -> list[slice]:
        """The blocks of this process, as slices of its own rows."""
        return [slice(at, min(at + BLOCK_ROWS, len(self))) for at in range(0, len(self), BLOCK_ROWS)]

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The sum of ``values`` over all processes, on each of them; exact for integers, and if all but one are 0."""
        return self._reduce(values, dist.ReduceOp.SUM)

    def largest(self, values: torch.Tensor) -> float:
        """The largest of ``values`` over all processes; 0 if there are none."""
        own = values.amax() if values.numel() else values.new_zeros(())
        return float(self._reduce(own, dist.ReduceOp.MAX))

    def _reduce(self, values: torch.Tensor, operation: dist.ReduceOp.RedOpType) -> torch.Tensor:
        if self.group is None:
            return values
        wire = "cuda" if dist.get_backend(self.group) == "nccl" else "cpu"
        total = values.to(wire, copy=True)  # all_reduce works in place, and the caller still needs its own share
        dist.all_reduce(total, op=operation, group=self.group)
        return total.to(values.device)
