"""Optimizers on one flat vector are torch's to the bit, whichever of the two loads the other's state."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

from harness.training.flat_optimizers import FlatAdam, FlatRMSprop

ADAM = {"lr": 3e-3, "betas": (0.9, 0.99), "eps": 1e-5}
RMSPROP = {"lr": 7e-4, "alpha": 0.99, "eps": 1e-5}
Make = Callable[[torch.nn.Parameter], Any]
PAIRS: dict[str, tuple[Make, Make]] = {
    "adam": (
        lambda p: FlatAdam(p, **ADAM, weight_decay=0.0),
        lambda p: torch.optim.Adam([p], **ADAM, weight_decay=0.0, fused=True),
    ),
    "adam, decay": (
        lambda p: FlatAdam(p, **ADAM, weight_decay=0.1),
        lambda p: torch.optim.Adam([p], **ADAM, weight_decay=0.1, fused=True),
    ),
    "adamw": (
        lambda p: FlatAdam(p, **ADAM, weight_decay=0.1, decoupled=True),
        lambda p: torch.optim.AdamW([p], **ADAM, weight_decay=0.1, fused=True),
    ),
    "rmsprop": (
        lambda p: FlatRMSprop(p, **RMSPROP, weight_decay=0.0, momentum=0.0),
        lambda p: torch.optim.RMSprop([p], **RMSPROP, weight_decay=0.0, momentum=0.0),
    ),
    "rmsprop, momentum and decay": (
        lambda p: FlatRMSprop(p, **RMSPROP, weight_decay=0.1, momentum=0.5),
        lambda p: torch.optim.RMSprop([p], **RMSPROP, weight_decay=0.1, momentum=0.5),
    ),
}


def steps(optimizer: Any, parameter: torch.nn.Parameter, first: int, count: int) -> None:
    for number in range(first, first + count):
        draw = torch.Generator().manual_seed(number)
        parameter.grad = torch.randn(500, generator=draw)
        optimizer.param_groups[0]["lr"] *= 0.9  # as a schedule sets it
        optimizer.step()


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("change", ["none", "to torch's", "to ours"])
def test_twenty_steps_are_torchs_also_where_the_other_goes_on(name: str, change: str) -> None:
    ours, torchs = PAIRS[name]
    start = torch.randn(500, generator=torch.Generator().manual_seed(99))
    expected = torch.nn.Parameter(start.clone())
    steps(torchs(expected), expected, 0, 0)
    reference = torchs(expected)
    steps(reference, expected, 0, 20)

    parameter = torch.nn.Parameter(start.clone())
    first, second = {"none": (ours, ours), "to torch's": (ours, torchs), "to ours": (torchs, ours)}[change]
    optimizer = first(parameter)
    steps(optimizer, parameter, 0, 10)
    after = second(parameter)
    after.load_state_dict(optimizer.state_dict())
    steps(after, parameter, 10, 10)

    assert torch.equal(parameter, expected)
    assert after.state_dict().keys() == reference.state_dict().keys()
    assert set(after.state_dict()["param_groups"][0]) == set(reference.state_dict()["param_groups"][0])


def test_a_state_of_other_parameters_is_refused() -> None:
    optimizer = FlatAdam(torch.nn.Parameter(torch.zeros(3)), **ADAM, weight_decay=0.0)
    parameter = torch.nn.Parameter(torch.zeros(4))
    other = FlatAdam(parameter, **ADAM, weight_decay=0.0)
    parameter.grad = torch.ones(4)
    other.step()
    with pytest.raises(ValueError, match="shape"):
        optimizer.load_state_dict(other.state_dict())


def test_they_do_not_load_the_compiler() -> None:
    code = (
        "import sys, torch\n"
        "from harness.training.flat_optimizers import FlatAdam\n"
        "p = torch.nn.Parameter(torch.zeros(3)); p.grad = torch.ones(3)\n"
        "o = FlatAdam(p, 1e-3, (0.9, 0.999), 1e-8, 0.0); o.step(); o.load_state_dict(o.state_dict())\n"
        "print([name for name in ('torch._dynamo', 'sympy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "[]", done.stderr
