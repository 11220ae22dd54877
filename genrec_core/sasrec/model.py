"""SASRec: a causal Transformer over item embeddings that are also what its output is compared with.

Source: Kang & McAuley 2018, "Self-Attentive Sequential Recommendation", with the loss of Klenitskiy & Vasilev 2023,
"Turning Dross Into Gold Loss": cross-entropy over the whole catalogue instead of one sampled negative.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from genrec_core.data.histories import HistoryBatch
from genrec_core.errors import GenrecError
from genrec_core.tiger.catalogue_loss import catalogue_cross_entropy
from genrec_core.tiger.config import TigerConfig
from genrec_core.tiger.model import CausalEncoder
from genrec_core.tiger.pretrained import WholeModel


class SasRecConfig(PretrainedConfig):
    """Sizes of a :class:`SasRecModel`.

    Args:
        n_items: items in the catalogue.
        d_model: width of the Transformer and of the item embeddings.
        heads: attention heads; divides ``d_model``.
        layers: causal layers.
        d_ff: width of the feed-forward layers.
        dropout: dropout probability.
        max_history: newest items of a history that are read.
    """

    model_type = "genrec_sasrec"

    def __init__(
        self,
        n_items: int = 1,
        d_model: int = 128,
        heads: int = 2,
        layers: int = 2,
        d_ff: int = 512,
        dropout: float = 0.5,
        max_history: int = 50,
        **kwargs: Any,
    ) -> None:
        self.n_items = n_items
        self.d_model = d_model
        self.heads = heads
        self.layers = layers
        self.d_ff = d_ff
        self.dropout = dropout
        self.max_history = max_history
        super().__init__(**kwargs)

    def encoder(self) -> TigerConfig:
        """The same sizes as TIGER's encoder layers take them."""
        return TigerConfig(
            d_model=self.d_model,
            heads=self.heads,
            encoder_layers=self.layers,
            d_ff=self.d_ff,
            dropout=self.dropout,
            max_history=self.max_history,
        )


class SasRecModel(WholeModel):
    """Item embeddings, causal layers with a learned bias by distance instead of learned positions, tied output."""

    config_class = SasRecConfig
    config: SasRecConfig

    def __init__(self, config: SasRecConfig) -> None:
        super().__init__(config)
        self.items = nn.Embedding(config.n_items, config.d_model)
        self.encoder = CausalEncoder(config.encoder(), config.dropout)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Normal weights of the usual Transformer scale, zero biases."""
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)

    def encode(self, rows: Tensor) -> Tensor:
        """What each position, having read items 0..t, is compared with items by: rows int64 [B, T] -> [B, T, D]."""
        encoded: Tensor = self.encoder(self.items(rows) * self.config.d_model**0.5)
        return encoded

    def forward(self, rows: Tensor) -> Tensor:
        """Logits of all items for the item that follows each position: rows int64 [B, T] -> [B, T, n_items]."""
        return self.encode(rows) @ self.items.weight.T


class SasRecLoss(nn.Module):
    """Cross-entropy of the next item over the whole catalogue.

    Args:
        model: the model to train.
        label_smoothing: share of probability spread over the catalogue.
    """

    def __init__(self, model: SasRecModel, label_smoothing: float) -> None:
        super().__init__()
        self.model, self.label_smoothing = model, label_smoothing

    def forward(self, history: Tensor, targets: Tensor) -> Tensor:
        """The loss summed over targets; shapes as in :class:`~genrec_core.tiger.losses.NextItemLoss`."""
        inside = targets >= 0
        queries = self.model.encode(history)[inside]
        return catalogue_cross_entropy([queries], [self.model.items.weight], [targets[inside]], self.label_smoothing)


class SasRecScorer:
    """A ``CodeScorer`` that knows no codes: it ranks by ``dense_weight`` 1 alone."""

    def __init__(self, model: SasRecModel) -> None:
        self.model = model.eval()

    def start(self, histories: HistoryBatch) -> "SasRecSession":
        """Read the histories of a batch; every one holds at least one item."""
        return SasRecSession(self.model, histories)


class SasRecSession:
    """The scores of one batch."""

    def __init__(self, model: SasRecModel, histories: HistoryBatch) -> None:
        rows = torch.as_tensor(histories.rows, dtype=torch.int64, device=model.device).clamp(min=0)
        newest = torch.as_tensor(histories.lengths, dtype=torch.int64, device=model.device) - 1
        with torch.inference_mode():
            encoded = model.encode(rows)[torch.arange(len(rows), device=model.device), newest]
            self.logits = (encoded @ model.items.weight.T).float()

    def item_logits(self) -> np.ndarray:
        """Logits float32 [B, n_items]; see ``ScorerSession``."""
        return np.asarray(self.logits.cpu())

    def first(self) -> np.ndarray:
        """SASRec generates nothing.

        Raises:
            GenrecError: always.
        """
        raise GenrecError("SASRec generates no codes; rank with dense_weight 1")

    def advance(self, tokens: np.ndarray, parents: np.ndarray, users: np.ndarray) -> np.ndarray:
        """Likewise."""
        return self.first()
