"""What a TIGER model is trained for: the next item's code, level by level, and the next item as a whole."""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genrec_core.settings import TrainingSettings
from genrec_core.tiger.model import TigerModel
from genrec_core.tiger.trie import CodeTrie


@dataclass(frozen=True)
class ItemTables:
    """What training reads of every item, by catalogue row, on the training's device.

    Args:
        codes: semantic IDs with suffix, int64 [n_items, L].
        vectors: text vectors, float32 [n_items, dim].
        frequency: share of all training targets, float32 [n_items].
    """

    codes: Tensor
    vectors: Tensor
    frequency: Tensor


class NextItemLoss(nn.Module):
    """Cross-entropy of the next item's code, summed over levels, plus that of the next item by the dense head.

    Args:
        model: the model to train.
        items: the catalogue.
        trie: its codes, for the soft targets of ``distillation``.
        settings: label smoothing, weights, and how many items the dense head is compared with.
    """

    def __init__(self, model: TigerModel, items: ItemTables, trie: CodeTrie, settings: TrainingSettings) -> None:
        super().__init__()
        self.model, self.items, self.settings = model, items, settings
        self.subtrees = SubtreeShares(trie, items.codes.device) if settings.distillation else None

    def forward(self, history: Tensor, targets: Tensor, distillation: float) -> Tensor:
        """The loss summed over targets.

        Args:
            history: catalogue rows int64 [B, T].
            targets: row of the item to predict at each position, int64 [B, T], -1 on padding.
            distillation: share of the level losses' targets that follows the dense head, in 0..1.
        """
        inside = targets >= 0
        rows = targets[inside]  # [N]
        items = self.model.item_encoder(history, self.items.codes[history], self.items.vectors[history])
        memory = self.model.encode(items)
        codes = self.items.codes[targets.clamp(min=0)]
        soft, loss = None, memory.new_zeros((), dtype=torch.float32)
        if self.settings.dense_weight:
            queries = [query[inside] for query in self.model.dense.queries(memory, items)]
            dense, scores = self._dense_loss(queries, rows)
            loss = loss + self.settings.dense_weight * dense
            if distillation and self.subtrees is not None:
                with torch.no_grad():
                    scores = self._all_scores(queries) if scores is None else scores
                    soft = self.subtrees(torch.stack(scores).mean(0).softmax(-1), rows)
        for level, logits in enumerate(self.model.decode(memory, codes)):
            loss = loss + self._level_loss(
                logits[inside].float(), codes[..., level][inside], soft[level] if soft else None, distillation
            )
        return loss

    def _level_loss(self, logits: Tensor, targets: Tensor, soft: Tensor | None, share: float) -> Tensor:
        """Cross-entropy of one level, its targets mixed with soft ones [N, level size] where there are any."""
        smoothing = self.settings.label_smoothing
        hard = F.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="sum")
        if soft is None:
            return hard
        return (1 - share) * hard - share * (soft * logits.log_softmax(-1)).sum()

    def _dense_loss(self, queries: list[Tensor], rows: Tensor) -> tuple[Tensor, list[Tensor] | None]:
        """Cross-entropy of items over the catalogue, or over a sample of it where it is large.

        Args:
            queries: of each view of the dense head [N, D].
            rows: the items to predict, int64 [N].

        Returns:
            The loss summed over targets and views; each view's logits of all items [N, n_items], None where only a
            sample was scored.
        """
        smoothing = self.settings.dense_label_smoothing
        if len(self.items.codes) <= self.settings.dense_full_items:
            every = self._all_scores(queries)
            losses = [F.cross_entropy(logits, rows, label_smoothing=smoothing, reduction="sum") for logits in every]
            return torch.stack(losses).sum(), every
        candidates, place, log_inclusion = self._candidates(rows)
        losses = []
        for query, key in zip(queries, self._keys(candidates), strict=True):
            logits = (query @ key.T).float()
            own = logits.gather(1, place.unsqueeze(1))
            logits = (logits - log_inclusion).scatter(1, place.unsqueeze(1), own)  # a target itself is always included
            losses.append(F.cross_entropy(logits, place, reduction="sum"))
        return torch.stack(losses).sum(), None

    def _candidates(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A batch's own targets and items drawn evenly, once each.

        Returns:
            Rows int64 [C]; place of each target among them, int64 [N]; log of the probability that each is among them,
            float32 [C]. Taken off the logits it makes the sum over candidates an unbiased one over the catalogue, so
            that popular items, which are often targets of a batch, are not held back.

        Source: the logQ correction of Yi et al. 2019, "Sampling-Bias-Corrected Neural Modeling".
        """
        n_items, drawn = len(self.items.codes), self.settings.dense_negatives
        uniform = torch.randint(0, n_items, (drawn,), device=rows.device)
        candidates, places = torch.unique(torch.cat([rows, uniform]), return_inverse=True)
        not_drawn = drawn * math.log1p(-1 / n_items) if n_items > 1 else -math.inf
        no_target = len(rows) * torch.log1p(-self.items.frequency[candidates].clamp(max=0.999))
        return candidates, places[: len(rows)], torch.log(-torch.expm1(not_drawn + no_target))

    def _keys(self, rows: Tensor) -> list[Tensor]:
        """Keys of each view of the dense head [..., D]."""
        items = self.model.item_encoder(rows, self.items.codes[rows], self.items.vectors[rows])
        return self.model.dense.keys(items)

    def _all_scores(self, queries: list[Tensor]) -> list[Tensor]:
        """Each view's logits of all items, float32 [N, n_items]."""
        keys = self._keys(torch.arange(len(self.items.codes), device=queries[0].device))
        return [(query @ key.T).float() for query, key in zip(queries, keys, strict=True)]


class SubtreeShares:
    """Turns probabilities of items into those of the tokens of each level, below the prefix of a target.

    The probability of a token is the sum over the items below it, among those below the prefix.

    Args:
        trie: the catalogue.
        device: where the probabilities are.
    """

    def __init__(self, trie: CodeTrie, device: torch.device) -> None:
        self.level_sizes = trie.level_sizes
        self.below, self.tokens, self.node = [], [], []
        for level in range(trie.depth):
            below, tokens, node = _leaves_below(trie, level)
            self.below.append(torch.from_numpy(below).to(device))
            self.tokens.append(torch.from_numpy(tokens).to(device))
            self.node.append(torch.from_numpy(node).to(device))

    def __call__(self, probabilities: Tensor, rows: Tensor) -> list[Tensor]:
        """Shares of each level's tokens [N, level size]; one line sums to 1.

        Args:
            probabilities: of every item, float32 [N, n_items] by catalogue row.
            rows: the targets whose prefixes count, int64 [N].
        """
        shares = []
        for level, size in enumerate(self.level_sizes):
            node = self.node[level][rows]
            if level == 0:
                below, tokens = self.below[0], self.tokens[0].expand(len(rows), -1)
                found = probabilities[:, below[0]]
            else:
                below, tokens = self.below[level][node], self.tokens[level][node]
                found = probabilities.gather(1, below.clamp(min=0)).masked_fill(below < 0, 0.0)
            mass = probabilities.new_zeros(len(rows), size).scatter_add_(1, tokens, found)
            shares.append(mass / mass.sum(1, keepdim=True).clamp(min=torch.finfo(mass.dtype).tiny))
        return shares


def _leaves_below(trie: CodeTrie, depth: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What is below each node of ``depth``.

    Returns:
        Rows and their next tokens, int64 [nodes, most leaves], padded with -1 and 0; the node of each row, int64
        [n_items].
    """
    starts, children = trie.first_leaf[depth], trie.first_leaf[depth + 1]
    counts = np.diff(starts)
    leaf = starts[:-1, None] + np.arange(counts.max())
    inside = np.arange(counts.max()) < counts[:, None]
    leaf = np.where(inside, leaf, 0)
    child = np.searchsorted(children, leaf, side="right") - 1
    rows = np.where(inside, trie.leaf_row[leaf], -1).astype(np.int64)
    tokens = np.where(inside, trie.tokens[depth][child], 0).astype(np.int64)
    node = np.empty(trie.n_items, dtype=np.int64)
    node[trie.leaf_row] = np.repeat(np.arange(len(counts)), counts)
    return rows, tokens, node
