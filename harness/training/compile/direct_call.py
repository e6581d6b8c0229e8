"""A compiled function without the compiler's way into it.

At each call dynamo looks the code up, and gathers from modules, dicts and attributes the tensors that the compiled
graph takes: 25 us, where the gradient of a small network takes 50. Here that is done at the first call alone.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from functools import partial
from typing import Any

import torch


class DirectCall:
    """`torch.compile` of a method that returns nothing and is called with tensors of the same sizes each time.

    Tensors that are arguments themselves may be others at each call. All others, in containers or attributes that the
    method reaches, must be those of the first call, and stay where they are; attributes that it sets are not set again.
    """

    def __init__(self, method: Callable[..., None], options: dict[str, Any]) -> None:
        """`options`: inductor's, beside a C++ wrapper."""
        self.seen: list[Any] = []
        """Of the first call: what dynamo's code calls, and with what. Dynamo keeps this list for ever: it is emptied,
        or all that the method reaches would stay too."""
        # all tensors have the sizes of the first call: there is nothing to guard against
        self.compiled: Callable[..., Any] | None = torch.compile(
            of_its_own(method),
            fullgraph=True,
            dynamic=False,
            backend=partial(compile_and_see, self.seen, options),
            options={"guard_filter_fn": torch.compiler.skip_all_guards_unsafe},
        )
        self.graph: Callable[..., Any] | None = None
        self.inputs: list[torch.Tensor] = []
        self.places: list[tuple[int, int]] = []
        """(argument, its place among the inputs)"""

    def __call__(self, *arguments: Any) -> None:
        if self.graph is None:
            assert self.compiled is not None
            self.compiled(*arguments)
            self.graph, self.inputs = self.seen
            self.compiled = None
            self.seen.clear()
            places = {id(tensor): place for place, tensor in enumerate(self.inputs)}
            self.places = [(at, places[id(each)]) for at, each in enumerate(arguments) if id(each) in places]
            return
        inputs = self.inputs
        for at, place in self.places:
            inputs[place] = arguments[at]
        self.graph(*inputs)


def compile_and_see(
    seen: list[Any], options: dict[str, Any], graph: torch.fx.GraphModule, examples: list[Any]
) -> Callable[..., Any]:
    """A backend of `torch.compile`: inductor, which puts into `seen` what is called, and with what."""
    from torch._inductor.compile_fx import compile_fx  # takes a second to import

    compiled: Any = compile_fx(graph, examples, config_patches={"cpp_wrapper": True, **options})
    kept = [compiled]

    def call(*inputs: Any) -> Any:
        function = kept.pop()
        seen[:] = function, list(inputs)
        return function(*inputs)

    return call


def of_its_own(method: Callable[..., None]) -> Callable[..., None]:
    """The same bound method with a code object that no other shares: dynamo keeps what it compiled by code object, and
    unguarded that would serve all of them."""
    assert isinstance(method, types.MethodType)
    function = method.__func__
    code = function.__code__.replace()
    own = types.FunctionType(code, function.__globals__, function.__name__, None, function.__closure__)
    return types.MethodType(own, method.__self__)
