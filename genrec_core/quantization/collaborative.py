"""Collaborative vectors: which items users buy together, beside the vectors of the items' texts. Fitting needs torch.

Two items that often follow one another should share a prefix even if their texts differ: the model can then generate
towards both. Items that nobody bought in training, and new items, get a vector predicted from their text.

Source: Levy & Goldberg 2014, "Neural Word Embedding as Implicit Matrix Factorization", for the vectors; Wang et al.
2024, "Learnable Item Tokenization for Generative Recommendation" (LETTER), for collaborative semantic IDs.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from genrec_core.data.histories import Histories
from genrec_core.data.pairs import pair_counts
from genrec_core.data.split import training_part
from genrec_core.embedding.item_embeddings import ItemEmbeddings, l2_normalized, require_finite_rows
from genrec_core.errors import GenrecError
from genrec_core.settings import SemanticIdSettings
from genrec_core.storage.artifacts import read_array

if TYPE_CHECKING:
    import polars as pl
    from torch.distributed import ProcessGroup

Float32s = NDArray[np.float32]
COLLABORATIVE = "collaborative.npy"
_CONTEXT_POWER = 0.75  # smooths the share of popular neighbours; Levy & Goldberg, after word2vec
_BLOCK_ROWS = 1 << 16  # items whose vectors are in float64 at once
_SPARE_DIMS, _POWER_ITERATIONS = 8, 6  # of the randomised decomposition


@dataclass(frozen=True)
class CollaborativeMap:
    """Predicts an item's collaborative vector from its text vector, by ridge regression."""

    weights: NDArray[np.float64]  # [dim, dims]
    length: float  # of the collaborative part; the text part has length 1

    def extend(self, text: Float32s, known: Float32s | None = None) -> Float32s:
        """Text vectors followed by their collaborative part, float32 [n, dim + dims].

        ``known`` are collaborative vectors float32 [n, dims], of length 1 or 0 if unknown; None: all are unknown.
        """
        dim = text.shape[1]
        extended = np.empty((len(text), dim + self.weights.shape[1]), dtype=np.float32)
        for rows in _blocks(text):
            extended[rows, :dim] = l2_normalized(text[rows])
            part = l2_normalized((extended[rows, :dim].astype(np.float64) @ self.weights).astype(np.float32))
            if known is not None:
                part = np.where(known[rows].any(axis=1, keepdims=True), known[rows], part)
            extended[rows, dim:] = np.float32(self.length) * part
        return extended

    def save(self, folder: Path) -> None:
        """Write ``collaborative.npy``: the weights, and the length as one more row."""
        length = np.full((1, self.weights.shape[1]), self.length)
        np.save(folder / COLLABORATIVE, np.concatenate([self.weights, length]), allow_pickle=False)

    @classmethod
    def load(cls, folder: Path) -> "CollaborativeMap | None":
        """Read what :meth:`save` wrote; None if the semantic IDs are of texts alone."""
        if not (folder / COLLABORATIVE).is_file():
            return None
        stored = read_array(folder / COLLABORATIVE)
        if stored.ndim != 2 or len(stored) < 2:
            raise GenrecError(f"{folder / COLLABORATIVE}: shape {stored.shape}; build the semantic IDs again")
        return cls(stored[:-1], float(stored[-1, 0]))


def collaborative_vectors(histories: Histories, n_items: int, settings: SemanticIdSettings) -> Float32s:
    """A vector of length 1 for each item that stands near another in a history, 0 for the others; [n_items, dims].

    Items near each other in a history count by the inverse of their distance; the positive pointwise mutual information
    of these counts is decomposed into ``collaborative_dims`` dimensions, fewer in a small catalogue.
    """
    import torch

    places, information = _information(histories, n_items, settings.collaborative_window)
    dims = min(settings.collaborative_dims, n_items)
    if not len(information):
        return np.zeros((n_items, dims), dtype=np.float32)
    matrix = torch.sparse_coo_tensor(
        torch.from_numpy(places), torch.from_numpy(information), (n_items, n_items),
        check_invariants=True, is_coalesced=True,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        left, scales, _ = torch.svd_lowrank(matrix, q=min(dims + _SPARE_DIMS, n_items), niter=_POWER_ITERATIONS)
    return l2_normalized((left * scales.sqrt())[:, :dims].float().numpy())


def _information(histories: Histories, n_items: int, window: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """The pairs with positive information, int64 [2, m] in ascending order, and how much, float64 [m]."""
    pairs, counts = pair_counts(histories, n_items, window)
    first, second = np.divmod(pairs, n_items)
    degree = np.bincount(first, counts, minlength=n_items)
    context = degree**_CONTEXT_POWER
    information = np.log(counts * context.sum() / (degree[first] * context[second]))
    positive = np.flatnonzero(information > 0)
    return np.stack([first[positive], second[positive]]), information[positive]


def fit_map(text: Float32s, known: Float32s, length: float) -> CollaborativeMap:
    """Regress collaborative vectors float32 [n, dims] on text vectors float32 [n, dim], where they are not 0."""
    has = np.asarray(known.any(axis=1))
    squares, products = np.zeros((text.shape[1],) * 2), np.zeros((text.shape[1], known.shape[1]))
    for rows in _blocks(text):
        inputs, wanted = l2_normalized(text[rows][has[rows]]).astype(np.float64), known[rows][has[rows]]
        squares += inputs.T @ inputs
        products += inputs.T @ wanted.astype(np.float64)
    ridge = max(int(has.sum()), 1) / text.shape[1]
    return CollaborativeMap(np.linalg.solve(squares + ridge * np.eye(text.shape[1]), products), length)


def _blocks(rows: NDArray[Any]) -> list[slice]:
    return [slice(first, first + _BLOCK_ROWS) for first in range(0, len(rows), _BLOCK_ROWS)]


def with_collaborative_part(
    embeddings: ItemEmbeddings, histories: "pl.DataFrame", settings: SemanticIdSettings, group: "ProcessGroup | None"
) -> tuple[Float32s, CollaborativeMap]:
    """The vectors to cluster, float32 [n, dim + dims], and the map that gives an item without histories its part."""
    import torch

    from genrec_core.quantization.kmeans import RowShare

    trained = training_part(Histories.from_frame(histories, embeddings.item_ids))
    vectors = collaborative_vectors(trained, len(embeddings.raw), settings)
    if group is not None:  # all ranks take rank 0's: a decomposition may differ in the last bit between machines
        share = RowShare.of(len(vectors), group)
        vectors = share.sum(torch.from_numpy(vectors if share.rank == 0 else np.zeros_like(vectors))).numpy()
    require_finite_rows(embeddings.raw, "item vectors")
    fitted = fit_map(embeddings.raw, vectors, settings.collaborative_weight)
    return fitted.extend(embeddings.raw, vectors), fitted
