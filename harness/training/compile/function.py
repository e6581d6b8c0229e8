"""A loss and its gradient as one pure function of tensors, which can be traced and compiled ahead.

The function is `(parameters, rows, numbers, *data) -> (wire, *per_sample)`, with the same operations in the same order
as `Step.fill` and a backward pass, so that what is traced from it equals eager to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.func import functional_call

from harness.distributed.arena import Arena
from harness.training.compile.recording import Recording, record
from harness.training.precision import Precision

LARGEST_CONSTANT = 64
"""Numbers: bounds of actions and the like. A larger tensor that a loss reads is another network, which may change."""

Batch = dict[str, torch.Tensor]
Loss = Callable[[Batch], tuple[torch.Tensor, ...]]
"""From a batch of this rank's samples, and 0-d numbers beside them, to their mean loss and a vector of statistics; and
to one number for each sample, where somebody wants it."""


class WithLoss(nn.Module):
    """A module whose output is its own loss, so that `functional_call` can exchange the parameters beneath it."""

    def __init__(self, module: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.module = module
        self.loss = loss

    def forward(self, batch: Batch) -> tuple[torch.Tensor, ...]:
        return self.loss(batch)


def layout_of(module: nn.Module, arena: Arena) -> list[tuple[str, torch.Size, int, int]]:
    """(name beneath a WithLoss, shape, first, end) of every trainable parameter; a tied one has its names all."""
    places: dict[int, tuple[torch.Size, int, int]] = {}
    offset = 0
    for parameter in arena.members:
        places[id(parameter)] = parameter.shape, offset, offset + parameter.numel()
        offset += parameter.numel()
    named = module.named_parameters(remove_duplicate=False)
    return [(f"module.{name}", *places[id(parameter)]) for name, parameter in named if id(parameter) in places]


class GradientFunction:
    """What is traced. `numbers`, float32: those of the batch by `names`, the weight, and weight times loss scale."""

    def __init__(
        self, module: nn.Module, arena: Arena, loss: Loss, precision: Precision, data: Batch, names: Sequence[str]
    ) -> None:
        self.with_loss, self.layout = WithLoss(module, loss), layout_of(module, arena)
        self.precision, self.names = precision, tuple(names)
        self.keys, self.parameters = tuple(data), arena.parameters

    def __call__(
        self, flat: torch.Tensor, rows: torch.Tensor, numbers: torch.Tensor, *data: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        batch = {name: values[rows] for name, values in zip(self.keys, data)}
        batch |= {name: numbers[place] for place, name in enumerate(self.names)}
        parts = {first: flat[first:end].view(shape).detach().requires_grad_() for _, shape, first, end in self.layout}
        parameters = {name: parts[first] for name, _, first, _ in self.layout}
        with self.precision.autocast():
            loss, statistics, *samples = functional_call(self.with_loss, parameters, (batch,))
        ordered = [parts[first] for first in sorted(parts)]
        gradients = torch.autograd.grad(loss * numbers[-1], ordered, allow_unused=True, materialize_grads=True)
        wire = torch.cat([*(gradient.reshape(-1) for gradient in gradients), statistics.detach() * numbers[-2]])
        return wire, *(each.detach() for each in samples)

    def examples(self, size: int, data: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Arguments for tracing: minibatches of `size` rows."""
        rows = torch.arange(size) % max(len(data[0]), 1)
        return self.parameters.clone(), rows, torch.ones(len(self.names) + 2), *data

    def trace(self, size: int, data: Sequence[torch.Tensor]) -> Recording:
        """Its operations on plain tensors, loss and backward pass in one.

        Raises RuntimeError for what cannot stand in a trace: random numbers, and buffers that a pass changes.
        """
        before = {name: buffer.clone() for name, buffer in self.with_loss.module.named_buffers()}
        recording = record(self, self.examples(size, data), LARGEST_CONSTANT)
        for name, buffer in self.with_loss.module.named_buffers():
            if not torch.equal(buffer, before[name]):
                raise RuntimeError(f"the loss changes the buffer {name}")
        return recording
