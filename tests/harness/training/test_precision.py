"""Precision against torch's own GradScaler, and by its rules."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from harness.schema import PrecisionSettings
from harness.training.precision import Precision

CPU = torch.device("cpu")


def precision(kind: str, **settings: float) -> Precision:
    return Precision(PrecisionSettings(kind=kind, **settings), CPU)


def test_scale_skips_and_parameters_follow_torchs_grad_scaler():
    """A gradient of 1 with an overflow now and then, under a scale that doubles after two good steps."""
    overflows = [False, False, False, True, False, True, True, False, False, False, False]
    ours = precision("fp16", initial_scale=1024.0, growth_interval=2)
    theirs = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
    our_parameter, their_parameter = (nn.Parameter(torch.zeros(3)) for _ in range(2))
    our_optimizer, their_optimizer = (torch.optim.Adam([each]) for each in (our_parameter, their_parameter))
    for overflow in overflows:
        factor = torch.tensor([1.0, float("inf") if overflow else 2.0, 1.0])

        finite = bool(torch.isfinite(factor).all())
        ours.update(finite)
        if finite:
            our_parameter.grad = factor.clone()
            our_optimizer.step()

        their_optimizer.zero_grad()
        theirs.scale((their_parameter * factor).sum()).backward()
        theirs.step(their_optimizer)
        theirs.update()

        assert finite is not overflow
        assert ours.scale == theirs.get_scale()
        assert torch.equal(our_parameter, their_parameter)


@pytest.mark.parametrize("kind, dtype", [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_the_forward_pass_runs_in_its_kind_and_only_fp16_scales(kind, dtype):
    chosen = precision(kind)
    with chosen.autocast():
        assert nn.Linear(2, 2)(torch.zeros(1, 2)).dtype == dtype
    assert chosen.scale == (65536.0 if kind == "fp16" else 1.0)
    chosen.update(finite=False)
    assert chosen.scale == (32768.0 if kind == "fp16" else 1.0)


def test_it_is_exhausted_when_even_a_scale_of_one_overflowed():
    chosen = precision("fp16", initial_scale=2.0)
    chosen.update(finite=False)
    assert (chosen.scale, chosen.exhausted) == (1.0, False)
    chosen.update(finite=False)
    assert chosen.exhausted


def test_it_goes_on_where_its_state_was_taken():
    first, second = (precision("fp16", initial_scale=8.0, growth_interval=3) for _ in range(2))
    first.update(finite=False)
    first.update(finite=True)
    second.load_state(first.state())
    for chosen in (first, second):
        chosen.update(finite=True)
        chosen.update(finite=True)
    assert first.state() == second.state() == {"scale": 8.0, "good_steps": 0}
