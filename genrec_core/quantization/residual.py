"""The residual quantiser: each level's codebook clusters what the levels before it left over.

Fitting needs torch; loading and encoding do not.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from genrec_core.embedding.item_embeddings import require_finite_rows
from genrec_core.errors import GenrecError
from genrec_core.quantization.files import load_array, load_fields
from genrec_core.quantization.nearest import nearest_centroids
from genrec_core.quantization.transform import Transform
from genrec_core.settings import SemanticIdSettings
from genrec_core.storage.artifacts import write_json

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

QUANTIZER = "quantizer.json"
_LARGEST_VALUE = 1e15  # squared distances beyond it leave float32


@dataclass(frozen=True)
class ResidualQuantizer:
    """Codebooks over transformed vectors.

    Args:
        transform: applied to every vector first.
        codebooks: by level, float32 [centroids, transform.dim].
        iterations: k-means iterations that each level took.
    """

    transform: Transform
    codebooks: tuple[NDArray[np.float32], ...]
    iterations: tuple[int, ...]

    @classmethod
    def fit(
        cls,
        vectors: NDArray[np.float32],
        settings: SemanticIdSettings,
        group: "ProcessGroup | None" = None,
        device: str | None = None,
    ) -> "ResidualQuantizer":
        """Fit the codebooks.

        Args:
            vectors: float32 [n, dim], the whole array on every rank; each clusters its own share of the rows.
            settings: levels, codebook sizes, transform, iterations, tolerance, seed.
            group: the ranks that share the work (all of them call this); None: this process alone.
            device: a torch device; None: CUDA where there is one, else the CPU.

        Returns:
            The quantiser, the same on all ranks and for any number of them.

        Raises:
            GenrecError: a vector is not finite or too large, or the first codebook has more centroids than there are
                distinct vectors.

        Source: Rajput et al. 2023 (TIGER), section 3.1, residual k-means as the quantiser.
        """
        import torch

        from genrec_core.quantization.kmeans import assign, kmeans
        from genrec_core.quantization.processes import RowShare

        require_finite_rows(vectors, "item vectors")
        share = RowShare.of(len(vectors), group)
        transform = Transform(settings.transform, vectors.shape[1])
        _require_distinct(transform, vectors, settings.sizes()[0])
        where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        residual = torch.from_numpy(transform.apply(vectors[share.start : share.stop])).to(where)
        _require_moderate(share.largest(residual.abs()))
        codebooks, iterations = [], []
        for level, size in enumerate(settings.sizes()):
            rng = np.random.default_rng([settings.seed, level])
            level_fit = kmeans(
                residual, share, size, iterations=settings.iterations, tolerance=settings.tolerance, rng=rng
            )
            codes, _ = assign(residual, level_fit.centroids, share)
            residual = residual - level_fit.centroids[codes]
            codebooks.append(level_fit.centroids.cpu().numpy())
            iterations.append(level_fit.iterations)
        return cls(transform, tuple(codebooks), tuple(iterations))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Centroids by level."""
        return tuple(len(codebook) for codebook in self.codebooks)

    def encode(self, vectors: NDArray[np.float32], device: str | None = None) -> NDArray[np.int32]:
        """Codes of vectors, those that were fitted on or new ones.

        Args:
            vectors: float32 [n, dim], as the embedding model gives them.
            device: a torch device; None: NumPy, which gives the same codes and needs no torch.

        Returns:
            int32 [n, levels].

        Raises:
            GenrecError: the width differs from what was fitted, or a vector is not finite.
        """
        require_finite_rows(vectors, "item vectors")
        residual = self.transform.apply(vectors)
        codes = np.empty((len(vectors), len(self.codebooks)), dtype=np.int32)
        for level, codebook in enumerate(self.codebooks):
            codes[:, level] = _nearest(residual, codebook, device)
            residual = residual - codebook[codes[:, level]]
        return codes

    def errors_by_level(self, vectors: NDArray[np.float32], codes: NDArray[np.int32]) -> list[float]:
        """Mean squared error a vector, over all dimensions of the transformed vectors, after each level.

        Args:
            vectors: float32 [n, dim].
            codes: int32 [n, levels], of :meth:`encode`.

        Returns:
            levels + 1 numbers; the first is before any level, around the mean.
        """
        residual = self.transform.apply(vectors)
        errors = [_mean_square(residual - residual.mean(axis=0, dtype=np.float64).astype(np.float32))]
        for level, codebook in enumerate(self.codebooks):
            residual = residual - codebook[codes[:, level]]
            errors.append(_mean_square(residual))
        return errors

    def save(self, folder: Path) -> None:
        """Write ``centroids_<level>.npy``, ``quantizer.json`` and the transform's file."""
        folder.mkdir(parents=True, exist_ok=True)
        self.transform.save(folder)
        for level, codebook in enumerate(self.codebooks):
            np.save(folder / f"centroids_{level}.npy", codebook, allow_pickle=False)
        write_json(folder / QUANTIZER, {"codebook_sizes": self.sizes, "iterations": self.iterations})

    @classmethod
    def load(cls, folder: Path) -> "ResidualQuantizer":
        """Read what :meth:`save` wrote.

        Raises:
            GenrecError: a file is missing, damaged, or does not fit the others.
        """
        sizes, iterations = load_fields(folder / QUANTIZER, "codebook_sizes", "iterations")
        transform = Transform.load(folder)
        codebooks = []
        for level, size in enumerate(sizes):
            path = folder / f"centroids_{level}.npy"
            codebook = load_array(path).astype(np.float32)
            if codebook.shape != (size, transform.dim):
                raise GenrecError(
                    f"{path}: shape {codebook.shape}, but {(size, transform.dim)} is wanted; "
                    "build the semantic IDs again"
                )
            codebooks.append(codebook)
        return cls(transform, tuple(codebooks), tuple(iterations))


def _nearest(
    vectors: NDArray[np.float32], codebook: NDArray[np.float32], device: str | None
) -> NDArray[np.int32] | NDArray[np.int64]:
    if device is None:
        return nearest_centroids(vectors, codebook)
    import torch

    from genrec_core.quantization import kmeans

    found = kmeans.nearest_centroids(torch.from_numpy(vectors).to(device), torch.from_numpy(codebook).to(device))
    codes: NDArray[np.int64] = found.cpu().numpy()
    return codes


def _require_distinct(transform: Transform, vectors: NDArray[np.float32], wanted: int) -> None:
    """Refuse a first codebook with more centroids than distinct vectors; stops counting once there are enough."""
    seen: set[bytes] = set()
    for start in range(0, len(vectors), 1024):
        seen.update(row.tobytes() for row in transform.apply(vectors[start : start + 1024]))
        if len(seen) >= wanted:
            return
    raise GenrecError(
        f"codebook size {wanted} exceeds the {len(seen)} distinct item vectors; "
        f"set codebook_size to {max(2, len(seen))} or less, or give the items texts that differ"
    )


def _require_moderate(largest: float) -> None:
    if largest > _LARGEST_VALUE:
        raise GenrecError(
            f"item vectors reach {largest:.3g}, beyond {_LARGEST_VALUE:.0e} distances overflow; set transform to l2"
        )


def _mean_square(residual: NDArray[np.float32]) -> float:
    blocks = (residual[start : start + 1024].astype(np.float64) for start in range(0, len(residual), 1024))
    return float(sum(np.square(block).sum() for block in blocks)) / len(residual)
