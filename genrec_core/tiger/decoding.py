"""A trained TIGER model in the form that decoding runs: the history encoders as one, and a decoder step for each level.

It computes what :class:`~genrec_core.tiger.model.TigerModel` computes, arranged for few and large operators, which is
what the time of a decode is made of:

- of the views that the decoder does not read, the last layer computes the newest item's vector alone;
- every product with weights is one of two matrices, which onnxruntime lays out once, when it opens the graph;
- the weights of a layer norm are part of the linear layer behind it;
- the cross-attention's query projection is multiplied into a user's keys and its output projection into the values,
  once a user, so that a beam costs two products with matrices as narrow as the history is long; its scores lie with
  the beams last, so that their softmax runs over long rows;
- self-attention knows its few positions apart, each a row gathered by ancestor;
- the items of all histories stand one behind the other, as many as each has, and so do the beams; attention alone, a
  small part of the arithmetic, puts those of a user side by side.

Shapes: B users, S items of all histories, T the most of one user, N beams of all users, W the most of one, L levels,
V views, H heads, D = d_model, K = D / H, Y decoder layers.

Source: Shazeer 2019, "Fast Transformer Decoding: One Write-Head is All You Need", for what decoding waits for;
projections are folded into keys and values as in DeepSeek-AI 2024, "DeepSeek-V2" (section 2.1, absorbed matrices).
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genrec_core.tiger.model import CausalEncoder, DecoderLayer, EncoderLayer, TigerModel

_NEGLIGIBLE = -60.0  # of a score below the largest: its share rounds to nothing; far less makes exp ten times as slow


def _after_norm(norm: nn.LayerNorm, linear: nn.Linear) -> tuple[Tensor, Tensor]:
    """``linear(norm(x))`` as a matrix [in, out] and an offset [out] for ``x`` with mean 0 and variance 1."""
    return (linear.weight * norm.weight).T.contiguous(), linear.bias + linear.weight @ norm.bias


def _normalized(x: Tensor) -> Tensor:
    """Layer norm without weights."""
    return F.layer_norm(x, x.shape[-1:])


def _second_half(output: nn.Linear, layer: EncoderLayer | DecoderLayer) -> dict[str, Tensor]:
    """The attention's output projection, and the two matrices and offsets behind the last norm, its weights within."""
    first, last = cast(nn.Linear, layer.feed_forward[0]), cast(nn.Linear, layer.feed_forward[3])
    matrix, offset = _after_norm(layer.feed_forward_norm, first)
    return {
        "output": output.weight.T.contiguous(),
        "output_offset": output.bias,
        "first": matrix,
        "first_offset": offset,
        "last": last.weight.T.contiguous(),
        "last_offset": last.bias,
    }


class _Weights(nn.Module):
    """Named tensors that a graph holds as constants."""

    def __init__(self, **tensors: Tensor) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor.detach().clone())

    def __getattr__(self, name: str) -> Tensor:
        """As of any module, but typed: all that it holds are tensors."""
        return cast(Tensor, super().__getattr__(name))


class _HistoryLayer(_Weights):
    """One layer of a view's encoder."""

    def __init__(self, layer: EncoderLayer) -> None:
        matrix, offset = _query_key_value(layer)
        super().__init__(qkv=matrix, qkv_offset=offset, **_second_half(layer.output, layer))
        self.heads = layer.heads

    def forward(self, x: Tensor, bias: Tensor, beside: "_Beside") -> Tensor:
        """[S, D] with bias [H, T, T] -> [S, D]."""
        qkv = torch.addmm(self.qkv_offset, _normalized(x), self.qkv)
        query, key, value = _by_head(beside.rows(qkv), 3, self.heads)
        return _finished(self, x, beside.flat(_attended(query, key, value, bias)))


class _NewestLayer(_Weights):
    """The last layer of a view of which the newest item's vector alone is read: the others need a key and a value."""

    def __init__(self, layer: EncoderLayer) -> None:
        matrix, offset = _query_key_value(layer)
        width = layer.query_key_value.in_features
        super().__init__(
            query=matrix[:, :width].contiguous(),
            query_offset=offset[:width],
            key_value=matrix[:, width:].contiguous(),
            key_value_offset=offset[width:],
            **_second_half(layer.output, layer),
        )
        self.heads = layer.heads

    def forward(self, x: Tensor, bias: Tensor, beside: "_Beside", newest: Tensor) -> Tensor:
        """[S, D] with bias [B, H, 1, T] and the newest items [B] -> [B, D]."""
        last = x.index_select(0, newest)
        key_value = torch.addmm(self.key_value_offset, _normalized(x), self.key_value)
        key, value = _by_head(beside.rows(key_value), 2, self.heads)
        query = torch.addmm(self.query_offset, _normalized(last), self.query)
        (query,) = _by_head(query.unsqueeze(1), 1, self.heads)
        return _finished(self, last, _attended(query, key, value, bias).squeeze(1))


