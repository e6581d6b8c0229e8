"""The operations on plain tensors of a function and of its backward pass, recorded while it runs once, to be replayed.

`make_fx` does the same and imports 840 modules for it, which takes longer than the run of many a small job gains.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_map_only

Call = tuple[Any, Any, Any, list[int]]
"""An operation, its arguments with slots for tensors (positional, by name), and the slots of its results."""

aten = torch.ops.aten
SAME = {aten.detach.default, aten.alias.default, aten.lift_fresh.default}
"""What gives its argument: the backward pass keeps its own name for each tensor that it needs."""


INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default}
BY_MASK = {aten.nonzero.default, aten.masked_select.default, aten.masked_scatter.default}
"""Whose results, or whose work, have as many numbers as a mask has true ones."""


def is_mask(index: Any) -> bool:
    return isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8)


class Slot:
    """A tensor's place while a recording is replayed."""

    def __init__(self, number: int) -> None:
        self.number = number


class Recorder(TorchDispatchMode):
    """Notes each operation that reaches the dispatcher beneath autograd."""

    def __init__(self, inputs: Sequence[torch.Tensor], largest_constant: int) -> None:
        super().__init__()
        self.largest_constant = largest_constant
        self.slots: dict[int, int] = {}
        self.kept: list[torch.Tensor] = []
        """All tensors seen, so that no two have the same id."""
        self.constants: dict[int, torch.Tensor] = {}
        self.calls: list[Call] = []
        for each in inputs:
            self.name(each)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # or torch imports the compiler to tell it so, though nothing here is compiled

    def name(self, tensor: torch.Tensor) -> int:
        self.kept.append(tensor)
        return self.slots.setdefault(id(tensor), len(self.kept) - 1)

    def slot(self, tensor: torch.Tensor) -> Slot:
        """That of an argument; RuntimeError where it is neither an input, nor made of one, nor a small constant."""
        if id(tensor) not in self.slots:
            if isinstance(tensor, torch.nn.Parameter) or tensor.numel() > self.largest_constant:
                raise RuntimeError(f"the loss reads a tensor of {tuple(tensor.shape)} that is no argument of it")
            number = self.name(tensor)
            self.constants[number] = tensor.detach().clone()
        return Slot(self.slots[id(tensor)])

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise RuntimeError(f"the loss draws random numbers ({func})")
        if torch.Tag.data_dependent_output in func.tags:
            raise RuntimeError(f"the loss reads the value of a tensor ({func})")
        if func in BY_MASK or func in INDEXING and any(is_mask(each) for each in args[1]):
            raise RuntimeError(f"the loss chooses by a mask ({func}), of which each minibatch has another number")
        func = with_plain_number(func, args)
        named_args, named_kwargs = tree_map_only(torch.Tensor, self.slot, (args, kwargs or {}))
        result = func(*args, **(kwargs or {}))
        if func in SAME:
            self.kept.append(result)
            self.slots[id(result)] = named_args[0].number
        else:
            made = [each for each in tree_flatten(result)[0] if isinstance(each, torch.Tensor)]
            self.calls.append((func, named_args, named_kwargs, [self.name(each) for each in made]))
        return result


def with_plain_number(func: Any, args: Any) -> Any:
    """The same operation, for a number in the place of a tensor by the overload that takes numbers: TorchScript would
    keep a float64 tensor of it, which decides the dtype of a result that has no dimensions."""
    for given, declared in zip(args, func._schema.arguments):
        if isinstance(given, (bool, int, float)) and isinstance(declared.type, torch.TensorType):
            if "Scalar" not in func.overloadpacket.overloads():
                raise RuntimeError(f"{func} has a number in the place of a tensor")
            return func.overloadpacket.Scalar
    return func


class Recording(torch.nn.Module):
    """Replays it: `recording(*inputs)` does the same operations in the same order. A module, for TorchScript."""

    def __init__(self, recorder: Recorder, outputs: Sequence[torch.Tensor]) -> None:
        super().__init__()
        for number, value in recorder.constants.items():
            self.register_buffer(f"constant_{number}", value)
        self.constants = recorder.constants
        self.outputs = [recorder.slots[id(each)] for each in outputs]
        self.calls = needed(recorder.calls, self.outputs)

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        values: dict[int, torch.Tensor] = {**self.constants, **dict(enumerate(inputs))}
        for func, args, kwargs, results in self.calls:
            made = func(*filled(args, values), **filled(kwargs, values))
            made = [each for each in tree_flatten(made)[0] if isinstance(each, torch.Tensor)]
            values.update(zip(results, made))
        return tuple(values[number] for number in self.outputs)


def filled(arguments: Any, values: dict[int, torch.Tensor]) -> Any:
    return tree_map(lambda each: values[each.number] if isinstance(each, Slot) else each, arguments)


def needed(calls: Sequence[Call], outputs: Sequence[int]) -> list[Call]:
    """Those that the outputs are made of, and those that change a tensor in place."""
    wanted, kept = set(outputs), []
    for call in reversed(calls):
        func, args, kwargs, results = call
        if func._schema.is_mutable or not wanted.isdisjoint(results):
            wanted.update(each.number for each in tree_flatten((args, kwargs))[0] if isinstance(each, Slot))
            kept.append(call)
    return kept[::-1]


def record(
    function: Callable[..., tuple[torch.Tensor, ...]], inputs: Sequence[torch.Tensor], largest_constant: int
) -> Recording:
    """What `function` does with `inputs`. RuntimeError where it draws random numbers, reads a tensor's value, or one of
    more than `largest_constant` numbers that is none of its inputs."""
    with Recorder(inputs, largest_constant) as recorder:
        outputs = function(*inputs)
    return Recording(recorder, outputs)
