"""Learned item tables of a large catalogue: a training step changes the rows that it read, and no others.

Their gradients are sparse, and the optimiser keeps one number a row.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

_EPSILON = 1e-8


class RowwiseAdamW(torch.optim.AdamW):
    """AdamW whose parameters with a sparse gradient have no first moment, and one second moment a row.

    Source: the row-wise Adam of TorchRec (``PARTIAL_ROWWISE_ADAM`` of FBGEMM), without its first moment.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """A step of AdamW; it takes the sparse gradients away."""
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is not None and table.grad.is_sparse:
                    self._step_rows(table, table.grad.coalesce(), group)
                    table.grad = None
        return super().step(closure)

    def _step_rows(self, table: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        """Change the rows of ``table`` [n, D] that the coalesced ``gradient`` has."""
        if getattr(self, "found_inf", None):  # the scaler of fp16 sets it: this step is left out
            return
        rows, values = gradient.indices()[0], gradient.values()
        state = self.state[table]
        if not state:  # AdamW asks for a step where it loads a state
            state |= {"step": torch.zeros(()), "row_squares": torch.zeros(len(table), device=table.device)}
        squares = state["row_squares"]
        before, now = squares[rows], values.square().mean(1)
        squares[rows] = mean = torch.where(before > 0, torch.lerp(now, before, group["betas"][1]), now)
        step = values / (mean.sqrt() + _EPSILON).unsqueeze(1)
        table[rows] = (1 - group["lr"] * group["weight_decay"]) * table[rows] - group["lr"] * step


@torch.no_grad()
def clip_gradients(parameters: Iterable[nn.Parameter], most: float) -> None:
    """Scale all gradients down to the norm ``most`` as torch's ``clip_grad_norm_`` does, which takes no sparse ones."""
    gradients = []
    for parameter in parameters:
        if parameter.grad is not None:
            if parameter.grad.is_sparse:
                parameter.grad = parameter.grad.coalesce()
            gradients.append(parameter.grad.values() if parameter.grad.is_sparse else parameter.grad)
    share = (most / (nn.utils.get_total_norm(gradients) + 1e-6)).clamp(max=1)
    for gradient in gradients:
        gradient.mul_(share)