class _Beside:
    """Rows of all users one behind the other, and the same with those of a user side by side.

    Args:
        places: the rows of each user, int64 [B, T]; any where a user has fewer.
        own: where in ``places``, read flat, each row is, int64 [S].
    """

    def __init__(self, places: Tensor, own: Tensor) -> None:
        self.places, self.own = places, own

    def rows(self, x: Tensor) -> Tensor:
        """[S, ...] -> [B, T, ...]."""
        return x.index_select(0, self.places.flatten()).unflatten(0, self.places.shape)

    def flat(self, x: Tensor) -> Tensor:
        """[B, T, ...] -> [S, ...]."""
        return x.flatten(0, 1).index_select(0, self.own)


def _query_key_value(layer: EncoderLayer) -> tuple[Tensor, Tensor]:
    """The matrix and offset behind the first norm, its weights within and the query's third scaled."""
    width = layer.query_key_value.in_features
    matrix, offset = _after_norm(layer.attention_norm, layer.query_key_value)
    scaled = torch.ones_like(offset)
    scaled[:width] = (width // layer.heads) ** -0.5
    return matrix * scaled, offset * scaled


def _by_head(x: Tensor, parts: int, heads: int) -> tuple[Tensor, ...]:
    """[B, T, parts x D] -> ``parts`` tensors [B, H, T, K]."""
    split = x.unflatten(-1, (parts * heads, -1)).transpose(1, 2)
    return split.split(heads, dim=1) if parts > 1 else (split,)


def _attended(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    """Attention of queries [B, H, Q, K] over keys and values [B, H, T, K], bias [..., Q, T] -> [B, Q, D]."""
    attention = (query @ key.transpose(-1, -2) + bias).softmax(-1)
    return (attention @ value).transpose(1, 2).flatten(2)


def _finished(weights: _Weights, x: Tensor, attended: Tensor) -> Tensor:
    """The rest of an encoder layer, [N, D] -> [N, D]."""
    x = x + torch.addmm(weights.output_offset, attended, weights.output)
    hidden = F.gelu(torch.addmm(weights.first_offset, _normalized(x), weights.first))
    return x + torch.addmm(weights.last_offset, hidden, weights.last)


class _View(nn.Module):
    """A view's encoder with its attention bias for every pair of positions.

    Args:
        encoder: the view's.
        positions: 0..max_history - 1.
        scale: what it multiplies item vectors by.
        newest: whether only the newest item's vector is wanted of it.
    """

    def __init__(self, encoder: CausalEncoder, positions: Tensor, scale: float, newest: bool) -> None:
        super().__init__()
        layers = cast("list[EncoderLayer]", list(encoder.layers))
        self.layers = nn.ModuleList(map(_HistoryLayer, layers[:-1] if newest else layers))
        self.last = _NewestLayer(layers[-1]) if newest else None
        self.norm, self.scale = encoder.norm, scale
        bias = encoder.bias(positions, len(positions)).clamp(min=_NEGLIGIBLE)  # [H, max_history, max_history]
        self.bias = _Weights(pairs=bias, newest=bias.transpose(0, 1).unsqueeze(2))

    def forward(self, x: Tensor, lengths: Tensor, beside: _Beside, newest: Tensor) -> Tensor:
        """[S, D] -> [S, D], or [B, D] of the newest items alone."""
        time = beside.places.shape[1]
        x = x * self.scale
        for layer in self.layers:
            x = layer(x, self.bias.pairs[:, :time, :time], beside)
        if self.last is not None:
            x = self.last(x, self.bias.newest.index_select(0, lengths - 1)[..., :time], beside, newest)
        return cast(Tensor, self.norm(x))


class HistoryEncoder(nn.Module):
    """What decoding needs of a user, computed once: cross-attention, context, the dense head's query, and level 0.

    Args:
        model: a trained model.
    """

    def __init__(self, model: TigerModel) -> None:
        super().__init__()
        config, head = model.config, model.dense
        positions = torch.arange(config.max_history, device=model.device)
        encoders = cast("list[CausalEncoder]", [model.encoder, *head.content_encoders, *head.id_encoders])
        scales = [1.0] * config.content_views + [config.d_model**0.5] * (len(encoders) - config.content_views)
        self.views = nn.ModuleList(  # the decoder reads all of the first; of the others their queries alone are read
            _View(encoder, positions, scale, newest=number > 0)
            for number, (encoder, scale) in enumerate(zip(encoders, scales, strict=True))
        )
        recency = model.cross_bias(positions, len(positions))  # [H, max_history, max_history]
        self.recency = _Weights(newest=recency.permute(1, 2, 0))
        self.model_context, self.other_context, self.dense = model.context, model.other_context, head
        decoder = cast("list[DecoderLayer]", list(model.decoder))
        self.crossed = nn.ModuleList(_FoldedCross(layer) for layer in decoder)
        self.start = _Weights(x=token_vectors(model)[0] + model.prefix_embedding.weight[0])
        self.first_step = DecoderStep(model, 0)

    def forward(
        self, items: Tensor, lengths: Tensor, places: Tensor, own: Tensor, newest: Tensor
    ) -> tuple[Tensor, ...]:
        """Read histories.

        Args:
            items: vectors of the item encoder, float32 [S, V x D].
            lengths: items a history, int64 [B], at least 1.
            places: the items of each history, oldest first, int64 [B, T]; any on the right of a shorter one.
            own: where in ``places``, read flat, each item is, int64 [S].
            newest: the newest item of each history, int64 [B].

        Returns:
            context: what the decoder starts every level from [B, D];
            query: of the dense head at the newest item, all views side by side [B, V x D];
            logits of level 0 [B, level size];
            for each decoder layer the cross-attention's keys [B, T x H, D], with the query projection within, offsets
            of their product [B, T x H, 1], minus infinity on padding, and values [B, T x H, D], with the output
            projection within;
            for each decoder layer the key and value of the start of a code [B, D].
        """
        beside = _Beside(places, own)
        parts = items.split(items.shape[-1] // len(self.views), dim=-1)
        memory, *last = [view(x, lengths, beside, newest) for view, x in zip(self.views, parts, strict=True)]
        last = [memory.index_select(0, newest), *last]  # [B, D] each
        queries = [match.queries(part) for match, part in zip(self.dense.content_matches(), last, strict=False)]
        queries += last[len(queries) :]
        context = self.model_context(last[0])
        if self.other_context is not None:
            context = context + self.other_context(torch.cat(queries[1:], dim=-1))
        recency = self.recency.newest.index_select(0, lengths - 1)[:, : places.shape[1]]
        folded = [part for cross in self.crossed for part in cross(memory, recency, beside)]
        logits, *start = self.first_step(context + self.start.x, *folded)
        return context, self.dense.joined(queries), logits, *folded, *start


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
            output_offset=layer.cross_output.bias / heads,  # a head's shares sum to 1
        )
        self.heads = heads

    def forward(self, memory: Tensor, recency: Tensor, beside: _Beside) -> tuple[Tensor, Tensor, Tensor]:
        """Memory [S, D] and bias [B, T, H] -> keys [B, T*H, D], offsets [B, T*H, 1], values [B, T*H, D]."""
        both = torch.addmm(self.history_offset, memory, self.history)
        parts = both.unflatten(-1, (2, self.heads, -1)).permute(1, 2, 0, 3)  # [2, H, S, K]
        keys, values = parts[0], parts[1]
        offsets = (keys @ self.query_offset).transpose(0, 1)  # [S, H, 1]
        return (
            beside.rows((keys @ self.query).transpose(0, 1)).flatten(1, 2),
            (beside.rows(offsets) + recency.unsqueeze(-1)).flatten(1, 2),
            beside.rows((values @ self.output + self.output_offset).transpose(0, 1)).flatten(1, 2),
        )


class _StepLayer(_Weights):
    """A decoder layer for one position of a code, its predecessors' keys and values given."""

    def __init__(self, layer: DecoderLayer) -> None:
        width = layer.query_key_value.in_features
        matrix, offset = _after_norm(layer.self_norm, layer.query_key_value)
        matrices, offsets = matrix.split(width, dim=1), offset.split(width)
        scale = (width // layer.heads) ** -0.5
        by_head = torch.eye(layer.heads).repeat_interleave(width // layer.heads, dim=0).to(offset)
        super().__init__(
            query=matrices[0] * scale,
            query_offset=offsets[0] * scale,
            key=matrices[1].contiguous(),
            key_offset=offsets[1],
            value=matrices[2].contiguous(),
            value_offset=offsets[2],
            by_head=by_head,  # [D, H], sums within heads
            to_head=by_head.T.contiguous(),
            **_second_half(layer.self_output, layer),
        )
        self.heads = layer.heads

    def forward(
        self, x: Tensor, earlier: list[tuple[Tensor, Tensor]], cross: list[Tensor], beside: _Beside | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One token a beam.

        Args:
            x: [N, D].
            earlier: keys and values of each position before, each [N, D].
            cross: keys, offsets and values of :class:`_FoldedCross`.
            beside: the beams of each user; None for one a user.

        Returns:
            The layer's output, and the token's own key and value, each [N, D].
        """
        normed = _normalized(x)
        key = torch.addmm(self.key_offset, normed, self.key)
        value = torch.addmm(self.value_offset, normed, self.value)
        attended = value
        if earlier:
            query = torch.addmm(self.query_offset, normed, self.query)
            attended = self._attend(query, [*earlier, (key, value)])
        x = x + torch.addmm(self.output_offset, attended, self.output)
        normed = _normalized(x)
        if beside is None:
            x = x + self._cross(normed.unsqueeze(1), *cross).squeeze(1)
        else:
            x = x + beside.flat(self._cross(beside.rows(normed), *cross))
        hidden = F.gelu(torch.addmm(self.first_offset, _normalized(x), self.first))
        return x + torch.addmm(self.last_offset, hidden, self.last), key, value

    def _attend(self, query: Tensor, positions: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Attention [N, D] over positions, each a key and a value [N, D]."""
        products = [(query * key) @ self.by_head for key, _ in positions]
        shares = torch.stack(products, dim=-1).softmax(-1)  # [N, H, positions]
        parts = [(share @ self.to_head) * value for share, (_, value) in zip(shares.unbind(-1), positions, strict=True)]
        return sum(parts[1:], parts[0])

    def _cross(self, x: Tensor, keys: Tensor, offsets: Tensor, values: Tensor) -> Tensor:
        """Attention over the history for beams [B, W, D] -> [B, W, D]."""
        scores = (keys @ x.transpose(1, 2) + offsets).unflatten(1, (-1, self.heads))  # [B, T, H, W]
        weights = (scores - scores.amax(1, keepdim=True)).clamp(min=_NEGLIGIBLE).exp()
        shares = (weights / weights.sum(1, keepdim=True)).flatten(1, 2)
        return shares.transpose(1, 2) @ values


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
            x: sum of the vectors of each beam's newest token and prefix and the user's context, [N, D].
            rest: what :class:`HistoryEncoder` gave of the cross-attention for each layer; where there are positions
                before, the beams of each user, int64 [B, W], and where in it each beam is, int64 [N]; then for each of
                the positions, the start of a code first, the beam's ancestor there, int64 [N], and the keys and values
                that its step gave for each layer.

        Returns:
            Logits [N, level size], and for each layer the tokens' own keys and values [N, D].
        """
        layers = len(self.layers)
        cross, given = list(rest[: 3 * layers]), list(rest[3 * layers :])
        beside = _Beside(given.pop(0), given.pop(0)) if given else None
        size = 1 + 2 * layers
        positions = [_gathered(*given[first : first + size]) for first in range(0, len(given), size)]
        kept: list[Tensor] = []
        for number, layer in enumerate(self.layers):
            earlier = [at[number] for at in positions]
            x, key, value = layer(x, earlier, cross[3 * number : 3 * number + 3], beside)
            kept += [key, value]
        return torch.addmm(self.head.bias, _normalized(x), self.head.weight), *kept


def _gathered(ancestors: Tensor, *kept: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The keys and values of the beams' ancestors at one position, by layer."""
    rows = [part.index_select(0, ancestors) for part in kept]
    return list(zip(rows[::2], rows[1::2], strict=True))


def token_vectors(model: TigerModel) -> Tensor:
    """What the decoder adds for each row of ``token_embedding``, the level that reads it within, float32 [rows, D].

    The token of a level is read at the next one; the row that starts a code is read at level 0.
    """
    sizes = torch.tensor([1, *model.config.level_sizes], device=model.device)
    levels = torch.arange(len(sizes), device=model.device).repeat_interleave(sizes)
    return model.token_embedding.weight + model.level_embedding.weight[levels.clamp(max=len(sizes) - 2)]
