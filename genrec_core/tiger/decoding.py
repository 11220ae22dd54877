"""A trained TIGER model in the form that decoding runs: one graph reads the histories, one graph a level scores tokens.

It computes what :class:`~genrec_core.tiger.model.TigerModel` computes, in few and large operators, because decoding
waits for memory and for operators to start, not for arithmetic:

- Every product with weights is a product of two matrices, which onnxruntime lays out once, when it opens the graph.
- The weights of a layer norm are multiplied into the linear layer behind it.
- The cross-attention's query projection is multiplied into a user's keys, and its output projection into the values,
  once a user. A beam then costs two products with matrices that are as narrow as the history is long.
- Self-attention over the few positions of a code is computed position by position, each one row gathered by ancestor.
- Items of all histories, and beams, are stored one behind the other, without padding. Only attention pads them.
- In the views that the decoder does not read, the last layer computes the newest item alone.

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

_NEGLIGIBLE = -60.0  # so far below the largest score, a share rounds to nothing; lower still, exp is ten times as slow


class _Weights(nn.Module):
    """Named tensors that a graph holds as constants."""

    def __init__(self, **tensors: Tensor) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor.detach().clone())

    def __getattr__(self, name: str) -> Tensor:  # of any module, with the type of what this one holds
        return cast(Tensor, super().__getattr__(name))


class _UserRows:
    """Converts between rows of all users one behind the other and rows padded to the most of one user."""

    def __init__(self, places: Tensor, own: Tensor) -> None:
        self.places = places  # the rows of each user, int64 [B, T]; any row where a user has fewer
        self.own = own  # where in ``places``, read flat, each row is, int64 [S]

    def padded(self, x: Tensor) -> Tensor:
        return x.index_select(0, self.places.flatten()).unflatten(0, self.places.shape)  # [S, ...] -> [B, T, ...]

    def flat(self, x: Tensor) -> Tensor:
        return x.flatten(0, 1).index_select(0, self.own)  # [B, T, ...] -> [S, ...]


def _normalized(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:])


def _after_norm(norm: nn.LayerNorm, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """``linear(norm(x))`` as a matrix [in, out] and an offset [out] that apply to :func:`_normalized` x."""
    return (weight * norm.weight).T.contiguous(), bias + weight @ norm.bias


def _after_attention(output: nn.Linear, layer: EncoderLayer | DecoderLayer) -> dict[str, Tensor]:
    """Weights of the attention's output projection and of the feed-forward block, for :func:`_feed_forward`."""
    first, last = cast(nn.Linear, layer.feed_forward[0]), cast(nn.Linear, layer.feed_forward[3])
    matrix, offset = _after_norm(layer.feed_forward_norm, first.weight, first.bias)
    return {
        "output": output.weight.T.contiguous(),
        "output_offset": output.bias,
        "first": matrix,
        "first_offset": offset,
        "last": last.weight.T.contiguous(),
        "last_offset": last.bias,
    }


def _feed_forward(weights: _Weights, x: Tensor) -> Tensor:
    """The feed-forward block with its residual, [N, D] -> [N, D]."""
    hidden = F.gelu(torch.addmm(weights.first_offset, _normalized(x), weights.first))
    return x + torch.addmm(weights.last_offset, hidden, weights.last)


