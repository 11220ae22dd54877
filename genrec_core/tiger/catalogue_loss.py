"""Cross-entropy over a whole catalogue, piece by piece, so that the logits stay in the processor's cache.

A batch's logits are by far the largest array of a training step (1,024 targets x 12,101 items: 50 MB), and the plain
way writes and reads it a dozen times. Here a piece of it is made, turned into the loss and into the gradients of
queries and keys, and forgotten.

Source: Wijmans et al. 2024, "Cut Your Losses in Large-Vocabulary Language Models", and Hsu et al. 2024, "Liger Kernel",
which do the same on a GPU.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

CPU_PIECE = 128  # rows of logits at a time: 6 MB for 12,101 items
GPU_PIECE = 4096  # a GPU wants few large pieces

OnProbabilities = Callable[[slice, Tensor], None]


def catalogue_cross_entropy(
    queries: list[Tensor],
    keys: list[Tensor],
    targets: list[Tensor],
    smoothing: float = 0.0,
    on_probabilities: OnProbabilities | None = None,
    temperature: float = 1.0,
) -> Tensor:
    """Cross-entropy of the targets among all items, summed over targets and over views, in float32.

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
    """Turn logits [N, n_items] into probabilities, in place; the log of each line's sum of exponentials [N, 1]."""
    largest = logits.amax(1, keepdim=True)
    total = logits.sub_(largest).exp_().sum(1, keepdim=True)
    logits.div_(total)
    return total.log_().add_(largest)
