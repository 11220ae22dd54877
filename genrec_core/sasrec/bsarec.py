"""BSARec: a layer filters a history's frequencies beside attending to it. The strongest published rival on Beauty.

Source: Shin et al. 2024, "An Attentive Inductive Bias for Sequential Recommendation beyond the Self-Attention", with
the batches, the loss and the schedule that SASRec has here. Shapes: N targets, M = max_history, D = d_model.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genrec_core.sasrec.model import SasRecConfig, SasRecModel, SasRecTrainer
from genrec_core.tiger.model import Dropout


class BsaRecConfig(SasRecConfig):
    """Sizes of a :class:`BsaRecModel`; the last two are the source's choice for Beauty."""

    model_type = "genrec_bsarec"

    filter_share: float = 0.7  # of a layer's output that the filter gives; the rest is attention's
    low_frequencies: int = 5  # frequencies that the filter leaves as they are; it scales the others


class FrequencyFilter(nn.Module):
    """Scales the high frequencies of a window by a learned factor for each dimension."""

    def __init__(self, config: BsaRecConfig) -> None:
        super().__init__()
        self.low_frequencies = config.low_frequencies
        self.root = nn.Parameter(torch.randn(config.d_model))

    def forward(self, x: Tensor) -> Tensor:
        """[N, M, D] -> [N, M, D]."""
        spectrum = torch.fft.rfft(x, dim=1, norm="ortho")
        low = F.pad(spectrum[:, : self.low_frequencies], (0, 0, 0, max(0, spectrum.shape[1] - self.low_frequencies)))
        smooth = torch.fft.irfft(low, n=x.shape[1], dim=1, norm="ortho")
        return smooth + self.root**2 * (x - smooth)


class BsaRecLayer(nn.Module):
    """Post-norm: a mix of the filter and of causal self-attention, and a feed-forward block."""

    def __init__(self, config: BsaRecConfig) -> None:
        super().__init__()
        width = config.d_model
        self.heads, self.share = config.heads, config.filter_share
        self.filter, self.filter_norm = FrequencyFilter(config), nn.LayerNorm(width)
        self.query_key_value, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(nn.Linear(width, config.d_ff), nn.GELU(), nn.Linear(config.d_ff, width))
        self.feed_forward_norm = nn.LayerNorm(width)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """[N, M, D] and the keys that a position attends to, bool [N, 1, M, M] -> [N, M, D]."""
        parts = self.query_key_value(x).unflatten(-1, (3 * self.heads, -1)).transpose(1, 2)
        query, key, value = parts.split(self.heads, dim=1)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).flatten(2)
        attended = self.attention_norm(self.dropout(self.output(attended)) + x)
        filtered = self.filter_norm(self.dropout(self.filter(x)) + x)
        x = self.share * filtered + (1 - self.share) * attended
        return self.feed_forward_norm(self.dropout(self.feed_forward(x)) + x)


class BsaRecModel(SasRecModel):
    """Item and position embeddings below :class:`BsaRecLayer`.

    The filter sees a window whole, so each target has a window of its own: the items before it, padded on the left.
    """

    config_class = BsaRecConfig
    config: BsaRecConfig

    def _build_encoder(self, config: SasRecConfig) -> nn.Module:
        assert isinstance(config, BsaRecConfig)
        self.positions = nn.Embedding(config.max_history, config.d_model)
        self.norm, self.dropout = nn.LayerNorm(config.d_model), Dropout(config.dropout)
        return nn.ModuleList(BsaRecLayer(config) for _ in range(config.layers))

    def queries(self, rows: Tensor, inside: Tensor) -> Tensor:
        longest = self.config.max_history
        windows = F.pad(rows + 1, (longest - 1, 0)).unfold(1, longest, 1)[inside]  # [N, M], 0 on padding
        known = windows > 0
        x = self.items((windows - 1).clamp(min=0)) * known.unsqueeze(-1) + self.positions.weight
        x = self.dropout(self.norm(x))
        places = torch.arange(longest, device=rows.device)
        itself = places == places.unsqueeze(1)
        mask = (known.unsqueeze(1) & (places <= places.unsqueeze(1))) | itself  # without a key, softmax gives no number
        for layer in cast("list[BsaRecLayer]", list(self.encoder.children())):
            x = layer(x, mask.unsqueeze(1))
        return x[:, -1]


class BsaRecTrainer(SasRecTrainer):
    """Trains BSARec as SASRec is trained."""

    model_class, config_class = BsaRecModel, BsaRecConfig


TRAINERS: dict[str, type[SasRecTrainer]] = {"sasrec": SasRecTrainer, "bsarec": BsaRecTrainer}
MODELS: dict[str, type[SasRecModel]] = {model.config_class.model_type: model for model in (SasRecModel, BsaRecModel)}
