"""What is done to item vectors before k-means, fitted once and repeated for every new item. NumPy only."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genrec_core.artifacts import write_json
from genrec_core.embedding.item_embeddings import l2_normalized
from genrec_core.errors import GenrecError
from genrec_core.quantization.stored import load_array, load_fields
from genrec_core.settings import SemanticIdSettings

Float32s = NDArray[np.float32]
Float64s = NDArray[np.float64]
BLOCK_ROWS = 1024
_NEGLIGIBLE_VARIANCE = 1e-10  # of the largest: whitening would blow up what is only rounding


@dataclass(frozen=True)
class Transform:
    """``none``, ``l2`` (each row to length 1) or ``pca_whiten``.

    Args:
        kind: which of the three.
        dim: width of the vectors that go in.
        mean: float64 [dim], subtracted first; None for ``none`` and ``l2``.
        scale: float64 [dim, kept], projected onto (``pca_whiten``).
    """

    kind: str
    dim: int
    mean: Float64s | None = None
    scale: Float64s | None = None

    @classmethod
    def fit(cls, vectors: Float32s, settings: SemanticIdSettings) -> "Transform":
        """Fit to ``vectors`` float32 [n, dim]; moments are taken in float64, block by block."""
        dim = vectors.shape[1]
        if settings.transform in ("none", "l2"):
            return cls(settings.transform, dim)
        mean = sum((block.sum(axis=0) for block in _float64_blocks(vectors)), np.zeros(dim)) / len(vectors)
        return cls("pca_whiten", dim, mean, _whitening(vectors, mean, settings.pca_dims))

    @property
    def output_dim(self) -> int:
        """Width of the vectors that come out."""
        return self.dim if self.scale is None else self.scale.shape[1]

    def apply(self, vectors: Float32s) -> Float32s:
        """Transform ``vectors`` float32 [n, dim] into float32 [n, output_dim], block by block.

        Raises:
            GenrecError: the width is not ``dim``.
        """
        if vectors.ndim != 2 or vectors.shape[1] != self.dim:
            raise GenrecError(
                f"vectors of shape {vectors.shape} do not fit the codebooks, which were fitted on [n, {self.dim}]; "
                "embed the items with the same model"
            )
        out = np.empty((len(vectors), self.output_dim), dtype=np.float32)
        for start in range(0, len(vectors), BLOCK_ROWS):
            out[start : start + BLOCK_ROWS] = self._apply_block(vectors[start : start + BLOCK_ROWS])
        return out

    def _apply_block(self, block: Float32s) -> Float32s:
        if self.kind == "none":
            return block
        if self.kind == "l2":
            return l2_normalized(block)
        assert self.mean is not None
        assert self.scale is not None
        centred = block.astype(np.float64) - self.mean
        # float64 until the end: one row alone then comes out as it does among others, whatever the BLAS does.
        return (centred @ self.scale).astype(np.float32)

    def save(self, folder: Path) -> None:
        """Write ``transform.json`` and, where there are any, ``transform_mean.npy`` and ``transform_scale.npy``."""
        write_json(folder / "transform.json", {"kind": self.kind, "dim": self.dim})
        if self.mean is not None and self.scale is not None:
            np.save(folder / "transform_mean.npy", self.mean, allow_pickle=False)
            np.save(folder / "transform_scale.npy", self.scale, allow_pickle=False)

    @classmethod
    def load(cls, folder: Path) -> "Transform":
        """Read what :meth:`save` wrote.

        Raises:
            GenrecError: a file is missing or damaged, or this version does not have the kind.
        """
        kind, dim = load_fields(folder / "transform.json", "kind", "dim")
        if kind in ("none", "l2"):
            return cls(kind, dim)
        if kind != "pca_whiten":
            raise GenrecError(
                f"{folder / 'transform.json'}: kind is {kind!r}, which this version does not have; "
                "build the semantic IDs again with this version"
            )
        return cls(kind, dim, load_array(folder / "transform_mean.npy"), load_array(folder / "transform_scale.npy"))


def _float64_blocks(vectors: Float32s) -> Iterator[Float64s]:
    for start in range(0, len(vectors), BLOCK_ROWS):
        yield vectors[start : start + BLOCK_ROWS].astype(np.float64)


def _whitening(vectors: Float32s, mean: Float64s, dims: int) -> Float64s:
    """Principal axes [dim, kept] of the largest variances, each divided by its standard deviation.

    The sign of an axis makes its largest component positive. Axes without variance are not kept.
    """
    covariance = np.zeros((len(mean), len(mean)))
    for block in _float64_blocks(vectors):
        covariance += (block - mean).T @ (block - mean)
    variances, axes = np.linalg.eigh(covariance / len(vectors))
    variances, axes = variances[::-1], axes[:, ::-1]
    kept = min(dims, int((variances > _NEGLIGIBLE_VARIANCE * max(variances[0], np.finfo(np.float64).tiny)).sum()))
    if kept == 0:
        raise GenrecError("pca_whiten: all item vectors are the same; check the item texts")
    axes, variances = axes[:, :kept], variances[:kept]
    largest = axes[np.abs(axes).argmax(axis=0), np.arange(kept)]
    whitened: Float64s = axes * np.where(largest < 0, -1.0, 1.0) / np.sqrt(variances)
    return whitened
