"""Matrix products of compiled functions: which are rewritten, and that they come to the same."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch
from torch import fx
from torch._inductor.custom_graph_pass import CustomGraphPass

from harness.distributed.transports.base import Alone
from harness.training.compile import matmul as of_products
from harness.training.compile.matmul import choose_products, onednn_linear, rewrite
from tests.conftest import need


class Recorded(CustomGraphPass):
    """Rewrites with oneDNN, whether or not it is quicker here, and keeps what it saw."""

    def __init__(self) -> None:
        self.count = 0
        self.targets: list[Any] = []

    def __call__(self, graph: fx.Graph) -> None:
        self.count += rewrite(graph, onednn=True)
        self.targets += [node.target for node in graph.nodes if node.op == "call_function"]

    def uuid(self) -> None:
        """None: compiled anew each time, so that the pass is seen to run."""


def compiled(function: Any, *inputs: torch.Tensor) -> tuple[Recorded, torch.Tensor]:
    need(shutil.which("g++"), "a C++ compiler, g++")
    seen = Recorded()
    torch._dynamo.reset()
    options: dict[str, Any] = {"cpp_wrapper": True, "post_grad_custom_post_pass": seen}
    return seen, torch.compile(function, fullgraph=True, dynamic=False, options=options)(*inputs)


def gradient(x: torch.Tensor, first: torch.Tensor, bias: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Of a hidden layer's weights, through a relu and a layer with one output."""

    def loss(weight: torch.Tensor) -> torch.Tensor:
        return (torch.relu(torch.nn.functional.linear(x, weight, bias)) @ second).square().sum()

    return torch.func.grad(loss)(first)


@pytest.mark.parametrize(
    ("inputs", "products"),
    [(160, 3), (4, 2)],
    ids=["a large layer, its gradient, and an outer product", "a narrow gradient and an outer product"],
)
def test_rewritten_products_come_to_the_same(inputs: int, products: int) -> None:
    draw = torch.Generator().manual_seed(0)
    shapes = (192, inputs), (128, inputs), (128,), (128, 1)
    given = [torch.randn(*shape, generator=draw) for shape in shapes]
    seen, found = compiled(gradient, *given)
    assert seen.count == products
    assert (onednn_linear() in seen.targets) == (inputs == 160)
    expected = gradient(*(each.double() for each in given))
    assert torch.linalg.vector_norm(found - expected) <= 1e-5 * torch.linalg.vector_norm(expected)


def test_a_relu_that_is_not_alone_is_kept() -> None:
    def both(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        before = torch.nn.functional.linear(x, weight, bias)
        return torch.relu(before) + before.square()

    draw = torch.Generator().manual_seed(0)
    given = [torch.randn(*shape, generator=draw) for shape in ((160, 160), (128, 160), (128,))]
    seen, found = compiled(both, *given)
    assert seen.count == 1 and torch.ops.aten.relu.default in seen.targets
    torch.testing.assert_close(found, both(*given), rtol=1e-4, atol=1e-3)


def test_other_kinds_of_numbers_are_left_alone() -> None:
    draw = torch.Generator().manual_seed(0)
    given = [torch.randn(*shape, generator=draw).double() for shape in ((192, 160), (128, 160), (128,), (128, 1))]
    seen, found = compiled(gradient, *given)
    assert seen.count == 0
    torch.testing.assert_close(found, gradient(*given))


@pytest.mark.parametrize(
    ("asked", "quicker", "there", "chosen"),
    [
        ("auto", True, True, "onednn"),
        ("auto", False, True, "torch"),
        ("auto", True, False, "torch"),
        ("torch", True, True, "torch"),
        ("onednn", False, True, "onednn"),
        ("onednn", False, False, "torch"),
    ],
)
def test_a_timing_decides_where_nothing_was_decided_before(
    asked: str, quicker: bool, there: bool, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of_products, "onednn_is_quicker", lambda: quicker)
    monkeypatch.setattr(of_products, "has_onednn", lambda: there)
    found, notice = choose_products(Alone(), asked)
    assert found == chosen
    lost = "compile.products = 'onednn' cannot be had of this torch: results differ by rounding"
    assert notice == (lost if asked == "onednn" and not there else "")
