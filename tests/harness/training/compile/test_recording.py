"""What a function did is done again, to the bit, with other tensors; what cannot be is refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from harness.training.compile.recording import record


def gradient(weights: torch.Tensor, inputs: torch.Tensor, number: torch.Tensor) -> tuple[torch.Tensor, ...]:
    own = weights.detach().requires_grad_()
    hidden = torch.tanh(inputs @ own)
    scaled = (hidden * torch.tensor(3.0)).softmax(-1)[:, 1:].amax(-1)
    loss = torch.where(scaled > number, scaled, scaled.square()).mean()
    (found,) = torch.autograd.grad(loss, own)
    total = torch.zeros_like(found)
    total.add_(found)  # in place
    return total, loss.detach()


def some(seed: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(4, 3, generator=generator), torch.randn(8, 4, generator=generator)
    return *drawn, torch.tensor(0.4)


def test_a_recording_is_the_function_on_other_tensors_too() -> None:
    recording = record(gradient, some(0), 64)
    for seed in (0, 1):
        for one, other in zip(gradient(*some(seed)), recording(*some(seed))):
            assert torch.equal(one, other)
    script = torch.jit.trace(recording, some(0), check_trace=False)
    assert torch.equal(script(*some(2))[0], gradient(*some(2))[0])


def test_what_it_holds_beside_its_arguments_is_in_its_state() -> None:
    """By it, kept code is told from that of another loss with the same operations."""
    for constant in (2.0, 3.0):
        script = torch.jit.trace(record(lambda x: (x * torch.tensor(constant),), [torch.ones(1)], 64), torch.ones(1))
        assert [value.item() for value in script.state_dict().values()] == [constant]


def test_nothing_is_kept_that_no_result_needs() -> None:
    def function(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        _ = x.exp().sum()
        return (x * 2,)

    assert [str(func) for func, *_ in record(function, [torch.ones(3)], 64).calls] == ["aten.mul.Scalar"]


def test_a_plain_number_stays_one_where_it_would_decide_a_dtype(tmp_path: Path) -> None:
    """TorchScript keeps it as a float64 tensor otherwise, and forgets on disk that it counts as a number."""
    recording = record(lambda x: ((x.mean() * 2.0)[None] @ x[:1],), [torch.ones(3)], 64)
    torch.jit.save(torch.jit.trace(recording, torch.ones(3)), tmp_path / "it")
    assert torch.jit.load(tmp_path / "it")(torch.ones(3))[0].dtype == torch.float32


LARGE = torch.ones(65)


@pytest.mark.parametrize(
    "function, words",
    [
        (lambda x: (torch.rand_like(x),), "draws random numbers"),
        (lambda x: (x * x.sum().item(),), "reads the value of a tensor"),
        (lambda x: (x.sum() * LARGE,), r"reads a tensor of \(65,\) that is no argument"),
        (lambda x: (x[x > 0].sum(),), "chooses by a mask"),
        (lambda x: (torch.masked_select(x, x > 0).sum(),), "chooses by a mask"),
        (lambda x: (x * torch.nn.Parameter(torch.ones(1)).sum(),), r"reads a tensor of \(1,\)"),
    ],
)
def test_what_no_recording_can_hold_is_refused(function: Callable[..., tuple[torch.Tensor, ...]], words: str) -> None:
    with pytest.raises(RuntimeError, match=words):
        record(function, [torch.ones(3)], 64)


def test_it_imports_no_compiler() -> None:
    code = """
import sys, torch
from tests.harness.training.compile.test_recording import gradient, some
from harness.training.compile.recording import record
before = set(sys.modules)
torch.jit.trace(record(gradient, some(0), 64), some(0), check_trace=False)
print([name for name in set(sys.modules) - before if name.startswith(("sympy", "torch._dynamo", "torch._inductor"))])
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"
