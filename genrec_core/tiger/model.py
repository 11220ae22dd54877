"""TIGER: a causal encoder over items and a decoder over the levels of the next item's semantic ID.

Three choices make it fast to train. An item is one encoder token: its codes, its text vector and a learned vector. The
encoder is causal, so one pass gives a target at every position. A target's decoder tokens attend only to the items
before it.

Source: Rajput et al. 2023, "Recommender Systems with Generative Retrieval".
Shapes: B users, T items of history, L levels, H heads, D = d_model, K = D / H, V views.
"""

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers.utils import logging as transformers_logging

from genrec_core.errors import GenrecError
from genrec_core.search.beams import PREFIX_FACTOR
from genrec_core.settings import RankingMode
from genrec_core.tiger.checkpoint import WholeModel

transformers_logging.disable_progress_bar()  # one bar a loaded file buries the training's own log

INITIAL_SCALE = 16.0  # of the dense head's cosines; learned from there
HIDDEN_SHARE = 0.1  # of the history's items that training reads as if they were new
# Options that earlier versions had, and the value that turned each of them off. All old checkpoints name them.
_TAKEN_OUT = {"code_dropout": 0.0, "parallel_levels": False}


class TigerConfig(PretrainedConfig):
    """Sizes of a :class:`TigerModel`, saved beside its weights; transformers makes a dataclass of them."""

    model_type = "genrec_tiger"

    level_sizes: Sequence[int] = (256, 256, 256, 16)  # vocabulary of each level, the collision suffix last
    item_vector_dim: int = 0  # width of the text vectors that the encoder reads beside the codes; 0 for none
    known_items: int = 0  # items below this catalogue row have a learned vector; 0 for none
    untrained_items: Sequence[int] = ()  # rows below ``known_items`` that are in no training history
    code_rows: int = 0  # rows of the tables whose learned vectors items share by their codes; 0: each has its own
    prefix_buckets: int = 16384  # rows of the table of prefix vectors; a prefix finds its row by a hash

    d_model: int = 128
    heads: int = 4
    encoder_layers: int = 2
    decoder_layers: int = 2
    d_ff: int = 512
    dropout: float = 0.2
    max_history: int = 50  # newest items of a history that the encoder reads

    dense: bool = True  # whether the dense head was trained; without it only the generative ranking works
    content_views: int = 1  # encoders of the dense head that read the items' content; the decoder reads the first
    id_views: int = 0  # encoders of the dense head that know items by a learned vector alone
    id_dropout: float = 0.5  # dropout probability of the identity encoders
    # Share of the identity encoders in the dense head's logit, chosen on validation; None: of each encoder the same
    identity_share: float | None = None
    neighbor_weight: float = 0.0  # logits added for items with similar texts; 0 for none
    follower_weight: float = 0.0  # and for items that followed those of the history; 0 for none
    hybrid_weight: float = 0.5  # share of the dense head in the hybrid ranking, from 0 to 1
    ranking: RankingMode = "hybrid"  # what the ranking ``auto`` means; chosen on validation
    exact_items: int = 100_000  # largest catalogue of which every item is scored for every user
    exclude_seen: bool = True  # whether lists leave out the items of the user's history; chosen on validation

    def __post_init__(self, **kwargs: Any) -> None:
        """Check the sizes; transformers calls this after it has set the fields."""
        for name, off in _TAKEN_OUT.items():
            value = kwargs.pop(name, off)
            if value != off:
                raise GenrecError(f"{name} is {value}, but that option was taken out; train it again with this version")
        if self.d_model % self.heads:
            raise GenrecError(f"d_model {self.d_model} is not a multiple of heads {self.heads}; change one of them")
        if self.id_views and not (self.known_items or self.code_rows):
            raise GenrecError("id_views needs learn_item_vectors; set id_views to 0 or learn_item_vectors to true")
        if self.views > 1 and not self.dense:
            raise GenrecError("several views need a dense_weight above 0; or set id_views to 0, content_views to 1")
        self.level_sizes, self.untrained_items = list(self.level_sizes), list(self.untrained_items)
        super().__post_init__(**kwargs)

    @property
    def views(self) -> int:
        """Encoders of the dense head; each item has as many vectors and keys of ``d_model``."""
        return self.content_views + self.id_views

    @property
    def view_shares(self) -> list[float]:
        """The share of each view in the dense head's logit, those of content first; together 1."""
        identity = self.id_views / self.views if self.identity_share is None else self.identity_share
        contents = [(1 - identity) / self.content_views] * self.content_views
        return contents + [identity / self.id_views for _ in range(self.id_views)]


