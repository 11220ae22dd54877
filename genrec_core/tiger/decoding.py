"""A trained TIGER model in the form that decoding runs: the history encoders as one, and a decoder step for each level.

It computes what :class:`~genrec_core.tiger.model.TigerModel` computes, arranged for few and large operators, which is
what the time of a decode is made of:

- the encoders of all views are one Transformer whose weights have an axis more;
- the weights of a layer norm are part of the linear layer behind it;
- the cross-attention's query projection is multiplied into a user's keys and its output projection into the values,
  once a user, so that a beam costs two products with matrices as narrow as the history is long;
- self-attention knows its few positions apart, so the start of a code, the same for all beams of a user, is kept once,
  and every other position is a row gathered by ancestor.

Shapes: B users, T items of history, W beams, L levels, V views, H heads, D = d_model, K = D / H, Y decoder layers.

Source: Shazeer 2019, "Fast Transformer Decoding: One Write-Head is All You Need", for what decoding waits for;
projections are folded into keys and values as in DeepSeek-AI 2024, "DeepSeek-V2" (section 2.1, absorbed matrices).
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genrec_core.tiger.model import CausalEncoder, DecoderLayer, EncoderLayer, TigerModel


def _after_norm(norm: nn.LayerNorm, linear: nn.Linear) -> tuple[Tensor, Tensor]:
    """``linear(norm(x))`` as a matrix [in, out] and an offset [out] for ``x`` with mean 0 and variance 1."""
    return (linear.weight * norm.weight).T.contiguous(), linear.bias + linear.weight @ norm.bias


def _normalized(x: Tensor) -> Tensor:
    """Layer norm without weights."""
    return F.layer_norm(x, x.shape[-1:])


def _feed_forward(layer: EncoderLayer | DecoderLayer) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The two matrices and offsets behind the layer's last norm, that norm's weights within."""
    first, last = cast(nn.Linear, layer.feed_forward[0]), cast(nn.Linear, layer.feed_forward[3])
    return *_after_norm(layer.feed_forward_norm, first), last.weight.T.contiguous(), last.bias


class _Weights(nn.Module):
    """Named tensors that a graph holds as constants."""

    def __init__(self, **tensors: Tensor) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor.detach().clone())

    def __getattr__(self, name: str) -> Tensor:
        """As of any module, but typed: all that it holds are tensors."""
        return cast(Tensor, super().__getattr__(name))


