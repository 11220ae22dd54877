"""What each torchrun rank runs for ``test_processes.py``; run here with one rank, it gives what all must equal."""

import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from genrec_core.quantization import kmeans
from genrec_core.quantization.kmeans import RowShare
from genrec_core.quantization.residual import ResidualQuantizer
from genrec_core.settings import SemanticIdSettings

ROWS = 3500  # four blocks of rows, the last not full


def item_vectors() -> np.ndarray:
    """Clusters of unequal size with copies among them."""
    rng = np.random.default_rng(5)
    centres = rng.normal(size=(40, 24)) * 2
    vectors = (centres[rng.integers(40, size=ROWS) ** 2 % 40] + rng.normal(size=(ROWS, 24))).astype(np.float32)
    vectors[::50] = vectors[0]
    return vectors


def fit_and_encode(group: dist.ProcessGroup | None, transform: str) -> dict[str, np.ndarray]:
    """Codes and codebooks of two levels."""
    values = {"transform": transform, "levels": 2, "codebook_size": 60, "tolerance": 0, "iterations": 15}
    settings = SemanticIdSettings.model_validate(values)
    quantizer = ResidualQuantizer.fit(item_vectors(), settings, group)
    found = {f"centroids_{level}": codebook for level, codebook in enumerate(quantizer.codebooks)}
    return found | {"codes": quantizer.encode(item_vectors())}


def revive_dead_centroids(group: dist.ProcessGroup | None) -> dict[str, np.ndarray]:
    """The centroids after all but one started dead."""
    share = RowShare.of(ROWS, group)
    vectors = torch.from_numpy(item_vectors()[share.start : share.stop])
    start, kmeans._spread_start = kmeans._spread_start, lambda vectors, share, size, *rest: torch.zeros(size, 24)
    try:
        found = kmeans.kmeans(vectors, share, 30, iterations=6, tolerance=0, rng=np.random.default_rng(0))
    finally:
        kmeans._spread_start = start
    return {"revived": found[0].numpy()}


def everything(group: dist.ProcessGroup | None) -> dict[str, np.ndarray]:
    """All results by name."""
    torch.set_num_threads(1)
    results = {
        f"{kind}_{name}": array for kind in ("none", "l2") for name, array in fit_and_encode(group, kind).items()
    }
    return results | revive_dead_centroids(group)


if __name__ == "__main__":
    dist.init_process_group("gloo")
    for result, array in everything(dist.group.WORLD).items():
        np.save(Path(sys.argv[1]) / f"{result}_rank{dist.get_rank()}.npy", array, allow_pickle=False)
    dist.destroy_process_group()
