"""What is done to item vectors before k-means, of old items and new ones. NumPy only."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genrec_core.embedding.item_embeddings import l2_normalized
from genrec_core.errors import GenrecError
from genrec_core.quantization.files import load_fields
from genrec_core.storage.artifacts import write_json

Float32s = NDArray[np.float32]
BLOCK_ROWS = 1024


@dataclass(frozen=True)
class Transform:
    """``none`` or ``l2`` (each row to length 1).

    Args:
        kind: which of the two.
        dim: width of the vectors.
    """

    kind: str
    dim: int

    def apply(self, vectors: Float32s) -> Float32s:
        """Transform ``vectors`` float32 [n, dim], block by block.

        Raises:
            GenrecError: the width is not ``dim``.
        """
        if vectors.ndim != 2 or vectors.shape[1] != self.dim:
            raise GenrecError(
                f"vectors of shape {vectors.shape} do not fit the codebooks, which were fitted on [n, {self.dim}]; "
                "embed the items with the same model"
            )
        out = np.empty(vectors.shape, dtype=np.float32)
        for start in range(0, len(vectors), BLOCK_ROWS):
            block = vectors[start : start + BLOCK_ROWS]
            out[start : start + BLOCK_ROWS] = l2_normalized(block) if self.kind == "l2" else block
        return out

    def save(self, folder: Path) -> None:
        """Write ``transform.json``."""
        write_json(folder / "transform.json", {"kind": self.kind, "dim": self.dim})

    @classmethod
    def load(cls, folder: Path) -> "Transform":
        """Read what :meth:`save` wrote.

        Raises:
            GenrecError: the file is missing or damaged, or this version does not have the kind.
        """
        kind, dim = load_fields(folder / "transform.json", "kind", "dim")
        if kind not in ("none", "l2"):
            raise GenrecError(
                f"{folder / 'transform.json'}: kind is {kind!r}, which this version does not have; "
                "build the semantic IDs again with this version"
            )
        return cls(kind, dim)