class Dropout(nn.Module):
    """Dropout that is cheap on a CPU: eight elements share a 64-bit random number, where torch draws one for each.

    On a CPU the probability is therefore rounded to a multiple of 1/256.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability
        self.threshold = round(probability * 256)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.probability == 0:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.probability)
        draws = torch.empty((x.numel() + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
        kept = draws.view(torch.uint8)[: x.numel()].view(x.shape) >= self.threshold
        return x * kept.to(x.dtype).mul_(256 / (256 - self.threshold))


class RecencyBias(nn.Module):
    """A learned attention bias by how many items ago a key is; keys in the future are masked.

    Source: relative position bias of Raffel et al. 2020 (T5), one bucket a distance.
    """

    def __init__(self, heads: int, max_history: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(heads, max_history))

    def forward(self, queries: Tensor, length: int) -> Tensor:
        """Bias [H, N, T] of queries at positions ``queries`` [N] over keys 0..T-1, where ``length`` is T."""
        distance = queries.unsqueeze(-1) - torch.arange(length, device=queries.device)  # [N, T]
        bias = self.table[:, distance.clamp(0, self.table.shape[1] - 1)]  # [H, N, T]
        return bias.masked_fill(distance < 0, float("-inf"))


def _feed_forward(config: TigerConfig, dropout: float) -> nn.Sequential:
    first, last = nn.Linear(config.d_model, config.d_ff), nn.Linear(config.d_ff, config.d_model)
    return nn.Sequential(first, nn.GELU(), Dropout(dropout), last)


class EncoderLayer(nn.Module):
    """Pre-norm causal self-attention and feed-forward."""

    def __init__(self, config: TigerConfig, dropout: float) -> None:
        super().__init__()
        self.heads = config.heads
        self.attention_norm = nn.LayerNorm(config.d_model)
        self.query_key_value = nn.Linear(config.d_model, 3 * config.d_model)
        self.output = nn.Linear(config.d_model, config.d_model)
        self.feed_forward_norm = nn.LayerNorm(config.d_model)
        self.feed_forward = _feed_forward(config, dropout)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """[B, T, D] with bias [1, H, T, T] -> [B, T, D]."""
        parts = self.query_key_value(self.attention_norm(x)).chunk(3, dim=-1)
        query, key, value = (_split_heads(part, self.heads) for part in parts)  # [B, H, T, K]
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        x = x + self.dropout(self.output(_merge_heads(attended)))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


class CausalEncoder(nn.Module):
    """Causal layers over a history; position t has read items 0..t."""

    def __init__(self, config: TigerConfig, dropout: float) -> None:
        super().__init__()
        self.bias = RecencyBias(config.heads, config.max_history)
        self.layers = nn.ModuleList(EncoderLayer(config, dropout) for _ in range(config.encoder_layers))
        self.norm = nn.LayerNorm(config.d_model)
        self.dropout = Dropout(dropout)

    def forward(self, items: Tensor) -> Tensor:
        """Item vectors [B, T, D], oldest first, padded on the right with anything -> [B, T, D]."""
        length = items.shape[1]
        x = self.dropout(items)
        bias = self.bias(torch.arange(length, device=items.device), length).unsqueeze(0)  # [1, H, T, T]
        for layer in self.layers:
            x = layer(x, bias)
        return self.norm(x)


class DecoderLayer(nn.Module):
    """Pre-norm self-attention over levels, cross-attention over the history, feed-forward."""

    def __init__(self, config: TigerConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.self_norm = nn.LayerNorm(config.d_model)
        self.query_key_value = nn.Linear(config.d_model, 3 * config.d_model)
        self.self_output = nn.Linear(config.d_model, config.d_model)
        self.cross_norm = nn.LayerNorm(config.d_model)
        self.cross_query = nn.Linear(config.d_model, config.d_model)
        self.cross_key_value = nn.Linear(config.d_model, 2 * config.d_model)
        self.cross_output = nn.Linear(config.d_model, config.d_model)
        self.feed_forward_norm = nn.LayerNorm(config.d_model)
        self.feed_forward = _feed_forward(config, config.dropout)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, memory: Tensor, bias: Tensor, levels: int) -> Tensor:
        """Tokens of N targets [B, N*L, D], with memory [B, T, D] and bias [1, H, N*L, T] -> [B, N*L, D]."""
        parts = self.query_key_value(self.self_norm(x)).chunk(3, dim=-1)
        parts = (part.reshape(-1, levels, part.shape[-1]) for part in parts)  # [B*N, L, D]: each target alone
        query, key, value = (_split_heads(part, self.heads) for part in parts)  # [B*N, H, L, K]
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.dropout(self.self_output(_merge_heads(attended).reshape(x.shape)))
        query = _split_heads(self.cross_query(self.cross_norm(x)), self.heads)  # [B, H, N*L, K]
        parts = self.cross_key_value(memory).chunk(2, dim=-1)
        key, value = (_split_heads(part, self.heads) for part in parts)  # [B, H, T, K]
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        x = x + self.dropout(self.cross_output(_merge_heads(attended)))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


class LearnedItems(nn.Embedding):
    """A learned vector for each item known in training; row 0 stands for all others."""

    def __init__(self, config: TigerConfig) -> None:
        super().__init__(1 + config.known_items, config.d_model)

    def forward(self, rows: Tensor, codes: Tensor) -> Tensor:  # type: ignore[override]  # as of LearnedCodes
        """Catalogue rows [...] -> [..., D]; ``codes`` are not read."""
        index = torch.where(rows + 1 < self.num_embeddings, rows + 1, 0)
        if self.training:  # row 0 now and then in place of an item's own, so that the model copes with new items
            index = index * (torch.rand(rows.shape, device=rows.device) >= HIDDEN_SHARE)
        return super().forward(index)


class LearnedCodes(nn.Embedding):
    """A learned vector for each item of a large catalogue: the sum of one for each beginning of its code.

    Few items of a million are bought often enough to learn a vector of their own. Items whose codes begin alike, new
    ones too, share what is learned, and their keys are alike, so that the trie finds them. A beginning finds its row
    by a hash; the suffix, which tells items of one code apart, has no part.

    Source: Petrov & Macdonald 2024, "RecJPQ", whose item vectors are joined of those of the parts of a code.
    """

    def __init__(self, config: TigerConfig) -> None:
        super().__init__(config.code_rows, config.d_model)
        self.levels = len(config.level_sizes) - 1

    def forward(self, rows: Tensor, codes: Tensor) -> Tensor:  # type: ignore[override]  # as of LearnedItems
        """Codes with suffix [..., L] -> [..., D]; catalogue ``rows`` are not read."""
        beginnings = [codes[..., 0]]
        for level in range(1, self.levels):
            beginnings.append((beginnings[-1] * PREFIX_FACTOR + codes[..., level] + 1) % self.num_embeddings)
        return super().forward(torch.stack(beginnings, dim=-1)).sum(dim=-2)


def learned_items(config: TigerConfig) -> LearnedItems | LearnedCodes:
    """The table of learned vectors that a view reads."""
    return LearnedCodes(config) if config.code_rows else LearnedItems(config)


class ContentItems(nn.Module):
    """One vector an item, made of its codes, its text vector and, for items known in training, a learned vector."""

    def __init__(self, config: TigerConfig) -> None:
        super().__init__()
        width = max(config.d_model // len(config.level_sizes), 8)
        self.levels = nn.ModuleList(nn.Embedding(size, width) for size in config.level_sizes)
        self.codes = nn.Linear(width * len(config.level_sizes), config.d_model)
        self.text = nn.Linear(config.item_vector_dim, config.d_model) if config.item_vector_dim else None
        self.own = learned_items(config) if config.known_items or config.code_rows else None
        self.norm = nn.LayerNorm(config.d_model)

    def forward(self, rows: Tensor, codes: Tensor, vectors: Tensor) -> Tensor:
        """Catalogue rows [...], codes [..., L] and text vectors [..., item_vector_dim] -> [..., D]."""
        x = self.codes(torch.cat([table(codes[..., level]) for level, table in enumerate(self.levels)], dim=-1))
        if self.text is not None:
            x = x + self.text(vectors)
        if self.own is not None:
            x = x + self.own(rows, codes)
        return self.norm(x)


class ItemEncoder(nn.Module):
    """The vectors of an item that the encoders read: one for each content view, then one for each identity view."""

    def __init__(self, config: TigerConfig) -> None:
        super().__init__()
        self.contents = nn.ModuleList(ContentItems(config) for _ in range(config.content_views))
        self.identities = nn.ModuleList(learned_items(config) for _ in range(config.id_views))

    def forward(self, rows: Tensor, codes: Tensor, vectors: Tensor) -> Tensor:
        """:meth:`views` side by side, [..., V x D]."""
        return torch.cat(self.views(rows, codes, vectors), dim=-1)

    def views(self, rows: Tensor, codes: Tensor, vectors: Tensor) -> list[Tensor]:
        """The item's vector in each view, [..., D]; arguments as of :class:`ContentItems`."""
        contents = [content(rows, codes, vectors) for content in self.contents]
        return contents + [identity(rows, codes) for identity in self.identities]


