"""The optimiser of learned item tables changes the rows that have a gradient, and no others."""

import pytest
import torch
from torch import nn

from genrec_core.tiger.item_rows import RowwiseAdamW, clip_gradients


def gradients(sparse: bool) -> list[nn.Parameter]:
    """A table and a matrix with gradients; two lookups of the table are of one row."""
    torch.manual_seed(0)
    table, matrix = nn.Embedding(6, 4, sparse=sparse), nn.Linear(4, 3)
    matrix(table(torch.tensor([1, 4, 1]))).square().sum().backward()
    return [*table.parameters(), *matrix.parameters()]


@pytest.mark.parametrize("most", [0.1, 100.0])
def test_sparse_gradients_are_clipped_as_dense_ones(most: float) -> None:
    dense, sparse = gradients(sparse=False), gradients(sparse=True)
    nn.utils.clip_grad_norm_(dense, most)
    clip_gradients(sparse, most)
    for one, other in zip(dense, sparse, strict=True):
        torch.testing.assert_close(one.grad, other.grad.to_dense() if other.grad.is_sparse else other.grad)


def test_dense_gradients_are_clipped_to_the_bit_as_torch_does() -> None:
    one, other = gradients(sparse=False), gradients(sparse=False)
    nn.utils.clip_grad_norm_(one, 0.1)
    clip_gradients(other, 0.1)
    assert all(torch.equal(first.grad, second.grad) for first, second in zip(one, other, strict=True))


def test_rows_without_a_gradient_stay_and_the_others_step_by_the_learning_rate() -> None:
    parameters = gradients(sparse=True)
    table, before = parameters[0], parameters[0].detach().clone()
    optimizer = RowwiseAdamW(parameters, lr=0.1, weight_decay=0.0)
    optimizer.step()
    moved = (table.detach() - before).square().mean(1).sqrt()
    torch.testing.assert_close(moved, 0.1 * torch.tensor([0.0, 1.0, 0.0, 0.0, 1.0, 0.0]))
    assert optimizer.state[table]["row_squares"].shape == (6,)


def test_other_parameters_step_as_by_adamw() -> None:
    one, other = gradients(sparse=False), gradients(sparse=False)
    torch.optim.AdamW(one, lr=0.1).step()
    RowwiseAdamW(other, lr=0.1).step()
    assert all(torch.equal(first, second) for first, second in zip(one, other, strict=True))
