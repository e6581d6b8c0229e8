"""Adam, AdamW and RMSprop on one flat vector on the CPU, equal to torch's to the bit, state and all.

`torch.optim` imports the compiler when its first optimizer is built, which takes most of a second at each start, and a
step of it spends 15 us on hooks, profiler records and grouping. Here is what is left: one kernel, one dict of state.
"""

from __future__ import annotations

from typing import Any

import torch


class FlatOptimizer:
    """An optimizer of one parameter group that holds one float32 CPU tensor, in the format of `torch.optim`:
    `param_groups`, `state` by parameter, `state_dict`, `load_state_dict` and `step` mean what they mean there."""

    def __init__(self, parameter: torch.Tensor, **options: Any) -> None:
        self.parameter = parameter
        self.param_groups: list[dict[str, Any]] = [{**options, "params": [parameter]}]
        self.state: dict[torch.Tensor, dict[str, torch.Tensor]] = {}

    def step(self) -> None:
        raise NotImplementedError

    def zero_grad(self, set_to_none: bool = True) -> None:
        """The arena keeps the gradient where it is: it is set to zero."""
        if self.parameter.grad is not None:
            self.parameter.grad.zero_()

    def state_dict(self) -> dict[str, Any]:
        (group,) = self.param_groups
        state = {0: dict(self.state[self.parameter])} if self.parameter in self.state else {}
        return {"state": state, "param_groups": [{**group, "params": [0]}]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Copies what is given, also what a `torch.optim` optimizer of the same method gave. Raises ValueError where it
        belongs to other parameters."""
        (group,) = state["param_groups"]
        if len(group["params"]) != 1:
            raise ValueError(f"the state is of {len(group['params'])} parameters, this optimizer has one")
        self.param_groups = [{**self.param_groups[0], **group, "params": [self.parameter]}]
        self.state = {}
        for values in state["state"].values():
            for name, tensor in values.items():
                if name != "step" and tensor.shape != self.parameter.shape:
                    raise ValueError(f"{name} has shape {tuple(tensor.shape)}, not {tuple(self.parameter.shape)}")
            self.state[self.parameter] = {
                name: tensor.detach().to("cpu", torch.float32, copy=True) for name, tensor in values.items()
            }

    def _state(self, *names: str) -> dict[str, torch.Tensor]:
        """The parameter's state, made at the first step: a count, and zeros by these names."""
        state = self.state.get(self.parameter)
        if state is None:
            state = {"step": torch.tensor(0.0)}
            state |= {name: torch.zeros_like(self.parameter.data) for name in names}
            self.state[self.parameter] = state
        return state


class FlatAdam(FlatOptimizer):
    """Kingma and Ba 2015; with `decoupled` decay Loshchilov and Hutter 2019. By torch's fused kernel."""

    def __init__(
        self, parameter: torch.Tensor, lr: float, betas: tuple[float, float], eps: float, weight_decay: float,
        decoupled: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(
            parameter, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=False, maximize=False,
            foreach=None, capturable=False, differentiable=False, fused=True, decoupled_weight_decay=decoupled,
        )  # fmt: skip
        self.kernel = torch._fused_adamw_ if decoupled else torch._fused_adam_

    @torch.no_grad()
    def step(self) -> None:
        gradient = self.parameter.grad
        if gradient is None:
            return
        (group,), state = self.param_groups, self._state("exp_avg", "exp_avg_sq")
        beta1, beta2 = group["betas"]
        state["step"] += 1
        self.kernel(
            *([self.parameter.data], [gradient], [state["exp_avg"]], [state["exp_avg_sq"]], [], [state["step"]]),
            amsgrad=False,
            lr=float(group["lr"]),
            beta1=beta1,
            beta2=beta2,
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
            grad_scale=None,
            found_inf=None,
        )


class FlatRMSprop(FlatOptimizer):
    """Tieleman and Hinton 2012, as torch has it: ε is added to the root."""

    def __init__(
        self, parameter: torch.Tensor, lr: float, alpha: float, eps: float, weight_decay: float, momentum: float
    ) -> None:
        super().__init__(
            parameter, lr=lr, momentum=momentum, alpha=alpha, eps=eps, centered=False, weight_decay=weight_decay,
            capturable=False, foreach=None, maximize=False, differentiable=False,
        )  # fmt: skip

    @torch.no_grad()
    def step(self) -> None:
        gradient, parameter, (group,) = self.parameter.grad, self.parameter.data, self.param_groups
        if gradient is None:
            return
        momentum = group["momentum"]
        state = self._state("square_avg", *(["momentum_buffer"] if momentum > 0 else []))
        state["step"] += 1
        if group["weight_decay"] != 0:
            gradient = gradient.add(parameter, alpha=group["weight_decay"])
        square = state["square_avg"]
        square.mul_(group["alpha"]).addcmul_(gradient, gradient, value=1 - group["alpha"])
        root = square.sqrt().add_(group["eps"])
        if momentum > 0:
            buffer = state["momentum_buffer"]
            buffer.mul_(momentum).addcdiv_(gradient, root)
            parameter.add_(buffer, alpha=-float(group["lr"]))
        else:
            parameter.addcdiv_(gradient, root, value=-float(group["lr"]))
