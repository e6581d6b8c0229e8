"""Optimizers and their learning rates: which method steps, how fast, and how the rate changes on the way.

Everything works on one flat parameter (`distributed.arena`) as well as on a list of them. A rate that depends on
progress is a pure function of it, so that all ranks and a resumed run compute the same one; a rate that depends on a
metric takes a value that the ranks have agreed on already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from harness.schema import OptimizerSettings
from harness.training.flat_optimizers import FlatAdam, FlatOptimizer, FlatRMSprop

HOW_IT_STEPS = {"lr", "fused", "foreach", "capturable"}
"""Settings of an optimizer's groups that belong to the device, and a rate that `LearningRate` keeps."""


def make_optimizer(
    settings: OptimizerSettings, params: Iterable[torch.Tensor], capturable: bool = False
) -> torch.optim.Optimizer:
    """The optimizer over `params` at the unscaled rate; `LearningRate` sets the rate from then on.

    The fused kernels are taken where torch has them: on one flat vector a step is then one pass over memory.
    `capturable`: a CUDA graph can hold its step, with the rate in a tensor on the device (adagrad has no such step).
    """
    params = list(params)
    devices = {param.device.type for param in params}
    lr, decay, eps = settings.lr, settings.weight_decay, settings.eps
    fused = devices <= {"cpu", "cuda"}
    if settings.name == "adagrad":
        return torch.optim.Adagrad(params, lr=lr, eps=eps, weight_decay=decay, fused=devices <= {"cpu"})
    rate: Any = torch.tensor(lr, dtype=torch.float32, device=params[0].device) if capturable else lr
    if settings.name == "sgd":
        return torch.optim.SGD(params, lr=rate, momentum=settings.momentum, weight_decay=decay, fused=fused)
    graph = {"capturable": capturable and devices == {"cuda"}}
    if settings.name == "adam":
        return torch.optim.Adam(
            params, lr=rate, betas=settings.betas, eps=eps, weight_decay=decay, fused=fused, **graph
        )
    if settings.name == "adamw":
        return torch.optim.AdamW(
            params, lr=rate, betas=settings.betas, eps=eps, weight_decay=decay, fused=fused, **graph
        )
    return torch.optim.RMSprop(
        params, lr=rate, alpha=settings.alpha, eps=eps, weight_decay=decay, momentum=settings.momentum, **graph
    )


def make_flat_optimizer(
    settings: OptimizerSettings, flat: torch.nn.Parameter, capturable: bool = False
) -> torch.optim.Optimizer | FlatOptimizer:
    """The optimizer over an arena's flat vector. On the CPU our own Adam, AdamW and RMSprop are torch's to the bit, and
    cost no imports; on a GPU a graph can hold the step of torch's."""
    if flat.device.type != "cpu" or settings.name not in ("adam", "adamw", "rmsprop"):
        return make_optimizer(settings, [flat], capturable)
    lr, decay, eps = settings.lr, settings.weight_decay, settings.eps
    if settings.name == "rmsprop":
        return FlatRMSprop(flat, lr, settings.alpha, eps, decay, settings.momentum)
    return FlatAdam(flat, lr, settings.betas, eps, decay, decoupled=settings.name == "adamw")


def load_in_place(optimizer: torch.optim.Optimizer | FlatOptimizer, state: dict[str, Any]) -> None:
    """`optimizer.load_state_dict(state)` into the tensors that it has, which graphs may hold; how it steps, and where
    its rate lies, stay its own, whatever device the state comes from."""
    ways = [{name: group[name] for name in HOW_IT_STEPS & group.keys()} for group in optimizer.param_groups]
    before = {parameter: dict(values) for parameter, values in optimizer.state.items()}
    optimizer.load_state_dict(state)
    for group, own in zip(optimizer.param_groups, ways):
        group.update(own)
    for parameter, values in before.items():
        loaded = optimizer.state[parameter]
        for name, tensor in values.items():
            if name in loaded:
                tensor.copy_(loaded[name])
            else:
                tensor.zero_()
            loaded[name] = tensor


def bare_step(optimizer: torch.optim.Optimizer | FlatOptimizer) -> Callable[[], Any]:
    """`optimizer.step`; for Adam on one flat CPU parameter its fused kernel alone, without the 15 us of bookkeeping
    around it (hooks, profiler records, grouping by device), which a step of a small network would feel.

    For optimizers that `make_optimizer` has made: hooks that are registered later are not called.
    """
    if isinstance(optimizer, FlatOptimizer):
        return optimizer.step
    group = optimizer.param_groups[0]
    only = group["params"][0]
    kernel = {torch.optim.Adam: torch._fused_adam_, torch.optim.AdamW: torch._fused_adamw_}.get(type(optimizer))
    single = len(optimizer.param_groups) == 1 and len(group["params"]) == 1
    special = group.get("amsgrad") or group.get("maximize") or optimizer._optimizer_step_pre_hooks
    if kernel is None or not single or special or not group.get("fused") or only.device.type != "cpu":
        return optimizer.step

    def step() -> None:
        state = optimizer.state.get(only)
        if not state or only.grad is None:  # the first step makes the state
            optimizer.step()
            return
        group = optimizer.param_groups[0]  # another one after a load of state
        beta1, beta2 = group["betas"]
        state["step"] += 1
        kernel(
            *([only.data], [only.grad], [state["exp_avg"]], [state["exp_avg_sq"]], [], [state["step"]]),
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

    return step
