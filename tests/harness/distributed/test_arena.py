"""The arena: a module works on as before while its parameters and gradients lie flat."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from harness.distributed.arena import Arena


class Tied(nn.Module):
    """A tied weight (12 numbers), a frozen layer (20), a bias (3) and a layer that is not always called (5)."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(3, 4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.output = nn.Linear(4, 3)
        self.output.weight = self.embedding.weight
        self.spare = nn.Linear(4, 1)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.output(self.frozen(self.embedding(tokens)))


def gradients_of(module: nn.Module) -> list[torch.Tensor | None]:
    return [None if parameter.grad is None else parameter.grad.clone() for parameter in module.parameters()]


@pytest.fixture
def pair() -> tuple[Tied, Tied]:
    """Two equal modules: one to put into an arena, one as torch has it."""
    torch.manual_seed(1)
    ours, theirs = Tied(), Tied()
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def loss(module: nn.Module) -> torch.Tensor:
    return module(torch.tensor([0, 2, 2])).square().sum()


def test_tied_weights_lie_there_once_and_frozen_ones_not_at_all(pair):
    ours, _ = pair
    arena = Arena(ours, tail=2)
    assert arena.size == 12 + 3 + 5
    assert arena.parameters.shape == arena.gradients.shape == (20,)
    assert arena.wire.shape == (22,)
    assert ours.output.weight is ours.embedding.weight


def test_the_module_computes_as_before_and_its_parameters_and_gradients_are_views(pair):
    ours, theirs = pair
    arena = Arena(ours)
    loss(ours).backward()
    loss(theirs).backward()
    assert torch.equal(loss(ours), loss(theirs))
    trainable = [parameter for parameter in theirs.parameters() if parameter.requires_grad]
    flat = [torch.zeros_like(each) if each.grad is None else each.grad for each in trainable]
    assert torch.equal(arena.gradients, torch.cat([gradient.flatten() for gradient in flat]))
    arena.parameters.zero_()
    assert all(not parameter.any() for parameter in ours.parameters() if parameter.requires_grad)


def test_an_optimizer_that_was_made_before_the_arena_steps_its_parameters(pair):
    ours, theirs = pair
    before = [torch.optim.Adam(module.parameters(), lr=0.1) for module in pair]
    arena = Arena(ours)
    for module, optimizer in zip(pair, before):
        for _ in range(3):
            optimizer.zero_grad(set_to_none=True)
            loss(module).backward()
            if module is ours:
                arena.own_gradients()
            optimizer.step()
    assert torch.allclose(ours.output.weight, theirs.output.weight, atol=1e-7)
    assert torch.equal(arena.parameters[:12].view(3, 4), ours.embedding.weight)


def test_gradients_that_replaced_the_views_are_brought_home(pair):
    ours, theirs = pair
    arena = Arena(ours)
    for module in pair:
        module.zero_grad(set_to_none=True)
        loss(module).backward()
    assert not arena.gradients.any()  # the trap: what the ranks would reduce is not what was computed
    arena.own_gradients()
    assert torch.equal(ours.output.bias.grad, theirs.output.bias.grad)
    assert ours.output.bias.grad.untyped_storage().data_ptr() == arena.wire.untyped_storage().data_ptr()


def test_sparse_gradients_are_brought_home_too():
    embedding = nn.Embedding(4, 2, sparse=True)
    arena = Arena(embedding, tracks_use=True)
    arena.release_gradients()
    embedding(torch.tensor([1, 1, 3])).sum().backward()
    arena.own_gradients()
    assert arena.gradients.view(4, 2).tolist() == [[0, 0], [2, 2], [0, 0], [1, 1]]


def test_a_parameter_that_nothing_reached_is_told_from_one_with_a_zero_gradient(pair):
    ours, _ = pair
    arena = Arena(ours, tail=1, tracks_use=True)
    arena.wire.zero_()
    arena.release_gradients()
    (loss(ours) * 0.0).backward()
    arena.own_gradients()
    assert arena.uses.tolist() == [1, 1, 0, 0]  # tied weight, output's bias; spare's weight and bias
    arena.release_unused()
    assert ours.spare.weight.grad is None
    assert ours.output.bias.grad is not None and not ours.output.bias.grad.any()


def test_a_thawed_layer_and_a_replaced_tensor_are_noticed(pair):
    ours, theirs = pair
    arena = Arena(ours)
    ours.load_state_dict(theirs.state_dict())
    assert arena.holds(ours)
    ours.frozen.requires_grad_(True)
    assert not arena.holds(ours)
    ours.frozen.requires_grad_(False)
    ours.spare.bias.data = ours.spare.bias.data.clone()
    assert not arena.holds(ours)


def test_the_flat_parameter_is_the_same_memory(pair):
    ours, _ = pair
    arena = Arena(ours)
    before = ours.output.bias.detach().clone()
    arena.gradients.fill_(1.0)
    torch.optim.SGD([arena.flat], lr=0.5).step()
    assert torch.allclose(ours.output.bias, before - 0.5)


def test_modules_that_cannot_lie_flat_are_refused():
    with pytest.raises(ValueError, match="float32"):
        Arena(nn.Linear(2, 2).double())
    with pytest.raises(ValueError, match="no trainable parameters"):
        Arena(nn.Linear(2, 2).requires_grad_(False))
