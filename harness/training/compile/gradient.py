"""The gradient of a loss as one compiled function of the arena's flat vector.

Eager, a small network's gradient is a hundred calls of a few microseconds each, of which the arithmetic is a tenth.
Here loss and gradient are traced together (`torch.func.grad` of `functional_call` on views of the flat vector),
compiled by inductor into one C++ function, and written where the ranks reduce them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any, Protocol

import torch
from torch import nn
from torch.func import functional_call, grad

from harness.distributed.arena import Arena
from harness.distributed.transports.base import Communicator
from harness.schema import CompileSettings
from harness.training.compile.direct_call import DirectCall, of_its_own
from harness.training.compile.function import Batch, Loss, WithLoss, layout_of
from harness.training.compile.matmul import choose_products, products_pass
from harness.training.precision import Precision
from harness.training.step import Step

EARNED_AFTER = 15_000
"""Gradient steps after which compiling pays: it takes 5 to 17 s on one core, and a step becomes about 1 ms shorter."""
MOST_SIZES = 4
"""Each size of a minibatch is compiled for itself; of more sizes than this, none is."""


def wants_compiling(settings: CompileSettings, gradient_steps: int, step: Step) -> tuple[bool, str]:
    """Whether to compile, and why (not): for rank 0 to decide."""
    device = step.arena.wire.device
    if settings.mode in ("off", "traced", "kept"):
        return False, f"compile.mode = {settings.mode}"
    compiler = os.environ.get("CXX", "g++")
    if device.type == "cpu" and shutil.which(compiler) is None:
        return False, f"no C++ compiler: {compiler} is not on the PATH"
    if device.type == "cuda" and find_spec("triton") is None:
        return False, "no compiler for the GPU: Triton cannot be imported"
    if settings.mode == "auto" and gradient_steps < EARNED_AFTER:
        return False, f"{gradient_steps:,} gradient steps would not earn the compile time back"
    if settings.mode == "auto" and step.sync.overlaps:
        return False, "it is reduced between hosts while it is made"
    return True, "compile.mode = on" if settings.mode == "on" else f"{gradient_steps:,} gradient steps"


class CompiledGradient:
    """Called in place of a loss and its backward pass: `gradient(data, rows, numbers, weight)` fills `arena.wire`."""

    def __init__(
        self,
        module: nn.Module,
        arena: Arena,
        loss: Loss,
        precision: Precision,
        data: Batch,
        numbers: Sequence[str],
        sizes: Sequence[int],
        per_sample: str | None = None,
        products: str = "torch",
    ) -> None:
        """`data`: the tensors that minibatches are rows of, which stay where they are; `numbers`: the names of what is
        given with each minibatch beside them; `sizes`: how many rows this rank's minibatches have; `per_sample`: the
        tensor of `data` whose rows take the loss's number for each sample; `products`: as `choose_products` gives them.
        """
        self.arena, self.precision, self.device = arena, precision, arena.wire.device
        self.data = data
        self.names, self.per_sample = tuple(numbers), per_sample
        self.with_loss = WithLoss(module, loss)
        self.products = products if self.device.type == "cpu" else "auto"  # on a GPU they are what they are
        self.layout = layout_of(module, arena)
        self.functions: dict[int, Callable[..., None]] = {}
        for size in sorted(set(sizes)):
            if self.device.type == "cpu":
                # tanh as 2 sigmoid(2x) - 1: half the time, to 1e-7
                passes = {"post_grad_custom_post_pass": products_pass(products), "cpp.use_decompose_tanh": True}
                self.functions[size] = DirectCall(self._write, passes)
            else:  # on policy, CUDA graphs take the way into it away
                unguarded: dict[str, Any] = {"guard_filter_fn": torch.compiler.skip_all_guards_unsafe}
                own = of_its_own(self._write)
                self.functions[size] = torch.compile(own, fullgraph=True, dynamic=False, options=unguarded)
        self.last: tuple[float, ...] = ()
        self.given = torch.zeros(0)
        """`last`, on the device."""

    def _write(self, flat: torch.Tensor, wire: torch.Tensor, rows: torch.Tensor, numbers: torch.Tensor, data: Batch):
        batch = {name: values[rows] for name, values in data.items()}
        for position, name in enumerate(self.names):
            batch[name] = numbers[position]
        weight, scale = numbers[-2], numbers[-1]

        # the parts of the flat vector, each once: a gradient of the whole would be a sum of as many whole vectors
        parts = {first: flat[first:end].view(shape) for _, shape, first, end in sorted(self.layout, key=place)}

        def scaled(parts: dict[int, torch.Tensor]) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
            parameters = {name: parts[first] for name, _, first, _ in self.layout}
            with self.precision.autocast():
                loss, *beside = functional_call(self.with_loss, parameters, (batch,))
            return loss * scale, tuple(beside)

        gradients, (statistics, *samples) = grad(scaled, has_aux=True)(parts)
        wire.copy_(torch.cat([*(gradient.reshape(-1) for gradient in gradients.values()), statistics]) * weight)
        if self.per_sample is not None:
            data[self.per_sample][rows] = samples[0]

    def __call__(self, rows: torch.Tensor, numbers: Sequence[float], weight: float) -> None:
        """`rows`: int64 (n,) of the data; `numbers`: in the order of their names."""
        numbers = (*numbers, weight, self.precision.scale)
        if numbers != self.last:
            self.last, self.given = numbers, torch.tensor(numbers, dtype=torch.float32, device=self.device)
        self.write(rows, self.given)

    def write(self, rows: torch.Tensor, given: torch.Tensor) -> None:
        """`given`: float32 (numbers + 2,), the numbers, the weight and the loss scale, on the device."""
        self.functions[len(rows)](self.arena.parameters, self.arena.wire, rows, given, self.data)

    def compile(self) -> None:
        """Compiles for every size, by a call whose result is thrown away."""
        for size in self.functions:
            self(torch.zeros(size, dtype=torch.int64, device=self.device), [1.0] * len(self.names), 0.0)
        self.arena.wire.zero_()


def place(entry: tuple[str, torch.Size, int, int]) -> int:
    return entry[2]


class Beside(Protocol):
    """What is compiled beside a gradient, on all ranks or on none."""

    def compile(self, products: str) -> None: ...

    def forget(self) -> None:
        """What was compiled."""


def compile_step(
    step: Step, make: Callable[[str], CompiledGradient], products: str, *beside: Beside
) -> tuple[CompiledGradient | None, str]:
    """As `compile_in_turn`, for what a step is taken by."""
    gradient, problem = compile_in_turn(make, step.communicator, products, *beside)
    if gradient is not None:
        step.reduce_at_once()
    return gradient, problem


def compile_in_turn(
    make: Callable[[str], CompiledGradient], communicator: Communicator, products: str, *beside: Beside
) -> tuple[CompiledGradient | None, str]:
    """Rank 0 compiles first, then the others, from the disk cache where they share a host; (None, why) on all ranks
    where any of them could not. `make` takes what `compile.products` came to be; the text is a notice of that.
    `beside`: what is compiled too.
    """
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    chosen, notice = choose_products(communicator, products)
    gradient: CompiledGradient | None = None
    problem = ""
    for turn in (True, False):
        if (communicator.rank == 0) == turn:
            try:
                gradient = make(chosen)
                gradient.compile()
                for each in beside:
                    each.compile(chosen)
            except Exception as error:  # whatever a compiler may raise: eager is always right
                problem = f"{type(error).__name__}: {error}".strip().splitlines()[0][:200]
        problems = [text for text in communicator.gather_objects(problem) if text]
        if problems:
            for each in beside:
                each.forget()
            return None, f"compiling failed: {problems[0]}"
    return gradient, notice


def sizes_of(plan: Sequence[Sequence[Any]]) -> list[int]:
    """The different sizes of a plan's parts, empty ones left out."""
    return sorted({len(part) for parts in plan for part in parts if len(part)})
