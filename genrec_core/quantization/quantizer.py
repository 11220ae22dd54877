"""The quantiser in use, and the codes that it gives to item vectors.

To use another quantiser, write it in a file of its own and change the line ``Quantizer = ...`` below. It needs:

- ``fit(vectors, settings, group)``: a quantiser fitted on float32 [n, dim], the same on all processes of ``group``;
- ``sizes``: number of codes at each level; ``dim``: width of the vectors;
- ``encode(vectors)``: codes int32 [n, levels] without torch; the code of a row does not depend on the other rows;
- ``errors_by_level(vectors, codes)``: mean squared error before the first level and after each level;
- ``save(folder)`` and ``load(folder)``.
"""

import numpy as np
from numpy.typing import NDArray

from genrec_core.embedding.item_embeddings import require_finite_rows
from genrec_core.engines.engine import Engine
from genrec_core.errors import GenrecError
from genrec_core.quantization.collaborative import CollaborativeMap
from genrec_core.quantization.residual import ResidualQuantizer

Quantizer = ResidualQuantizer
SHARD_ROWS = 8192  # 13 MB of vectors, a tenth of a second of a core


def find_codes(
    quantizer: Quantizer,
    vectors: NDArray[np.float32],
    collaborative: CollaborativeMap | None = None,
    engine: Engine | None = None,
) -> NDArray[np.int32]:
    """Codes int32 [n, levels] of vectors float32 [n, dim], computed in shards of rows.

    Args:
        collaborative: adds the collaborative part to text vectors; None: ``vectors`` have it, or the quantiser none.
        engine: computes the shards; None: this process.
    """
    dim = quantizer.dim if collaborative is None else len(collaborative.weights)
    if vectors.ndim != 2 or vectors.shape[1] != dim:
        raise GenrecError(
            f"vectors of shape {vectors.shape} do not fit the codebooks, which were fitted on [n, {dim}]; "
            "embed the items with the same model"
        )
    require_finite_rows(vectors, "item vectors")
    shards = (np.ascontiguousarray(vectors[row : row + SHARD_ROWS]) for row in range(0, len(vectors), SHARD_ROWS))
    codes = (engine or Engine()).map(encode_rows, (quantizer, collaborative), shards)
    return np.concatenate([np.empty((0, len(quantizer.sizes)), dtype=np.int32), *codes])


def encode_rows(fitted: tuple[Quantizer, CollaborativeMap | None], vectors: NDArray[np.float32]) -> NDArray[np.int32]:
    """Codes int32 [rows, levels] of one shard."""
    quantizer, collaborative = fitted
    return quantizer.encode(vectors if collaborative is None else collaborative.extend(vectors))
