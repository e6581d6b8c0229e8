"""Parameters and gradients of a module, flat: a step is one collective on one buffer."""

from __future__ import annotations

import torch
from torch import nn


class Arena:
    """Lays the trainable parameters of `module` into one vector and their gradients into another.

    The module works on as before: its parameters, and their `.grad`, become views. Tied weights lie there once; frozen
    ones (`requires_grad=False`) do not at all; a parameter that a backward pass does not reach has a zero gradient.

    `wire` is what the ranks reduce: the gradients and, behind them, `tail` more numbers that ride along for nothing
    (losses, counts, KL), and with `tracks_use` one more for each parameter: whether anything reached it.
    """

    def __init__(self, module: nn.Module, tail: int = 0, tracks_use: bool = False) -> None:
        trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
        if not trainable:
            raise ValueError("the module has no trainable parameters")
        kinds = {(parameter.dtype, parameter.device) for parameter in trainable}
        if kinds != {(torch.float32, trainable[0].device)}:
            raise ValueError(f"parameters must be float32 on one device, got {sorted(map(str, kinds))}")
        device = trainable[0].device
        self.size = sum(parameter.numel() for parameter in trainable)
        self.parameters = torch.empty(self.size, device=device)
        """float32 (size,): all parameters."""
        self.wire = torch.zeros(self.size + tail + tracks_use * len(trainable), device=device)
        """float32 (size + tail + uses,): gradients, then the tail, then the uses."""
        self.gradients = self.wire[: self.size]
        self.tail = self.wire[self.size : self.size + tail]
        self.uses = self.wire[self.size + tail :]
        """float32 (parameters,), or (0,) where use is not tracked: above 0 where a backward pass reached the
        parameter."""
        self.members = trainable
        self.homes: list[torch.Tensor] = []
        """The place of each parameter's gradient."""
        offset = 0
        with torch.no_grad():
            for parameter in trainable:
                end = offset + parameter.numel()
                home = self.parameters[offset:end].view(parameter.shape)
                home.copy_(parameter)
                parameter.data = home
                self.homes.append(self.gradients[offset:end].view(parameter.shape))
                parameter.grad = self.homes[-1]
                offset = end
        self.flat = nn.Parameter(self.parameters, requires_grad=True)
        """The same memory as one parameter, for optimizers that work elementwise: one tensor to step, not dozens."""
        self.flat.grad = self.gradients

    def release_gradients(self) -> None:
        """Takes every `.grad` away, so that `own_gradients` can tell which of them a backward pass makes."""
        for parameter in self.members:
            parameter.grad = None

    def own_gradients(self) -> None:
        """Puts the views back where something replaced a parameter's `.grad` (`zero_grad(set_to_none=True)` does)."""
        reached = []
        for parameter, home in zip(self.members, self.homes):
            reached.append(parameter.grad is not None)
            if parameter.grad is None:
                parameter.grad = home
            elif parameter.grad is not home:
                bring_home(parameter, home)
        if self.uses.numel():
            self.uses.copy_(torch.tensor(reached))

    def release_unused(self) -> None:
        """Takes `.grad` away where no rank's backward pass reached the parameter: optimizers then leave it alone."""
        for parameter, use in zip(self.members, self.uses.tolist()):
            if not use:
                parameter.grad = None

    def holds(self, module: nn.Module) -> bool:
        """Whether the trainable parameters of `module` still are these and lie here; `to` and a thaw change that."""
        trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
        same = len(trainable) == len(self.members) and all(map(lambda a, b: a is b, trainable, self.members))
        storage = self.parameters.untyped_storage().data_ptr()
        return same and all(parameter.untyped_storage().data_ptr() == storage for parameter in trainable)


def bring_home(parameter: torch.Tensor, home: torch.Tensor) -> None:
    """Puts the gradient that a backward pass has made elsewhere into its place."""
    gradient = parameter.grad
    assert gradient is not None
    home.copy_(gradient.to_dense() if gradient.is_sparse else gradient)
    parameter.grad = home