class _HistoryLayer(_Weights):
    """One layer of a view's encoder."""

    def __init__(self, layer: EncoderLayer) -> None:
        linear = layer.query_key_value
        matrix, offset = _after_norm(layer.attention_norm, linear.weight, linear.bias)
        scale = torch.ones_like(offset)
        scale[: linear.in_features] = (linear.in_features // layer.heads) ** -0.5  # of the queries
        super().__init__(qkv=matrix * scale, qkv_offset=offset * scale, **_after_attention(layer.output, layer))
        self.heads = layer.heads

    def forward(self, x: Tensor, bias: Tensor, users: _UserRows, newest: Tensor | None) -> Tensor:
        """[S, D] with bias [H, T, T] -> [S, D]; with the newest items [B] and bias [B, H, 1, T] -> [B, D]."""
        qkv = torch.addmm(self.qkv_offset, _normalized(x), self.qkv)  # [S, 3D]
        query, key, value = self._by_head(users.padded(qkv))  # [B, H, T, K]
        if newest is not None:
            x = x.index_select(0, newest)
            query = self._by_head(qkv.index_select(0, newest).unsqueeze(1))[0]  # [B, H, 1, K]
        shares = (query @ key.transpose(-1, -2) + bias).softmax(-1)
        attended = (shares @ value).transpose(1, 2).flatten(2)  # [B, T or 1, D]
        attended = users.flat(attended) if newest is None else attended.squeeze(1)
        return _feed_forward(self, x + torch.addmm(self.output_offset, attended, self.output))

    def _by_head(self, qkv: Tensor) -> tuple[Tensor, ...]:
        """[B, T, 3D] -> three of [B, H, T, K]."""
        return qkv.unflatten(-1, (3 * self.heads, -1)).transpose(1, 2).split(self.heads, dim=1)


class _View(nn.Module):
    """A view's encoder with its attention bias for every pair of positions; ``scale`` multiplies the item vectors."""

    def __init__(self, encoder: CausalEncoder, max_history: int, scale: float, newest_only: bool) -> None:
        super().__init__()
        layers = cast("list[EncoderLayer]", list(encoder.layers))
        self.layers = nn.ModuleList(map(_HistoryLayer, layers))
        self.norm, self.scale, self.newest_only = encoder.norm, scale, newest_only
        positions = torch.arange(max_history, device=encoder.bias.table.device)
        bias = encoder.bias(positions, max_history).clamp(min=_NEGLIGIBLE)  # [H, max_history, max_history]
        self.bias = _Weights(pairs=bias, newest=bias.transpose(0, 1).unsqueeze(2))

    def forward(self, x: Tensor, lengths: Tensor, users: _UserRows, newest: Tensor) -> Tensor:
        """[S, D] -> [S, D], or [B, D] of the newest items alone."""
        time = users.places.shape[1]
        x = x * self.scale
        for number, layer in enumerate(self.layers, start=1):
            if self.newest_only and number == len(self.layers):
                x = layer(x, self.bias.newest.index_select(0, lengths - 1)[..., :time], users, newest)
            else:
                x = layer(x, self.bias.pairs[:, :time, :time], users, None)
        return self.norm(x)


class HistoryEncoder(nn.Module):
    """What decoding needs of a user, computed once: cross-attention, context, the dense head's query, and level 0."""

    def __init__(self, model: TigerModel) -> None:
        super().__init__()
        config, head = model.config, model.dense
        encoders = cast("list[CausalEncoder]", [model.encoder, *head.content_encoders, *head.id_encoders])
        scales = [1.0] * config.content_views + [config.d_model**0.5] * config.id_views
        self.views = nn.ModuleList(  # the decoder reads the first view's output for all items
            _View(encoder, config.max_history, scale, newest_only=number > 0)
            for number, (encoder, scale) in enumerate(zip(encoders, scales, strict=True))
        )
        positions = torch.arange(config.max_history, device=model.device)
        recency = model.cross_bias(positions, config.max_history)  # [H, max_history, max_history]
        self.recency = _Weights(newest=recency.permute(1, 2, 0))
        self.model_context, self.other_context, self.dense = model.context, model.other_context, head
        self.crossed = nn.ModuleList(_FoldedCross(layer) for layer in cast("list[DecoderLayer]", list(model.decoder)))
        self.start = _Weights(x=token_vectors(model)[0] + model.prefix_embedding.weight[0])
        self.first_step = DecoderStep(model, 0)

    def forward(
        self, items: Tensor, lengths: Tensor, places: Tensor, own: Tensor, newest: Tensor
    ) -> tuple[Tensor, ...]:
        """Read histories: vectors of the item encoder, float32 [S, V x D], and where each user's items are.

        Args:
            lengths: items a history, int64 [B], at least 1.
            places, own: the items of each history, oldest first, as in :class:`_UserRows`.
            newest: the newest item of each history, int64 [B].

        Returns:
            context: what the decoder starts every level from [B, D];
            query: of the dense head at the newest item, all views side by side [B, V x D];
            logits of level 0 [B, level size];
            for each decoder layer the three results of :class:`_FoldedCross`;
            for each decoder layer the key and value of the start of a code [B, D].
        """
        users = _UserRows(places, own)
        parts = items.split(items.shape[-1] // len(self.views), dim=-1)
        memory, *others = [view(x, lengths, users, newest) for view, x in zip(self.views, parts, strict=True)]
        last = [memory.index_select(0, newest), *others]  # [B, D] each
        queries = self.dense.content_queries(last)
        queries += last[len(queries) :]
        context = self.model_context(last[0])
        if self.other_context is not None:
            context = context + self.other_context(torch.cat(queries[1:], dim=-1))
        recency = self.recency.newest.index_select(0, lengths - 1)[:, : places.shape[1]]  # [B, T, H]
        crossed = [part for cross in self.crossed for part in cross(memory, recency, users)]
        logits, *start = self.first_step(context + self.start.x, *crossed)
        return context, self.dense.joined(queries), logits, *crossed, *start


class _FoldedCross(_Weights):
    """A decoder layer's cross-attention keys and values, with the projections around them multiplied in."""

    def __init__(self, layer: DecoderLayer) -> None:
        heads, width = layer.heads, layer.cross_query.in_features
        query, offset = _after_norm(layer.cross_norm, layer.cross_query.weight, layer.cross_query.bias)
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

    def forward(self, memory: Tensor, recency: Tensor, users: _UserRows) -> tuple[Tensor, Tensor, Tensor]:
        """Memory [S, D] and bias [B, T, H], minus infinity on padding, to keys [B, T*H, D] and values [B, T*H, D].

        Between them stand the offsets of a beam's product with the keys, [B, T*H, 1].
        """
        both = torch.addmm(self.history_offset, memory, self.history)
        parts = both.unflatten(-1, (2, self.heads, -1)).permute(1, 2, 0, 3)  # [2, H, S, K]
        keys, values = parts[0], parts[1]
        offsets = (keys @ self.query_offset).transpose(0, 1)  # [S, H, 1]
        return (
            users.padded((keys @ self.query).transpose(0, 1)).flatten(1, 2),
            (users.padded(offsets) + recency.unsqueeze(-1)).flatten(1, 2),
            users.padded((values @ self.output + self.output_offset).transpose(0, 1)).flatten(1, 2),
        )


class _StepLayer(_Weights):
    """A decoder layer for one position of a code; keys and values of the positions before are given."""

    def __init__(self, layer: DecoderLayer) -> None:
        linear, width = layer.query_key_value, layer.query_key_value.in_features
        matrix, offset = _after_norm(layer.self_norm, linear.weight, linear.bias)
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
            **_after_attention(layer.self_output, layer),
        )
        self.heads = layer.heads

    def forward(
        self, x: Tensor, earlier: list[tuple[Tensor, Tensor]], cross: list[Tensor], users: _UserRows | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One token a beam: its output, key and value, each [N, D].

        ``earlier`` are keys and values of each position before, each [N, D]; ``cross`` the results of
        :class:`_FoldedCross`; ``users`` the beams of each user, or None for one a user.
        """
        normed = _normalized(x)
        key = torch.addmm(self.key_offset, normed, self.key)
        value = torch.addmm(self.value_offset, normed, self.value)
        attended = value  # the first position attends to itself alone
        if earlier:
            query = torch.addmm(self.query_offset, normed, self.query)
            attended = self._attend(query, [*earlier, (key, value)])
        x = x + torch.addmm(self.output_offset, attended, self.output)
        normed = _normalized(x)
        if users is None:
            x = x + self._cross(normed.unsqueeze(1), *cross).squeeze(1)
        else:
            x = x + users.flat(self._cross(users.padded(normed), *cross))
        return _feed_forward(self, x), key, value

    def _attend(self, query: Tensor, positions: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Attention [N, D] over positions, each a key and a value [N, D]."""
        products = [(query * key) @ self.by_head for key, _ in positions]
        shares = torch.stack(products, dim=-1).softmax(-1)  # [N, H, positions]
        parts = [(share @ self.to_head) * value for share, (_, value) in zip(shares.unbind(-1), positions, strict=True)]
        return sum(parts[1:], parts[0])

    def _cross(self, x: Tensor, keys: Tensor, offsets: Tensor, values: Tensor) -> Tensor:
        """Attention over the history for beams [B, W, D] -> [B, W, D]."""
        # [B, T, H, W]: the beams are the last axis, so that the softmax runs over long rows.
        scores = (keys @ x.transpose(1, 2) + offsets).unflatten(1, (-1, self.heads))
        weights = (scores - scores.amax(1, keepdim=True)).clamp(min=_NEGLIGIBLE).exp()
        shares = (weights / weights.sum(1, keepdim=True)).flatten(1, 2)  # [B, T*H, W]
        return shares.transpose(1, 2) @ values


class DecoderStep(nn.Module):
    """Scores one level's tokens for every beam; level 0 is part of :class:`HistoryEncoder`."""

    def __init__(self, model: TigerModel, level: int) -> None:
        super().__init__()
        size = model.config.level_sizes[level]
        self.layers = nn.ModuleList(_StepLayer(layer) for layer in cast("list[DecoderLayer]", list(model.decoder)))
        weight, bias = _after_norm(model.decoder_norm, model.head_weight[level, :size], model.head_bias[level, :size])
        self.head = _Weights(weight=weight, bias=bias)

    def forward(self, x: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Logits [N, level size], and for each layer the tokens' own keys and values [N, D].

        Args:
            x: sum of the vectors of each beam's newest token and prefix and the user's context, [N, D].
            inputs: for each layer the three results of :class:`_FoldedCross`. At level 0 that is all. Then ``places``
                and ``own`` of the beams, as in :class:`_UserRows`. Then for each position before, the start of a code
                first: the ancestor of each beam there, int64 [N], and for each layer the key and value of its step.
        """
        layers = len(self.layers)
        cross, rest = inputs[: 3 * layers], list(inputs[3 * layers :])
        users = _UserRows(rest.pop(0), rest.pop(0)) if rest else None
        size = 1 + 2 * layers  # tensors of a position
        positions = []
        for first in range(0, len(rest), size):
            ancestors, *parts = rest[first : first + size]
            rows = [part.index_select(0, ancestors) for part in parts]
            positions.append(list(zip(rows[::2], rows[1::2], strict=True)))  # key and value by layer
        own: list[Tensor] = []
        for number, layer in enumerate(self.layers):
            earlier = [keys_values[number] for keys_values in positions]
            x, key, value = layer(x, earlier, cross[3 * number : 3 * number + 3], users)
            own += [key, value]
        return torch.addmm(self.head.bias, _normalized(x), self.head.weight), *own


def token_vectors(model: TigerModel) -> Tensor:
    """Rows of ``token_embedding`` plus the vector of the level that reads them, float32 [rows, D]."""
    sizes = torch.tensor([1, *model.config.level_sizes], device=model.device)
    levels = torch.arange(len(sizes), device=model.device).repeat_interleave(sizes)  # a token is read at the next level
    return model.token_embedding.weight + model.level_embedding.weight[levels.clamp(max=len(sizes) - 2)]
