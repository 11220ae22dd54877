"""The piecewise cross-entropy against torch's own, in value, gradient and what it tells its listener."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from genrec_core.tiger import losses
from genrec_core.tiger.losses import catalogue_cross_entropy


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("views", [1, 2])
def test_values_and_gradients_are_those_of_the_plain_cross_entropy(monkeypatch, smoothing, views):
    monkeypatch.setattr(losses, "CPU_PIECE", 4)
    random = torch.Generator().manual_seed(0)
    queries = [torch.randn(10, 5, generator=random, requires_grad=True) for _ in range(views)]
    keys = [torch.randn(7, 5, generator=random, requires_grad=True) for _ in range(views)]
    targets = [torch.randint(0, 7, (10,), generator=random) for _ in range(views)]
    logits = [query @ key.T for query, key in zip(queries, keys, strict=True)]
    plain = sum(
        cross_entropy(view, wanted, label_smoothing=smoothing, reduction="sum")
        for view, wanted in zip(logits, targets, strict=True)
    )
    wanted = torch.autograd.grad(3 * plain, [*queries, *keys])

    probabilities = torch.zeros(10, 7)
    loss = catalogue_cross_entropy(queries, keys, targets, smoothing, probabilities.__setitem__)
    torch.testing.assert_close(loss, plain)
    for gradient, expected in zip(torch.autograd.grad(3 * loss, [*queries, *keys]), wanted, strict=True):
        torch.testing.assert_close(gradient, expected)
    torch.testing.assert_close(probabilities, (sum(logits) / views).softmax(-1).detach())


@pytest.mark.parametrize("views", [1, 2, 3])
def test_a_temperature_changes_what_the_listener_hears_and_nothing_else(views):
    random = torch.Generator().manual_seed(0)
    queries = [torch.randn(10, 5, generator=random) for _ in range(views)]
    keys = [torch.randn(7, 5, generator=random) for _ in range(views)]
    targets = [torch.randint(0, 7, (10,), generator=random)] * views
    probabilities = torch.zeros(10, 7)
    loss = catalogue_cross_entropy(queries, keys, targets, 0.1, probabilities.__setitem__, temperature=0.5)
    torch.testing.assert_close(loss, catalogue_cross_entropy(queries, keys, targets, 0.1))
    mean = sum(query @ key.T for query, key in zip(queries, keys, strict=True)) / views
    torch.testing.assert_close(probabilities, (mean / 0.5).softmax(-1))


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_six_views_that_disagree_by_far_are_as_in_float64(temperature):
    random = torch.Generator().manual_seed(0)
    # Each view is sure of another item: in float32 every product of the six probabilities is 0.
    keys = [torch.randn(40, 5, generator=random) for _ in range(6)]
    queries = [60 * torch.randn(20, 5, generator=random) for _ in range(6)]
    targets = [torch.randint(0, 40, (20,), generator=random) for _ in range(6)]
    logits = [query.double() @ key.double().T for query, key in zip(queries, keys, strict=True)]
    assert not torch.stack(logits).softmax(-1).float().prod(0).any()

    inputs = [view.requires_grad_() for view in (*queries, *keys)]
    probabilities = torch.zeros(20, 40)
    loss = catalogue_cross_entropy(queries, keys, targets, 0.1, probabilities.__setitem__, temperature)
    torch.testing.assert_close(
        probabilities.double(), (sum(logits) / 6 / temperature).softmax(-1), rtol=1e-3, atol=1e-6
    )
    wanted = sum(
        cross_entropy(view, target, label_smoothing=0.1, reduction="sum")
        for view, target in zip(logits, targets, strict=True)
    )
    torch.testing.assert_close(loss.double(), wanted, rtol=1e-5, atol=0)
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(loss, inputs))


def test_no_target_is_no_loss():
    query, key = torch.zeros(0, 5, requires_grad=True), torch.ones(7, 5, requires_grad=True)
    loss = catalogue_cross_entropy([query], [key], [torch.zeros(0, dtype=torch.int64)])
    loss.backward()
    assert loss.item() == 0
    assert key.grad is not None
    assert not key.grad.any()
