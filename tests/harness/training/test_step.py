"""The single step: clipping, skipping, and what a rank without samples does."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from harness.distributed.transports.base import Alone
from harness.errors import Diverged
from harness.schema import PrecisionSettings
from harness.training.precision import Precision
from harness.training.step import Step, clip_factor

CPU = torch.device("cpu")


def make_step(kind: str = "fp32", max_grad_norm: float | None = None, **settings: float) -> Step:
    torch.manual_seed(0)
    return Step(
        nn.Linear(3, 2),
        lambda arena: torch.optim.Adam([arena.flat], lr=0.1),
        Alone(),
        Precision(PrecisionSettings(kind=kind, **settings), CPU),
        statistics=1,
        max_grad_norm=max_grad_norm,
    )


def loss_of(step: Step, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    loss = (step.module(torch.ones(4, 3)).float() * scale).square().mean()
    return loss, loss.detach().view(1)


@pytest.mark.parametrize("norm", [0.0, 0.3, 1.0, 70.0])
def test_clipping_is_torchs(norm):
    direction = torch.randn(50, generator=torch.Generator().manual_seed(2))
    gradients = direction / direction.norm() * norm
    parameter = nn.Parameter(torch.zeros(50))
    parameter.grad = gradients.clone()
    torch.nn.utils.clip_grad_norm_([parameter], 0.5)
    gradients *= clip_factor(float(torch.linalg.vector_norm(gradients)), 0.5)
    torch.testing.assert_close(gradients, parameter.grad, rtol=1e-6, atol=0)


def test_a_step_is_what_torch_does_with_clipping_and_adam():
    step = make_step(max_grad_norm=0.2)
    torch.manual_seed(0)
    module = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.1)
    for _ in range(4):
        statistics = step.gradient(lambda: loss_of(step), 1.0)
        assert step.apply()
        optimizer.zero_grad()
        loss = module(torch.ones(4, 3)).square().mean()
        loss.backward()
        assert float(statistics[0]) == pytest.approx(float(loss.detach()), rel=1e-6)
        torch.nn.utils.clip_grad_norm_(module.parameters(), 0.2)
        optimizer.step()
    torch.testing.assert_close(step.module.weight, module.weight, rtol=1e-6, atol=1e-7)
    assert step.gradient_steps == 4


def test_an_overflow_in_fp16_is_skipped_and_leaves_weights_and_optimizer_alone():
    step = make_step("fp16", initial_scale=2.0**16)
    step.gradient(lambda: loss_of(step), 1.0)
    assert step.apply()
    weights, state = step.arena.parameters.clone(), step.optimizer.state_dict()["state"][0]["exp_avg"].clone()
    step.gradient(lambda: loss_of(step, scale=1e4), 1.0)
    assert not step.apply()
    assert torch.equal(step.arena.parameters, weights)
    assert torch.equal(step.optimizer.state_dict()["state"][0]["exp_avg"], state)
    assert (step.precision.scale, step.gradient_steps, step.skipped_steps) == (2.0**15, 1, 1)


def test_a_gradient_that_is_not_finite_in_fp32_is_divergence():
    step = make_step()
    step.gradient(lambda: loss_of(step, scale=float("inf")), 1.0)
    with pytest.raises(Diverged, match="non-finite gradient"):
        step.apply()


@pytest.mark.parametrize("wrong", [float("inf"), float("-inf"), float("nan")])
def test_one_element_that_is_not_finite_is_found(wrong):
    step = make_step()
    step.gradient(lambda: loss_of(step), 1.0)
    step.arena.gradients[3] = wrong
    with pytest.raises(Diverged, match="non-finite gradient"):
        step.apply()


def test_infinities_of_both_signs_do_not_cancel():
    step = make_step("fp16")
    step.gradient(lambda: loss_of(step), 1.0)
    step.arena.gradients[:2] = torch.tensor([float("inf"), float("-inf")])
    assert not step.apply()


def test_a_loss_that_is_not_finite_in_fp16_is_divergence_once_no_scale_is_left():
    step = make_step("fp16", initial_scale=4.0)
    with pytest.raises(Diverged, match="every loss scale"):
        for _ in range(10):
            step.gradient(lambda: loss_of(step, scale=float("nan")), 1.0)
            step.apply()
    assert step.skipped_steps == 3  # at scales 4, 2 and 1


def test_a_weight_of_zero_leaves_nothing_behind_whatever_was_computed():
    step = make_step()
    assert step.gradient(lambda: loss_of(step, scale=float("nan")), 0.0).tolist() == [0.0]
    assert not step.arena.gradients.any()
    assert step.gradient(None, 0.0).tolist() == [0.0]
