"""What a TIGER model is trained for: the next item's code, level by level, and the next item as a whole."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genrec_core.search.trie import CodeTrie
from genrec_core.settings import TrainingSettings
from genrec_core.tiger.model import TigerModel

CPU_PIECE = 128  # rows of logits at a time: 6 MB for 12,101 items
GPU_PIECE = 4096  # a GPU wants few large pieces

OnProbabilities = Callable[[slice, Tensor], None]


class NextItemLoss(nn.Module):
    """Cross-entropy of the next item's code, summed over levels, plus that of the next item by the dense head."""

    def __init__(
        self,
        model: TigerModel,
        codes: Tensor,  # semantic IDs with suffix by catalogue row, int64 [n_items, L]
        vectors: Tensor,  # text vectors by catalogue row, float32 [n_items, dim]
        frequency: Tensor,  # share of all training targets by catalogue row, float32 [n_items]
        trie: CodeTrie,
        settings: TrainingSettings,
    ) -> None:
        super().__init__()
        self.model, self.settings = model, settings
        self.codes, self.vectors, self.frequency = codes, vectors, frequency
        self.leaf_rows = torch.from_numpy(trie.leaf_row.astype(np.int64)).to(codes.device)  # rows in the trie's order
        self.row_leaves = torch.from_numpy(trie.row_leaf.astype(np.int64)).to(codes.device)
        # No step touches all items of a large catalogue. Distilling from the sample made recall 4 to 10 % worse.
        self.large = len(codes) > settings.dense_full_items
        self.subtrees = SubtreeShares(trie, codes.device) if settings.distillation and not self.large else None

    def forward(self, history: Tensor, targets: Tensor, following: Tensor, distillation: float) -> Tensor:
        """The loss summed over targets.

        Args:
            history: catalogue rows int64 [B, T].
            targets: row of the item to predict at each position, int64 [B, T], -1 on padding.
            following: row of the very next item, int64 [B, T], -1 on padding. The identity views always learn it: then
                the errors of the views differ, and their mean is better than each.
            distillation: share of the level losses' targets that follows the dense head, from 0 to 1.
        """
        inside = targets >= 0
        rows = targets[inside]  # [N]
        items = self.model.item_encoder(history, self.codes[history], self.vectors[history])
        memory = self.model.encode(items)  # [B, T, D]
        codes = self.codes[targets.clamp(min=0)]  # [B, T, L]
        queries = self.model.dense.queries(memory, items)
        soft: list[Tensor] | None = None
        fill: OnProbabilities | None = None
        loss = memory.new_zeros((), dtype=torch.float32)
        if self.settings.dense_weight:
            if distillation and self.subtrees is not None:
                soft = self.subtrees.zeros(len(rows))
                fill = partial(self.subtrees.fill, soft, rows)
            config = self.model.config
            rows_by_view = [rows] * config.content_views + [following[inside]] * config.id_views
            dense_loss = self._dense_loss([view[inside] for view in queries], rows_by_view, fill)
            loss = loss + self.settings.dense_weight * dense_loss
        for level, logits in enumerate(self.model.decode(memory, queries, codes)):
            shares = soft[level] if soft else None
            loss = loss + self._level_loss(logits[inside].float(), codes[..., level][inside], shares, distillation)
        return loss

    def _level_loss(self, logits: Tensor, targets: Tensor, soft: Tensor | None, share: float) -> Tensor:
        """Cross-entropy of one level [N, level size], its targets mixed with soft ones of the same shape, if any."""
        hard = F.cross_entropy(logits, targets, label_smoothing=self.settings.label_smoothing, reduction="sum")
        if soft is None:
            return hard
        return (1 - share) * hard - share * (soft * logits.log_softmax(-1)).sum()

    def _dense_loss(self, queries: list[Tensor], targets: list[Tensor], fill: OnProbabilities | None) -> Tensor:
        """Cross-entropy of items over the catalogue, or over a sample of a large one, summed over targets and views.

        Each view has queries [N, D] and catalogue rows to predict, int64 [N]. ``fill`` receives the dense head's
        probabilities of all items, in the trie's order; never those of a large catalogue.
        """
        if self.large:
            return self._sampled_loss(queries, targets)
        smoothing, temperature = self.settings.dense_label_smoothing, self.settings.distillation_temperature
        leaves = [self.row_leaves[rows] for rows in targets]
        return catalogue_cross_entropy(queries, self._keys(self.leaf_rows), leaves, smoothing, fill, temperature)

    def _sampled_loss(self, queries: list[Tensor], targets: list[Tensor]) -> Tensor:
        """Cross-entropy over the batch's own targets and items drawn evenly, as :meth:`_dense_loss` takes them."""
        candidates, places, log_inclusion = self._candidates(torch.cat(targets))
        losses = []
        for query, key, place in zip(queries, self._keys(candidates), places.chunk(len(targets)), strict=True):
            logits = (query @ key.T).float()  # [N, C]
            own = logits.gather(1, place.unsqueeze(1))
            logits = (logits - log_inclusion).scatter(1, place.unsqueeze(1), own)  # a target itself is always included
            losses.append(F.cross_entropy(logits, place, reduction="sum"))
        return torch.stack(losses).sum()

    def _candidates(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The targets ``rows`` int64 [N] and items drawn evenly, once each, as rows int64 [C].

        Also the place of each target among them, int64 [N], and the log of the probability that each is among them,
        float32 [C]. Taken off the logits, this log makes the sum over candidates an unbiased one over the catalogue:
        else popular items, which are often targets of a batch, would be held back.

        Source: the logQ correction of Yi et al. 2019, "Sampling-Bias-Corrected Neural Modeling".
        """
        n_items, drawn = len(self.codes), self.settings.dense_negatives
        uniform = torch.randint(0, n_items, (drawn,), device=rows.device)
        candidates, places = torch.unique(torch.cat([rows, uniform]), return_inverse=True)
        not_drawn = drawn * math.log1p(-1 / n_items) if n_items > 1 else -math.inf
        no_target = len(rows) * torch.log1p(-self.frequency[candidates].clamp(max=0.999))
        return candidates, places[: len(rows)], torch.log(-torch.expm1(not_drawn + no_target))

    def _keys(self, rows: Tensor) -> list[Tensor]:
        """Each view's keys [N, D] of the items at catalogue rows [N]."""
        return self.model.dense.keys(self.model.item_encoder.views(rows, self.codes[rows], self.vectors[rows]))


class SubtreeShares:
    """Turns probabilities of items into those of the tokens of each level, below the prefix of a target.

    In the trie's order the items below a token are contiguous, so their sum is the difference of two running sums.
    """

    def __init__(self, trie: CodeTrie, device: torch.device) -> None:
        self.level_sizes, self.device = trie.level_sizes, device
        self.tables = [
            [torch.from_numpy(table.astype(np.int64)).to(device) for table in _children(trie, level)]
            for level in range(trie.depth)
        ]

    def zeros(self, targets: int) -> list[Tensor]:
        """Empty shares of each level's tokens, float32 [targets, level size]."""
        return [torch.zeros(targets, size, device=self.device) for size in self.level_sizes]

    def fill(self, shares: list[Tensor], rows: Tensor, piece: slice, probabilities: Tensor) -> None:
        """Fill the lines ``piece`` of ``shares`` for the targets ``rows``, so that each line of each level sums to 1.

        The ``probabilities`` are those of all items, in the trie's order, float32 [piece, n_items].
        """
        for level, ((nodes, leaves, ends, tokens), level_shares) in enumerate(zip(self.tables, shares, strict=True)):
            node = nodes[rows[piece]]
            below = probabilities if level == 0 else probabilities.gather(1, leaves[node])
            mass = below.cumsum(1).gather(1, ends[node])  # running sums up to each child's last leaf
            mass[:, 1:] -= mass[:, :-1].clone()
            level_shares[piece].scatter_add_(1, tokens[node], mass)
            level_shares[piece] /= level_shares[piece].sum(1, keepdim=True).clamp(min=torch.finfo(mass.dtype).tiny)


def _children(trie: CodeTrie, depth: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """What is below each node of ``depth``, one line a node; a short line repeats its last entry.

    The node of each row [n_items]; the leaves below a node [nodes, most leaves]; where among these the last leaf of
    each child is [nodes, most children]; the children's tokens [nodes, most children].
    """
    starts, children = trie.first_leaf[depth], trie.child_start[depth]
    child = _ranges(children)
    ends = trie.first_leaf[depth + 1][child + 1] - 1 - starts[:-1, None]
    node = np.repeat(np.arange(trie.nodes(depth)), np.diff(starts))[trie.row_leaf]
    return node, _ranges(starts), ends, trie.tokens[depth][child]


def _ranges(starts: np.ndarray) -> np.ndarray:
    """Line i counts from ``starts[i]`` to before ``starts[i + 1]`` and then repeats its last."""
    steps = np.arange(np.diff(starts).max())
    return np.asarray(np.minimum(starts[:-1, None] + steps, starts[1:, None] - 1))


def catalogue_cross_entropy(
    queries: list[Tensor],
    keys: list[Tensor],
    targets: list[Tensor],
    smoothing: float = 0.0,
    on_probabilities: OnProbabilities | None = None,
    temperature: float = 1.0,
) -> Tensor:
    """Cross-entropy of the targets among all items, summed over targets and over views, in float32.

    A batch's logits are by far the largest array of a training step (1,024 targets x 12,101 items: 50 MB). Here a piece
    of it is made, turned into the loss and into the gradients of queries and keys, and forgotten, so that it stays in
    the processor's cache.

    Source: Wijmans et al. 2024, "Cut Your Losses in Large-Vocabulary Language Models", and Hsu et al. 2024, "Liger
    Kernel", which do the same on a GPU.

    Args:
        queries: of each view, [N, D].
        keys: of each view, [n_items, D]; a query's product with a key is a logit.
        targets: of each view, the row of each query's target among the keys, int64 [N].
        smoothing: share of a target's probability that is spread over the catalogue.
        on_probabilities: called with a slice of the N queries and the probabilities of all items for them, float32
            [slice, n_items], by the views' mean logit over ``temperature``; no gradient flows there.
    """
    views = [view.float() for view in (*queries, *keys)]
    rows = torch.stack(targets)
    with torch.autocast(rows.device.type, enabled=False):
        loss: Tensor = _CatalogueCrossEntropy.apply(rows, smoothing, on_probabilities, temperature, *views)
    return loss


def pieces(lines: int, device: torch.device) -> list[slice]:
    """The slices of ``lines`` lines of logits that are computed one after the other."""
    size = CPU_PIECE if device.type == "cpu" else GPU_PIECE
    return [slice(start, min(start + size, lines)) for start in range(0, lines, size)]


class _CatalogueCrossEntropy(torch.autograd.Function):
    """Makes the gradients on the way forward; backward scales them."""

    @staticmethod
    def forward(
        ctx: Any,
        targets: Tensor,
        smoothing: float,
        on_probabilities: OnProbabilities | None,
        temperature: float,
        *views: Tensor,
    ) -> Tensor:
        queries, keys = views[: len(views) // 2], views[len(views) // 2 :]
        loss = torch.zeros((), dtype=torch.float32, device=targets.device)
        query_gradients = [torch.empty_like(query) for query in queries]
        key_gradients = [torch.zeros_like(key) for key in keys]
        for piece in pieces(targets.shape[1], targets.device):
            logits = [query[piece] @ key.T for query, key in zip(queries, keys, strict=True)]  # [piece, n_items] each
            if on_probabilities is not None:
                mean = torch.zeros_like(logits[0])
                for view in logits:
                    mean.add_(view, alpha=1 / (len(logits) * temperature))
                _softmax(mean)
                on_probabilities(piece, mean)
            for number, gradient in enumerate(logits):  # turned in place into probabilities, then into the gradient
                target = targets[number, piece].unsqueeze(1)
                own = gradient.gather(1, target).sum()
                spread = gradient.mean(1).sum() if smoothing else 0.0
                loss += _softmax(gradient).sum() - (1 - smoothing) * own - smoothing * spread
                gradient.scatter_add_(1, target, gradient.new_full((len(gradient), 1), smoothing - 1))
                torch.mm(gradient, keys[number], out=query_gradients[number][piece])
                key_gradients[number].addmm_(gradient.T, queries[number][piece])
        if smoothing:  # the same for every logit, so it needs no pass over them
            for number, (query, key) in enumerate(zip(queries, keys, strict=True)):
                query_gradients[number] -= smoothing * key.mean(0)
                key_gradients[number] -= smoothing / len(key) * query.sum(0)
        ctx.save_for_backward(*query_gradients, *key_gradients)
        return loss

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, None, None, *(gradient * outputs[0] for gradient in ctx.saved_tensors)


def _softmax(logits: Tensor) -> Tensor:
    """Turn logits [N, n_items] into probabilities in place; return each line's log of the sum of exponentials."""
    largest = logits.amax(1, keepdim=True)
    total = logits.sub_(largest).exp_().sum(1, keepdim=True)
    logits.div_(total)
    return total.log_().add_(largest)