class ContentMatch(nn.Module):
    """The scaled cosine between what a content encoder read and an item's content."""

    def __init__(self, config: TigerConfig) -> None:
        super().__init__()
        self.query = nn.Linear(config.d_model, config.d_model)
        self.key = nn.Linear(config.d_model, config.d_model)
        self.log_scale = nn.Parameter(torch.tensor(math.log(INITIAL_SCALE)))

    def queries(self, memory: Tensor) -> Tensor:
        """Encoder outputs [..., D] -> [..., D], scaled so that the product with a key is a logit."""
        return F.normalize(self.query(memory), dim=-1) * self.log_scale.exp()

    def keys(self, items: Tensor) -> Tensor:
        """Content vectors [..., D] -> unit vectors [..., D]."""
        return F.normalize(self.key(items), dim=-1)


class DenseHead(nn.Module):
    """Scores whole items by the weighted mean logit of an ensemble of views; each view has a loss of its own.

    A content view compares what an encoder read with the item's content, so a new item has a key too. The first content
    view shares the decoder's encoder. An identity view knows items by a learned vector alone, which is also the key
    (SASRec). Views of one kind differ in their random weights and dropout.

    Source: Yang et al. 2024, "Unifying Generative and Dense Retrieval for Sequential Recommendation" (LIGER); Kang &
    McAuley 2018, "Self-Attentive Sequential Recommendation" (SASRec); Lakshminarayanan et al. 2017, "Simple and
    Scalable Predictive Uncertainty Estimation using Deep Ensembles".
    """

    def __init__(self, config: TigerConfig) -> None:
        super().__init__()
        self.config, self.width = config, config.d_model
        self.matches = nn.ModuleList(ContentMatch(config) for _ in range(config.content_views))
        more = config.content_views - 1
        self.content_encoders = nn.ModuleList(CausalEncoder(config, config.dropout) for _ in range(more))
        self.id_encoders = nn.ModuleList(CausalEncoder(config, config.id_dropout) for _ in range(config.id_views))

    def queries(self, memory: Tensor, items: Tensor) -> list[Tensor]:
        """The query of each view [B, T, D] for the decoder's encoder output [B, T, D] and the items [B, T, V x D]."""
        views = items.split(self.width, dim=-1)
        contents, identities = views[1 : len(self.matches)], views[len(self.matches) :]
        memories = [memory, *(encoder(view) for encoder, view in zip(self.content_encoders, contents, strict=True))]
        scaled = [view * self.width**0.5 for view in identities]
        known = [encoder(view) for encoder, view in zip(self.id_encoders, scaled, strict=True)]
        return self.content_queries(memories) + known

    def content_queries(self, memories: Sequence[Tensor]) -> list[Tensor]:
        """The query of each content view, for its encoder's output; outputs of identity views are left out."""
        matches = cast("list[ContentMatch]", list(self.matches))
        return [match.queries(memory) for match, memory in zip(matches, memories, strict=False)]

    def keys(self, items: Sequence[Tensor]) -> list[Tensor]:
        """The key of each view [..., D] for the item encoder's views, each [..., D]."""
        matches = cast("list[ContentMatch]", list(self.matches))
        contents = [match.keys(view) for match, view in zip(matches, items, strict=False)]
        return [*contents, *items[len(contents) :]]

    def joined(self, views: list[Tensor]) -> Tensor:
        """Queries or keys of all views side by side [..., V x D]: the product of both is the weighted mean logit."""
        weighted = [view * share**0.5 for view, share in zip(views, self.config.view_shares, strict=True)]
        return torch.cat(weighted, dim=-1)


