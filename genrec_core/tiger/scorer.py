"""Scores beams with a torch model, for the search in :mod:`genrec_core.search.generative`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from genrec_core.data.histories import HistoryBatch
from genrec_core.embedding.item_embeddings import learned_rows
from genrec_core.errors import GenrecError
from genrec_core.search.beams import BeamAncestry, Lifted
from genrec_core.search.generative import RankingWeights
from genrec_core.search.key_index import KeyIndex, Matches, RoundedKeys
from genrec_core.search.neighbors import NEIGHBORS, Neighbors
from genrec_core.search.trie import CodeTrie
from genrec_core.tiger.decoding import DecoderStep, HistoryEncoder, token_vectors
from genrec_core.tiger.model import TigerConfig, TigerModel

_PIECE = 1 << 16  # items encoded at once, where they are many


class TorchScorer:
    """A ``CodeScorer`` over a :class:`TigerModel`, on its device. The model is put into evaluation mode.

    ``codes`` [n_items, L] with suffix and text ``vectors`` [n_items, dim] are by catalogue row; None if the model reads
    no vectors.
    """

    def __init__(
        self, model: TigerModel, codes: np.ndarray, vectors: np.ndarray | None, neighbors: Neighbors | None = None
    ) -> None:
        self.model, self.neighbors, config = model.eval(), neighbors, model.config
        self.items, self.keys = item_tables(model, codes, vectors)
        self.index: KeyIndex | None = None
        with torch.inference_mode():
            self.encoder = HistoryEncoder(model)
            self.steps = [DecoderStep(model, level) for level in range(1, len(config.level_sizes))]
            self.tokens = token_vectors(model)
        self.token_offset = model.token_offset.cpu().numpy()

    @classmethod
    def from_folder(cls, checkpoint: Path, codes: np.ndarray, vectors: np.ndarray | None) -> "TorchScorer":
        """The scorer of a checkpoint's folder, for a catalogue's codes and text vectors."""
        model = TigerModel.from_pretrained(checkpoint)
        return cls(model, codes, vectors, checkpoint_neighbors(model, checkpoint, vectors))

    def start(self, histories: HistoryBatch) -> "TorchSession":
        return TorchSession(self, histories)


class TorchSession:
    """The decoding of one batch; a ``ScorerSession``, which describes its methods."""

    def __init__(self, scorer: TorchScorer, histories: HistoryBatch) -> None:
        self.scorer, self.device = scorer, scorer.items.device
        self.histories = flat = histories.flat()
        rows, *where = map(self._on_device, (flat.rows, flat.lengths, flat.places, flat.own, flat.newest))
        self.ancestry = BeamAncestry(len(flat.lengths), scorer.model.config.prefix_buckets)
        with torch.inference_mode():
            self.context, self.query, self.logits, *rest = scorer.encoder(scorer.items[rows].float(), *where)
        layers = scorer.model.config.decoder_layers
        self.crossed, self.earlier = rest[: 3 * layers], [rest[3 * layers :]]

    def item_logits(self) -> np.ndarray:
        keys = self.scorer.keys
        with torch.inference_mode():
            if isinstance(keys, torch.Tensor):
                logits: np.ndarray = (self.query @ keys.T).float().cpu().numpy()
            else:
                logits = keys.all_logits(self.query.float().cpu().numpy())
        if self.scorer.neighbors is not None:
            self.scorer.neighbors.lift(logits, self.histories)
        return logits

    def matches(self, trie: CodeTrie) -> Matches | None:
        scorer = self.scorer
        if isinstance(scorer.keys, torch.Tensor):
            return None
        if scorer.index is None:
            scorer.index = KeyIndex(trie, scorer.keys)
        return Matches(scorer.index, self.query.float().cpu().numpy(), self.lifted())

    def lifted(self) -> Lifted | None:
        neighbors = self.scorer.neighbors
        return None if neighbors is None else neighbors.lifted(self.histories)

    def first(self) -> np.ndarray:
        return np.asarray(self.logits.float().cpu().numpy())

    @torch.inference_mode()
    def advance(self, tokens: np.ndarray, parents: np.ndarray, users: np.ndarray) -> np.ndarray:
        scorer, ancestry, level = self.scorer, self.ancestry, len(self.earlier)
        rows = scorer.token_offset[level - 1] + tokens
        ancestry.descend(rows, parents, users)
        x = scorer.tokens[self._on_device(rows)] + self.context[self._on_device(users)]
        x = x + scorer.model.prefix_embedding(self._on_device(ancestry.prefix))  # [N, D]
        inputs = [*self.crossed, self._on_device(ancestry.places), self._on_device(ancestry.own)]
        for ancestors, keys_values in zip(ancestry.ancestors, self.earlier, strict=True):
            inputs += [self._on_device(ancestors), *keys_values]
        logits, *own = scorer.steps[level - 1](x, *inputs)
        self.earlier.append(own)
        return np.asarray(logits.float().cpu().numpy())

    def _on_device(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device)


def checkpoint_neighbors(model: TigerModel, checkpoint: Path, vectors: np.ndarray | None) -> Neighbors | None:
    """The neighbours that the training left beside the model, and those of items that came later; None for none.

    ``vectors`` are the text vectors of all items, float32 [n_items, dim].
    """
    neighbors, weight = Neighbors.load(checkpoint), model.config.neighbor_weight
    if neighbors is None and (weight or model.config.follower_weight):
        raise GenrecError(f"{checkpoint}: has no {NEIGHBORS}, as version 0.2 writes it; train the model again")
    if neighbors is None or vectors is None or len(vectors) == (known := len(neighbors.rows)):
        return neighbors
    return neighbors.extended(vectors[:known], vectors[known:], neighbors.rows.shape[1], weight)


@torch.inference_mode()
def item_tables(
    model: TigerModel, codes: np.ndarray, vectors: np.ndarray | None
) -> tuple[torch.Tensor, torch.Tensor | RoundedKeys]:
    """What the encoders read of each item, and the dense head's keys, [n_items, V x D] both, on the model's device.

    A catalogue of more than ``exact_items`` is read in pieces; its items are float16, and its keys are rounded.

    Args:
        codes: semantic IDs with suffix, int [n_items, L].
        vectors: text vectors, float [n_items, dim]; None if the model reads none.
    """
    config = model.config
    large = len(codes) > config.exact_items
    table = item_vector_table(config.item_vector_dim, len(codes), vectors)
    rows = torch.from_numpy(learned_rows(table.numpy(), config.known_items, config.untrained_items))
    inputs = rows, torch.as_tensor(codes, dtype=torch.int64), table
    read, rounded = [], []
    for piece in zip(*(part.split(_PIECE if large else len(codes)) for part in inputs), strict=True):
        items = model.item_encoder(*(part.to(model.device) for part in piece))
        keys = model.dense.joined(model.dense.keys(items.split(config.d_model, dim=-1)))
        if not large:
            return items, keys
        read.append(items.half())
        rounded.append(RoundedKeys.of(keys.cpu().numpy()))
    return torch.cat(read), RoundedKeys(*(np.concatenate(parts) for parts in zip(*rounded, strict=True)))


def item_vector_table(dim: int, n_items: int, vectors: np.ndarray | None) -> torch.Tensor:
    """The vectors that the encoder reads, float32 [n_items, dim]; no columns if ``dim`` is 0."""
    if dim == 0:
        return torch.zeros(n_items, 0)
    if vectors is None or vectors.shape != (n_items, dim):
        shape = "none" if vectors is None else f"{vectors.shape}"
        raise GenrecError(f"the model reads item vectors of shape {(n_items, dim)} but was given {shape}")
    return torch.from_numpy(np.require(vectors, np.float32, "W"))  # what is mapped stays on disk


def ranking_weights(config: TigerConfig) -> RankingWeights:
    """What the model's ranking modes mean."""
    return RankingWeights(config.dense, config.hybrid_weight, config.ranking, exclude_seen=config.exclude_seen)


@contextmanager
def one_thread_an_operator() -> Iterator[None]:
    """Let torch use one thread an operator, for batches that are decoded side by side."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
