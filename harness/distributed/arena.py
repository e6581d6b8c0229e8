"""Parameters and gradients of a module, flat: a step is one collective on one buffer."""

from __future__ import annotations

import torch
from torch import nn


class Arena:
    """Lays the trainable parameters of `module` into one vector and their gradients into another.

    The module works on as before: its parameters, and their `.grad`, become views. Tied weights lie there once; frozen
    ones (`requires_grad=False`) do not at all; a parameter that a backward pass does not reach has a zero gradient.

    `wire` is what the ranks reduce: the gradients and, behind them, `tail` more numbers that ride along for nothing
    (losses, counts, KL).
    """

    def __init__(self, module: nn.Module, tail: int = 0) -> None:
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
        self.wire = torch.zeros(self.size + tail, device=device)
        """float32 (size + tail,): gradients, then the tail."""
        self.gradients = self.wire[: self.size]
        self.tail = self.wire[self.size :]
        self.members = trainable
        offset = 0
        with torch.no_grad():
            for parameter in trainable:
                end = offset + parameter.numel()
                home = self.parameters[offset:end].view(parameter.shape)
                home.copy_(parameter)
                parameter.data = home
                parameter.grad = self.gradients[offset:end].view(parameter.shape)
                offset = end
        self.flat = nn.Parameter(self.parameters, requires_grad=True)
        """The same memory as one parameter, for optimizers that work elementwise: one tensor to step, not dozens."""
        self.flat.grad = self.gradients

    def zero_gradients(self) -> None:
        self.gradients.zero_()

    def own_gradients(self) -> None:
        """Puts the views back where something replaced a parameter's `.grad` (`zero_grad(set_to_none=True)` does)."""
        offset = 0
        for parameter in self.members:
            end = offset + parameter.numel()
            home = self.gradients[offset:end].view(parameter.shape)
            if parameter.grad is None:
                parameter.grad = home
            elif parameter.grad.data_ptr() != home.data_ptr():
                home.copy_(parameter.grad)
                parameter.grad = home
            offset = end