class TigerModel(WholeModel):
    """The encoder, the decoder with one output head a level, and the dense head."""

    config_class = TigerConfig
    config: TigerConfig
    token_offset: Tensor  # the row of token_embedding of each level's token 0

    def __init__(self, config: TigerConfig) -> None:
        super().__init__(config)
        levels, vocabulary = len(config.level_sizes), max(config.level_sizes)
        self.item_encoder = ItemEncoder(config)
        self.encoder = CausalEncoder(config, config.dropout)
        # Row 0 starts a code; the tokens of level l start at 1 + sum of the sizes before it.
        self.token_embedding = nn.Embedding(1 + sum(config.level_sizes), config.d_model)
        self.level_embedding = nn.Embedding(levels, config.d_model)
        # A token means something else after every prefix, so the prefix as a whole has a vector too.
        self.prefix_embedding = nn.Embedding(config.prefix_buckets, config.d_model)
        self.context = nn.Linear(config.d_model, config.d_model)
        others = (config.views - 1) * config.d_model
        self.other_context = nn.Linear(others, config.d_model) if others else None
        self.cross_bias = RecencyBias(config.heads, config.max_history)
        self.decoder = nn.ModuleList(DecoderLayer(config) for _ in range(config.decoder_layers))
        self.decoder_norm = nn.LayerNorm(config.d_model)
        self.head_weight = nn.Parameter(torch.empty(levels, vocabulary, config.d_model))
        self.head_bias = nn.Parameter(torch.zeros(levels, vocabulary))
        self.dense = DenseHead(config).requires_grad_(config.dense)
        self.dropout = Dropout(config.dropout)
        self.register_buffer("token_offset", self._token_offset(), persistent=False)
        self.post_init()

    def _token_offset(self) -> Tensor:
        sizes = torch.tensor(self.config.level_sizes)
        return 1 + sizes.cumsum(0) - sizes

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        elif isinstance(module, ContentMatch):
            nn.init.constant_(module.log_scale, math.log(INITIAL_SCALE))
        elif isinstance(module, TigerModel):
            nn.init.normal_(module.head_weight, std=0.02)
            module.token_offset = module._token_offset()  # transformers makes the model without values when it loads

    def encode(self, items: Tensor) -> Tensor:
        """Output [B, T, D] of the encoder that the decoder reads; ``items`` are the item encoder's, [B, T, V x D]."""
        return self.encoder(items[..., : self.config.d_model])

    def read(self, memory: Tensor, queries: list[Tensor]) -> Tensor:
        """What the decoder starts every level from: a summary of memory and the views' queries, each [B, T, D]."""
        context = self.context(memory)
        if self.other_context is None:
            return context
        others = torch.cat(queries[1:], dim=-1).detach()  # the decoder's loss trains no other view
        return context + self.other_context(others)

    def decode(self, memory: Tensor, queries: list[Tensor], targets: Tensor) -> tuple[Tensor, ...]:
        """Logits [B, T, level size] of each level, for the codes ``targets`` [B, T, L] that follow each position."""
        batch, length, levels = targets.shape
        shifted = F.pad((targets + self.token_offset)[..., :-1], (1, 0))  # [B, T, L], 0 starts each code
        x = self.token_embedding(shifted) + self.prefix_embedding(self._prefixes(shifted))
        x = x + self.level_embedding.weight + self.read(memory, queries).unsqueeze(2)
        x = self.dropout(x).reshape(batch, length * levels, -1)  # [B, T*L, D]
        positions = torch.arange(length, device=memory.device).repeat_interleave(levels)
        bias = self.cross_bias(positions, length).unsqueeze(0)  # [1, H, T*L, T]
        for layer in self.decoder:
            x = layer(x, memory, bias, levels)
        x = self.decoder_norm(x).reshape(batch, length, levels, -1)
        return tuple(
            F.linear(x[:, :, level], self.head_weight[level, :size], self.head_bias[level, :size])
            for level, size in enumerate(self.config.level_sizes)
        )

    def _prefixes(self, tokens: Tensor) -> Tensor:
        """Rows of ``prefix_embedding`` up to each level, int64 [..., L]; hashed as ``BeamAncestry`` does."""
        hashes = [tokens[..., 0]]
        for level in range(1, tokens.shape[-1]):
            hashes.append((hashes[-1] * PREFIX_FACTOR + tokens[..., level]) % self.config.prefix_buckets)
        return torch.stack(hashes, dim=-1)


def _split_heads(x: Tensor, heads: int) -> Tensor:
    """[..., N, D] -> [..., H, N, K]."""
    return x.unflatten(-1, (heads, -1)).transpose(-3, -2)


def _merge_heads(x: Tensor) -> Tensor:
    """[..., H, N, K] -> [..., N, D]."""
    return x.transpose(-3, -2).flatten(-2)
