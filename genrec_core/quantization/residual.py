"""The residual quantiser: each level's codebook clusters what the levels before it left over.

Fitting needs torch; loading and encoding do not.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from genrec_core.embedding.item_embeddings import l2_normalized, require_finite_rows
from genrec_core.errors import GenrecError
from genrec_core.quantization.nearest import nearest_centroids
from genrec_core.settings import SemanticIdSettings
from genrec_core.storage.artifacts import read_array, read_fields, write_json

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

QUANTIZER, TRANSFORM = "quantizer.json", "transform.json"
_BLOCK_ROWS = 1024
FIT_ROWS = 1 << 17  # vectors that are clustered, of a larger catalogue
_FIT_ROWS_A_CENTROID = 64  # more of them for large codebooks
_LARGEST_VALUE = 1e15  # squared distances beyond it leave float32


@dataclass(frozen=True)
class ResidualQuantizer:
    """Codebooks over transformed vectors."""

    transform: str  # applied to each vector first: ``l2`` scales it to length 1, ``none`` leaves it as it is
    codebooks: tuple[NDArray[np.float32], ...]  # one for each level, float32 [centroids, dim]

    @classmethod
    def fit(
        cls, vectors: NDArray[np.float32], settings: SemanticIdSettings, group: "ProcessGroup | None" = None
    ) -> "ResidualQuantizer":
        """Fit the codebooks, on CUDA if there is a GPU. The result does not depend on the number of processes.

        Beyond 131,072 vectors, or 64 a centroid if that is more, a random sample of as many is clustered.

        Args:
            vectors: float32 [n, dim], the whole array on each process; each process clusters its own share of the rows.
            group: processes that share the work, all of which call this; None: this process alone.

        Source: Rajput et al. 2023 (TIGER), section 3.1, residual k-means as the quantiser.
        """
        import torch

        from genrec_core.quantization.kmeans import RowShare, assign, kmeans

        require_finite_rows(vectors, "item vectors")
        sizes = settings.sizes(len(vectors))
        if len(vectors) > (most := max(FIT_ROWS, _FIT_ROWS_A_CENTROID * max(sizes))):
            drawn = np.random.default_rng(settings.seed).permutation(len(vectors))[:most]
            vectors = vectors[np.sort(drawn)]
        _require_distinct(settings.transform, vectors, sizes[0])
        share = RowShare.of(len(vectors), group)
        own = torch.from_numpy(_transformed(settings.transform, vectors[share.start : share.stop]))
        residual = own.to("cuda" if torch.cuda.is_available() else "cpu")
        largest = share.largest(residual.abs())
        if largest > _LARGEST_VALUE:
            raise GenrecError(
                f"item vectors reach {largest:.3g}, beyond {_LARGEST_VALUE:.0e} distances overflow; set transform to l2"
            )
        codebooks = []
        for level, size in enumerate(sizes):
            rng = np.random.default_rng([settings.seed, level])
            centroids, _ = kmeans(
                residual, share, size, iterations=settings.iterations, tolerance=settings.tolerance, rng=rng
            )
            codes, _ = assign(residual, centroids, share)
            residual = residual - centroids[codes]
            codebooks.append(centroids.cpu().numpy())
        return cls(settings.transform, tuple(codebooks))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of centroids of each level."""
        return tuple(len(codebook) for codebook in self.codebooks)

    @property
    def dim(self) -> int:
        """Width of the vectors."""
        return int(self.codebooks[0].shape[1])

    def encode(self, vectors: NDArray[np.float32]) -> NDArray[np.int32]:
        """Codes int32 [n, levels] of vectors float32 [n, dim], in NumPy."""
        residual = _transformed(self.transform, vectors)
        codes = np.empty((len(vectors), len(self.codebooks)), dtype=np.int32)
        for level, codebook in enumerate(self.codebooks):
            codes[:, level] = nearest_centroids(residual, codebook)
            residual = residual - codebook[codes[:, level]]
        return codes

    def errors_by_level(self, vectors: NDArray[np.float32], codes: NDArray[np.int32]) -> list[float]:
        """Mean over the vectors of the squared error, before the first level (around the mean) and after each level."""
        starts = range(0, len(vectors), _BLOCK_ROWS)
        blocks = [slice(start, start + _BLOCK_ROWS) for start in starts]
        total, squares = np.zeros((1, self.dim)), np.zeros(len(self.codebooks) + 1)
        for rows in blocks:  # one row after the other, so that the block size does not change the sum
            total = np.concatenate([total, _transformed(self.transform, vectors[rows])]).sum(axis=0, keepdims=True)
        mean = (total / len(vectors)).astype(np.float32)
        for rows in blocks:
            residual = _transformed(self.transform, vectors[rows])
            squares[0] += np.square(residual - mean, dtype=np.float64).sum()
            for level, codebook in enumerate(self.codebooks):
                residual -= codebook[codes[rows, level]]
                squares[level + 1] += np.square(residual, dtype=np.float64).sum()
        return [float(square) / len(vectors) for square in squares]

    def save(self, folder: Path) -> None:
        """Write ``centroids_<level>.npy``, ``quantizer.json`` and ``transform.json``."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / TRANSFORM, {"kind": self.transform, "dim": self.dim})
        for level, codebook in enumerate(self.codebooks):
            np.save(folder / f"centroids_{level}.npy", codebook, allow_pickle=False)
        write_json(folder / QUANTIZER, {"codebook_sizes": self.sizes})

    @classmethod
    def load(cls, folder: Path) -> "ResidualQuantizer":
        """Read what :meth:`save` wrote."""
        (sizes,) = read_fields(folder / QUANTIZER, "codebook_sizes")
        transform, dim = read_fields(folder / TRANSFORM, "kind", "dim")
        if transform not in ("none", "l2"):
            raise GenrecError(f"{folder / TRANSFORM}: kind {transform!r} is unknown; build the semantic IDs again")
        codebooks = []
        for level, size in enumerate(sizes):
            path = folder / f"centroids_{level}.npy"
            codebook = read_array(path).astype(np.float32)
            if codebook.shape != (size, dim):
                raise GenrecError(f"{path}: shape {codebook.shape} instead of {(size, dim)}; build it again")
            codebooks.append(codebook)
        return cls(transform, tuple(codebooks))


def _transformed(kind: str, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """A transformed copy, made in blocks of rows."""
    out = np.empty(vectors.shape, dtype=np.float32)
    for start in range(0, len(vectors), _BLOCK_ROWS):
        block = vectors[start : start + _BLOCK_ROWS]
        out[start : start + _BLOCK_ROWS] = l2_normalized(block) if kind == "l2" else block
    return out


def _require_distinct(transform: str, vectors: NDArray[np.float32], wanted: int) -> None:
    """Raise if there are fewer distinct vectors than ``wanted``; stops counting once there are enough."""
    seen: set[bytes] = set()
    for start in range(0, len(vectors), _BLOCK_ROWS):
        seen.update(row.tobytes() for row in _transformed(transform, vectors[start : start + _BLOCK_ROWS]))
        if len(seen) >= wanted:
            return
    raise GenrecError(
        f"codebook size {wanted} exceeds the {len(seen)} distinct item vectors; "
        f"set codebook_size to {max(2, len(seen))} or less, or give the items texts that differ"
    )
