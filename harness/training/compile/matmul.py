"""Matrix products of a compiled gradient, each by the kernel that is quickest for its shape.

torch has MKL multiply float32 matrices. That costs time which is not arithmetic in three cases, and a network whose
layers are 256 wide spends nearly all of its time there. They are rewritten in the graph that inductor compiles; the
results differ by rounding alone.

- On a CPU that is not Intel's, MKL leaves AVX-512 unused: a product of 256x256x256 takes 0.30 ms where oneDNN takes
  0.14 ms (AMD EPYC 9005, one thread). oneDNN comes with torch, and has the relu after a layer done in the same pass.
- A product with a few columns, such as the gradient of a first layer, takes as long as one with 32: transposed, with a
  few rows, it takes a fifth of that.
- A product over one number is an outer product, which inductor can join with what follows it.
"""

from __future__ import annotations

import functools
import time
from typing import Any

import torch
from torch import fx

from harness.distributed.transports.base import Communicator

FEW_COLUMNS = 16
LARGE = 2**21
"""Multiplications of a product from which oneDNN's setup, some 10 us, is small."""
QUICKER = 1.25
"""By how much oneDNN must be ahead to be taken: a machine that is busy should not decide otherwise next time."""

aten = torch.ops.aten


def has_onednn() -> bool:
    """Whether this torch can have a compiled function multiply by oneDNN."""
    there = hasattr(torch.ops.mkldnn, "_linear_pointwise") and torch.backends.mkldnn.is_available()
    return there and onednn_linear() is not None and products_pass("onednn") is not None


@functools.cache
def onednn_is_quicker() -> bool:
    """Whether this CPU multiplies large float32 matrices faster by oneDNN than by torch's own choice; timed once."""
    linear, one = torch.ops.mkldnn._linear_pointwise, torch.ones(256, 256)

    def seconds(run: Any) -> float:
        times = []
        for _ in range(7):
            began = time.thread_time()
            run()
            times.append(time.thread_time() - began)
        return min(times)

    with torch.no_grad():
        return seconds(lambda: one @ one.t()) > QUICKER * seconds(lambda: linear(one, one, None, "none", [], ""))


def choose_products(communicator: Communicator, asked: str) -> tuple[str, str]:
    """What all ranks multiply by, `onednn` or `torch`, and a notice where it is not what was asked for.

    Rank 0's `asked`, or else its timing, decides, so that they compile the same code. Collective, also where this
    process knows the answer already: a rank that joins an elastic run does not.
    """
    everywhere = bool(communicator.agree({"onednn": float(has_onednn())}, "min")["onednn"])
    if asked == "auto" and communicator.rank == 0:
        asked = "onednn" if everywhere and onednn_is_quicker() else "torch"
    asked = communicator.broadcast_object(asked)
    if asked == "onednn" and not everywhere:
        return "torch", "compile.products = 'onednn' cannot be had of this torch: results differ by rounding"
    return asked, ""


@functools.cache
def onednn_linear() -> Any:
    """An operator `linear(x (m, k), weight (n, k), bias (n,) or None, "none" or "relu")` by oneDNN, as inductor can
    lower it for weights that change, views with any strides among them; None where this torch is another."""
    try:
        from torch._inductor import mkldnn_ir
        from torch._inductor.ir import FixedLayout, TensorBox
        from torch._inductor.lowering import register_lowering

        output, kernel = mkldnn_ir._create_output_node, mkldnn_ir.LinearUnary
        library = torch.library.Library("harness", "FRAGMENT")
    except (ImportError, AttributeError):
        return None
    library.define("onednn_linear(Tensor x, Tensor weight, Tensor? bias, str after) -> Tensor")
    onednn_linear_library.append(library)  # it would be gone with its last reference

    def run(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, after: str) -> torch.Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, after, [], "")

    library.impl("onednn_linear", run, "CPU")
    library.impl("onednn_linear", lambda x, weight, bias, after: x.new_empty(x.shape[0], weight.shape[0]), "Meta")
    operator = torch.ops.harness.onednn_linear.default

    @register_lowering(operator, type_promotion_kind=None)
    def lower(x: Any, weight: Any, bias: Any, after: str) -> Any:
        inputs = [kernel.realize_input(each) for each in (x, weight, bias) if each is not None]
        constants: list[Any] = [after, [-1], ""]
        if bias is None:
            constants.insert(0, None)
        size = [x.get_size()[0], weight.get_size()[0]]
        layout = FixedLayout(device=x.get_device(), dtype=x.get_dtype(), size=size)
        return TensorBox.create(output(kernel(layout=layout, inputs=inputs, constant_args=constants)))

    return operator


onednn_linear_library: list[torch.library.Library] = []


def rewrite(graph: fx.Graph, onednn: bool) -> int:
    """Rewrites the float32 products of an inductor graph in place; how many."""
    count = 0
    for node in list(graph.nodes):
        if node.op != "call_function" or node.target not in (aten.mm.default, aten.addmm.default) or node.kwargs:
            continue
        *bias, a, b = node.args
        values = a.meta["val"], b.meta["val"]
        sizes = *values[0].shape, values[1].shape[1]
        if any(value.dtype != torch.float32 for value in values) or not all(isinstance(size, int) for size in sizes):
            continue
        if bias and bias[0].meta["val"].dim() != 1:
            continue
        m, k, n = sizes
        with graph.inserting_before(node):
            if not bias and k == 1:
                replace(node, call(graph, aten.mul.Tensor, a, b))
            elif not bias and 1 < n <= FEW_COLUMNS < min(m, k):
                product = call(graph, aten.mm.default, transposed(graph, b), transposed(graph, a))
                replace(node, transposed(graph, product))
            elif onednn and m * k * n >= LARGE and n > 1:
                relu = sole_relu(node) if bias else None
                arguments = a, transposed(graph, b), bias[0] if bias else None, "none" if relu is None else "relu"
                replace(relu or node, call(graph, onednn_linear(), *arguments))
                if relu is not None:
                    graph.erase_node(node)
            else:
                continue
        count += 1
    graph.eliminate_dead_code()
    return count


def call(graph: fx.Graph, target: Any, *arguments: Any) -> fx.Node:
    node = graph.call_function(target, arguments)
    given = [each.meta["val"] if isinstance(each, fx.Node) else each for each in arguments]
    node.meta["val"] = target(*given)
    return node


def transposed(graph: fx.Graph, node: fx.Node) -> fx.Node:
    """A view of the matrix `node`, or what it is a transposed view of."""
    if node.op == "call_function" and node.target is aten.permute.default:
        return node.args[0]  # type: ignore[return-value]
    return call(graph, aten.permute.default, node, [1, 0])


def sole_relu(node: fx.Node) -> fx.Node | None:
    """The relu that is all that becomes of `node`."""
    users = list(node.users)
    return users[0] if len(users) == 1 and users[0].target is aten.relu.default else None


def replace(old: fx.Node, new: fx.Node) -> None:
    old.replace_all_uses_with(new)
    old.graph.erase_node(old)


@functools.cache
def products_pass(products: str) -> Any:
    """For inductor's option `post_grad_custom_post_pass`, or None where this torch has no such thing."""
    try:
        from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files
    except ImportError:
        return None

    class Products(CustomGraphPass):
        def __call__(self, graph: fx.Graph) -> None:
            rewrite(graph, onednn=products == "onednn")

        def uuid(self) -> Any:
            return get_hash_for_files((__file__,), extra=products)

    return Products()