class _ViewLayer(_Weights):
    """One layer of the encoders of all views: matrices [V, in, out], offsets [V, 1, out]."""

    def __init__(self, layers: list[EncoderLayer]) -> None:
        scale = (layers[0].query_key_value.in_features // layers[0].heads) ** -0.5
        parts: list[tuple[Tensor, ...]] = []
        for layer in layers:
            matrix, offset = _after_norm(layer.attention_norm, layer.query_key_value)
            scaled = torch.ones_like(offset)
            scaled[: layer.query_key_value.in_features] = scale  # the query's third
            output = (layer.output.weight.T, layer.output.bias)
            parts.append((matrix * scaled, offset * scaled, *output, *_feed_forward(layer)))
        names = ("qkv", "qkv_offset", "output", "output_offset", "first", "first_offset", "last", "last_offset")
        stacked = [torch.stack(same) for same in zip(*parts, strict=True)]
        super().__init__(**{name: x.unsqueeze(1) if x.ndim == 2 else x for name, x in zip(names, stacked, strict=True)})
        self.heads = layers[0].heads

    def forward(self, x: Tensor, bias: Tensor, batch: int) -> Tensor:
        """[V, B*T, D] with bias [V, 1, H, T, T] -> [V, B*T, D]."""
        views, _, width = x.shape
        qkv = torch.baddbmm(self.qkv_offset, _normalized(x), self.qkv)
        parts = qkv.reshape(views, batch, -1, 3, self.heads, width // self.heads).permute(3, 0, 1, 4, 2, 5)
        query, key, value = parts[0], parts[1], parts[2]  # [V, B, H, T, K]
        attention = (query @ key.transpose(-1, -2) + bias).softmax(-1)
        attended = (attention @ value).transpose(2, 3).reshape(views, -1, width)
        x = x + torch.baddbmm(self.output_offset, attended, self.output)
        hidden = F.gelu(torch.baddbmm(self.first_offset, _normalized(x), self.first))
        return x + torch.baddbmm(self.last_offset, hidden, self.last)


class HistoryEncoder(nn.Module):
    """What decoding needs of a user, computed once: cross-attention, context, the dense head's query, and level 0.

    Args:
        model: a trained model.
    """

    def __init__(self, model: TigerModel) -> None:
        super().__init__()
        config, head = model.config, model.dense
        encoders = cast("list[CausalEncoder]", [model.encoder, *head.content_encoders, *head.id_encoders])
        self.width, self.contents, self.scale = config.d_model, config.content_views, config.d_model**0.5
        by_depth = zip(*(cast("list[EncoderLayer]", list(encoder.layers)) for encoder in encoders), strict=True)
        self.layers = nn.ModuleList(_ViewLayer(list(layers)) for layers in by_depth)
        self.norms = _Weights(
            weight=torch.stack([encoder.norm.weight for encoder in encoders]).unsqueeze(1),
            bias=torch.stack([encoder.norm.bias for encoder in encoders]).unsqueeze(1),
        )
        positions = torch.arange(config.max_history, device=model.device)
        self.biases = _Weights(
            attention=torch.stack([encoder.bias(positions, config.max_history) for encoder in encoders]).unsqueeze(1),
            cross=model.cross_bias.table,
        )
        self.model_context, self.other_context, self.dense = model.context, model.other_context, head
        decoder = cast("list[DecoderLayer]", list(model.decoder))
        self.crossed = nn.ModuleList(_FoldedCross(layer) for layer in decoder)
        self.start = _Weights(x=token_vectors(model)[0] + model.prefix_embedding.weight[0])
        self.first_step = DecoderStep(model, 0)

    def forward(self, items: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        """Read histories.

        Args:
            items: vectors of the item encoder, float32 [B, T, V x D], padded on the right with anything.
            lengths: items a history, int64 [B], at least 1.

        Returns:
            context: what the decoder starts every level from [B, 1, D];
            query: of the dense head at the newest item, all views side by side [B, V x D];
            logits of level 0 [B, 1, level size];
            for each decoder layer the cross-attention's keys [B, D, H x T], with the query projection within, offsets
            of their product [B, 1, H x T], minus infinity on padding, and values [B, H x T, D], with the output
            projection within;
            for each decoder layer the keys and values of the start of a code, as :class:`DecoderStep` gives them.
        """
        batch, time = items.shape[:2]
        x = items.unflatten(-1, (-1, self.width)).permute(2, 0, 1, 3)  # [V, B, T, D]
        x = torch.cat([x[: self.contents], x[self.contents :] * self.scale]).flatten(1, 2)
        bias = self.biases.attention[..., :time, :time]
        for layer in self.layers:
            x = layer(x, bias, batch)
        x = _normalized(x) * self.norms.weight + self.norms.bias
        x = x.unflatten(1, (batch, time))
        newest = x.gather(2, (lengths - 1).reshape(1, -1, 1, 1).expand(len(x), -1, 1, self.width))  # [V, B, 1, D]
        queries = [match.queries(part) for match, part in zip(self.dense.content_matches(), newest, strict=False)]
        queries += list(newest[len(queries) :])
        context = self.model_context(newest[0])
        if self.other_context is not None:
            context = context + self.other_context(torch.cat(queries[1:], dim=-1))
        recency = self._recency(lengths, time)
        folded = [part for cross in self.crossed for part in cross(x[0], recency)]
        logits, *own = self.first_step(context + self.start.x, *folded)
        return context, self.dense.joined(queries).squeeze(1), logits, *folded, *own

    def _recency(self, lengths: Tensor, time: int) -> Tensor:
        """The cross-attention's bias by how old an item is, minus infinity on padding: lengths [B] -> [B, H, T]."""
        distance = (lengths - 1).unsqueeze(1) - torch.arange(time, device=lengths.device)  # [B, T]
        bias = self.biases.cross.T[distance.clamp(0, self.biases.cross.shape[1] - 1)]  # [B, T, H]
        return bias.masked_fill((distance < 0).unsqueeze(-1), float("-inf")).transpose(1, 2)


class _FoldedCross(_Weights):
    """A decoder layer's cross-attention keys and values with the projections around them multiplied in."""

    def __init__(self, layer: DecoderLayer) -> None:
        heads, width = layer.heads, layer.cross_query.in_features
        query, offset = _after_norm(layer.cross_norm, layer.cross_query)
        scale = (width // heads) ** -0.5
        super().__init__(
            history=layer.cross_key_value.weight.T.contiguous(),
            history_offset=layer.cross_key_value.bias,
            query=(query.T * scale).unflatten(0, (heads, -1)),  # [H, K, D]
            query_offset=(offset * scale).reshape(heads, -1, 1),  # [H, K, 1]
            output=layer.cross_output.weight.T.unflatten(0, (heads, -1)),  # [H, K, D]
        )
        self.heads = heads

    def forward(self, memory: Tensor, recency: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Memory [B, T, D] and bias [B, H, T] -> keys [B, D, H*T], offsets [B, 1, H*T], values [B, H*T, D]."""
        both = memory @ self.history + self.history_offset
        parts = both.unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)  # [2, B, H, T, K]
        keys, values = parts[0], parts[1]
        offsets = (keys @ self.query_offset).squeeze(-1) + recency
        return (
            (keys @ self.query).flatten(1, 2).transpose(1, 2).contiguous(),
            offsets.flatten(1).unsqueeze(1),
            (values @ self.output).flatten(1, 2),
        )


class _StepLayer(_Weights):
    """A decoder layer for one position of a code, its predecessors' keys and values given."""

    def __init__(self, layer: DecoderLayer) -> None:
        width = layer.query_key_value.in_features
        matrix, offset = _after_norm(layer.self_norm, layer.query_key_value)
        matrices, offsets = matrix.split(width, dim=1), offset.split(width)
        scale = (width // layer.heads) ** -0.5
        first, first_offset, last, last_offset = _feed_forward(layer)
        by_head = torch.eye(layer.heads).repeat_interleave(width // layer.heads, dim=0).to(offset)
        super().__init__(
            query=matrices[0] * scale,
            query_offset=offsets[0] * scale,
            key=matrices[1].contiguous(),
            key_offset=offsets[1],
            value=matrices[2].contiguous(),
            value_offset=offsets[2],
            output=layer.self_output.weight.T.contiguous(),
            output_offset=layer.self_output.bias,
            cross_offset=layer.cross_output.bias,
            first=first,
            first_offset=first_offset,
            last=last,
            last_offset=last_offset,
            by_head=by_head,  # [D, H], sums within heads
            to_head=by_head.T.contiguous(),
        )
        self.heads = layer.heads

    def forward(
        self, x: Tensor, batch: int, earlier: list[tuple[Tensor, Tensor]], cross: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One token a beam.

        Args:
            x: [B*W, D].
            batch: B.
            earlier: keys and values of each position before, each [B, 1 or W, D].
            cross: keys, offsets and values of :class:`_FoldedCross`.

        Returns:
            [B*W, D], and the token's own key and value [B, W, D].
        """
        shape = (batch, -1, x.shape[-1])
        normed = _normalized(x)
        key = torch.addmm(self.key_offset, normed, self.key).reshape(shape)
        value = torch.addmm(self.value_offset, normed, self.value).reshape(shape)
        attended = value
        if earlier:
            query = torch.addmm(self.query_offset, normed, self.query).reshape(shape)
            attended = self._attend(query, [*earlier, (key, value)])
        x = x + torch.addmm(self.output_offset, attended.reshape(x.shape), self.output)
        keys, offsets, values = cross
        scores = _normalized(x).reshape(shape) @ keys + offsets  # [B, W, H*T]
        attention = scores.unflatten(-1, (self.heads, -1)).softmax(-1).flatten(2)
        x = x + ((attention @ values).reshape(x.shape) + self.cross_offset)
        hidden = F.gelu(torch.addmm(self.first_offset, _normalized(x), self.first))
        return x + torch.addmm(self.last_offset, hidden, self.last), key, value

    def _attend(self, query: Tensor, positions: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Attention over positions, each a key and a value [B, 1 or W, D] -> [B, W, D]."""
        scores = torch.stack([(query * key) @ self.by_head for key, _ in positions], dim=-1)  # [B, W, H, N]
        shares = scores.softmax(-1).unbind(-1)
        parts = [(share @ self.to_head) * value for share, (_, value) in zip(shares, positions, strict=True)]
        return sum(parts[1:], parts[0])


class DecoderStep(nn.Module):
    """Scores one level's tokens for every beam; level 0 is part of :class:`HistoryEncoder`.

    Args:
        model: a trained model.
        level: which one.
    """

    def __init__(self, model: TigerModel, level: int) -> None:
        super().__init__()
        self.level, size = level, model.config.level_sizes[level]
        self.layers = nn.ModuleList(_StepLayer(layer) for layer in cast("list[DecoderLayer]", list(model.decoder)))
        weight, bias = model.head_weight[level, :size], model.head_bias[level, :size]
        norm = model.decoder_norm
        self.head = _Weights(weight=(weight * norm.weight).T.contiguous(), bias=bias + weight @ norm.bias)

    def forward(self, x: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        """One step.

        Args:
            x: sum of the vectors of each beam's newest token and prefix and the user's context, [B, W, D].
            rest: what :class:`HistoryEncoder` gave for each layer; then for each level before what that step gave for
                each layer, behind the beam's ancestor there unless it is the first: int64 [B x W], as ``user * its W +
                beam``.

        Returns:
            Logits [B, W, level size], and for each layer the tokens' own keys and values [B, W, D].
        """
        batch, layers = x.shape[0], len(self.layers)
        given = list(rest)
        cross = [given[3 * number : 3 * number + 3] for number in range(layers)]
        positions = self._positions(x, given[3 * layers :], layers)
        kept: list[Tensor] = []
        flat = x.flatten(0, 1)
        for number, layer in enumerate(self.layers):
            earlier = [at[number] for at in positions]
            flat, key, value = layer(flat, batch, earlier, tuple(cross[number]))
            kept += [key, value]
        logits = torch.addmm(self.head.bias, _normalized(flat), self.head.weight)
        return logits.unflatten(0, x.shape[:2]), *kept

    @staticmethod
    def _positions(x: Tensor, given: list[Tensor], layers: int) -> list[list[tuple[Tensor, Tensor]]]:
        """Keys and values of each level before by layer, those of the beams' ancestors."""
        positions: list[list[tuple[Tensor, Tensor]]] = []
        while given:
            ancestors = given.pop(0) if positions else None
            kept = [part if ancestors is None else _rows(part, ancestors, x) for part in given[: 2 * layers]]
            positions.append(list(zip(kept[::2], kept[1::2], strict=True)))
            del given[: 2 * layers]
        return positions


def _rows(cache: Tensor, ancestors: Tensor, x: Tensor) -> Tensor:
    """Rows of ``cache`` [B, its W, D] by ancestor -> [B, W, D]."""
    return cache.flatten(0, 1).index_select(0, ancestors).reshape(x.shape)


def token_vectors(model: TigerModel) -> Tensor:
    """What the decoder adds for each row of ``token_embedding``, the level that reads it within, float32 [rows, D].

    The token of a level is read at the next one; the row that starts a code is read at level 0.
    """
    sizes = torch.tensor([1, *model.config.level_sizes], device=model.device)
    levels = torch.arange(len(sizes), device=model.device).repeat_interleave(sizes)
    return model.token_embedding.weight + model.level_embedding.weight[levels.clamp(max=len(sizes) - 2)]
