"""k-means on torch for one level, with the same result on any number of processes of torchrun.

Each process holds whole blocks of rows. All sums over rows (clusters, errors, sampling weights) are sums of 64-bit
fixed-point integers, because the order of integer additions does not matter. Distances are float32 in blocks, so memory
does not grow with rows x centroids.

Source: Lloyd 1982; Arthur and Vassilvitskii 2007 (k-means++).
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist

from genrec_core.quantization.nearest import nearest_centroids

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


def kmeans(
    vectors: torch.Tensor, share: RowShare, size: int, *, iterations: int, tolerance: float, rng: np.random.Generator
) -> tuple[torch.Tensor, int]:
    """Cluster the rows of all processes.

    Args:
        vectors: the rows of this process, float32 [len(share), dim].
        share: which rows these are.
        size: number of centroids. If fewer rows are distinct, the other centroids stay at zero and unused.
        iterations: most iterations.
        tolerance: stop if the squared error falls by less than this share and no centroid is without rows.
        rng: with the same seed on all processes.

    Returns:
        Centroids float32 [k, dim], the same on all processes, and the number of iterations.
    """
    scales = _Scales.of(vectors, share)
    centroids = _spread_start(vectors, share, size, scales, rng)
    error = math.inf
    for iteration in range(1, iterations + 1):
        codes, errors = assign(vectors, centroids, share)
        previous, error = error, float(share.sum(scales.fixed_squares(errors).sum()))
        counts, means = _cluster_means(vectors, codes, share, size, scales)
        dead = torch.nonzero(counts == 0).flatten()
        seeds = _worst_rows(vectors, errors, share, len(dead))
        if len(seeds) == 0 and previous - error <= tolerance * error:
            return centroids, iteration
        centroids = torch.where((counts > 0)[:, None], means, centroids)
        centroids[dead[: len(seeds)]] = seeds
    return centroids, iterations


def assign(vectors: torch.Tensor, centroids: torch.Tensor, share: RowShare) -> tuple[torch.Tensor, torch.Tensor]:
    """Index int64 [rows] of the nearest centroid, and the squared distance to it, float64 [rows]."""
    codes = torch.empty(len(vectors), dtype=torch.int64, device=vectors.device)
    errors = torch.empty(len(vectors), dtype=torch.float64, device=vectors.device)
    for block in share.blocks():
        codes[block] = nearest_centroids(vectors[block], centroids, torch)
        errors[block] = (vectors[block] - centroids[codes[block]]).double().square_().sum(dim=1)
    return codes, errors


@dataclass(frozen=True)
class _Scales:
    """Powers of two that turn values and squared distances into 64-bit integers whose sum over all rows fits."""

    values: float
    squares: float

    @classmethod
    def of(cls, vectors: torch.Tensor, share: RowShare) -> "_Scales":
        largest = share.largest(vectors.abs())
        # Centroids lie in the box of the vectors, so no squared distance exceeds dim * (2 * largest)^2.
        return cls(_power_for(largest * share.total), _power_for(vectors.shape[1] * (2 * largest) ** 2 * share.total))

    def fixed_values(self, values: torch.Tensor) -> torch.Tensor:
        return (values.double() * self.values).round_().to(torch.int64)

    def fixed_squares(self, squares: torch.Tensor) -> torch.Tensor:
        # Rounded up: a row that differs from its centroid must not get weight 0.
        return (squares.double() * self.squares).ceil_().to(torch.int64)


def _power_for(largest_sum: float) -> float:
    """The power of two that brings ``largest_sum`` below 2^61."""
    return 2.0 ** (61 - math.frexp(largest_sum)[1]) if largest_sum > 0 else 1.0


def _cluster_means(
    vectors: torch.Tensor, codes: torch.Tensor, share: RowShare, size: int, scales: _Scales
) -> tuple[torch.Tensor, torch.Tensor]:
    """Counts int64 [k] and means float32 [k, dim] over all processes; the mean of an empty cluster is 0."""
    sums = torch.zeros(size, vectors.shape[1], dtype=torch.int64, device=vectors.device)
    for block in share.blocks():
        sums.index_add_(0, codes[block], scales.fixed_values(vectors[block]))
    counts, sums = share.sum(torch.bincount(codes, minlength=size)), share.sum(sums)
    return counts, (sums.double() / scales.values / counts.clamp(min=1)[:, None]).float()


def _spread_start(
    vectors: torch.Tensor, share: RowShare, size: int, scales: _Scales, rng: np.random.Generator
) -> torch.Tensor:
    """k-means++: each next centroid is a row drawn in proportion to its squared distance from those drawn so far."""
    centroids = torch.zeros(size, vectors.shape[1], device=vectors.device)
    nearest = torch.full((len(vectors),), math.inf, device=vectors.device)
    weights = torch.ones(len(vectors), dtype=torch.int64, device=vectors.device)
    for index in range(size):
        drawn = _draw_row(vectors, weights, share, rng)
        if drawn is None:
            break
        centroids[index] = drawn
        for block in share.blocks():
            distances = (vectors[block] - drawn).square_().sum(dim=1)
            nearest[block] = torch.minimum(nearest[block], distances)
        weights = scales.fixed_squares(nearest)
    return centroids


def _draw_row(
    vectors: torch.Tensor, weights: torch.Tensor, share: RowShare, rng: np.random.Generator
) -> torch.Tensor | None:
    """A row of any process, drawn in proportion to integer ``weights``; None if all weights are 0."""
    first_block = share.start // BLOCK_ROWS
    by_block = torch.zeros(-(-share.total // BLOCK_ROWS), dtype=torch.int64, device=vectors.device)
    for index, block in enumerate(share.blocks()):
        by_block[first_block + index] = weights[block].sum()
    ends = share.sum(by_block).cumsum(dim=0).cpu()
    if int(ends[-1]) == 0:
        return None
    ticket = int(rng.integers(int(ends[-1])))
    chosen = int(torch.searchsorted(ends, ticket, right=True))
    row = torch.zeros(vectors.shape[1], device=vectors.device)
    if first_block <= chosen < first_block + len(share.blocks()):
        block = share.blocks()[chosen - first_block]
        rest = ticket - (int(ends[chosen - 1]) if chosen else 0)
        row = vectors[block][int(torch.searchsorted(weights[block].cumsum(dim=0), rest, right=True))]
    return share.sum(row)


def _worst_rows(vectors: torch.Tensor, errors: torch.Tensor, share: RowShare, count: int) -> torch.Tensor:
    """Rows [at most count, dim] with the largest errors over all processes, largest first, ties in row order.

    Copies of a row have the same error. Of rows with one error only the first is taken, so that no two are copies.
    """
    if count == 0:
        return vectors[:0]
    own = _first_of_each_error(errors, count)
    table = torch.zeros(share.ranks, count, dtype=torch.float64, device=vectors.device)
    table[share.rank, : len(own)] = errors[own]
    merged = share.sum(table).flatten()  # ranks hold ascending rows, so flat order is row order
    seeds = torch.zeros(count, vectors.shape[1], device=vectors.device)
    winners = _first_of_each_error(merged, count)
    for place, winner in enumerate(winners.tolist()):
        rank, position = divmod(winner, count)
        if rank == share.rank:
            seeds[place] = vectors[own[position]]
    return share.sum(seeds)[: len(winners)]


def _first_of_each_error(errors: torch.Tensor, count: int) -> torch.Tensor:
    """Indices of the ``count`` largest distinct positive values, largest first, the first of equals."""
    ordered, rows = torch.sort(errors, descending=True, stable=True)
    keep = ordered > 0
    keep[1:] &= ordered[1:] != ordered[:-1]
    return rows[keep][:count]
