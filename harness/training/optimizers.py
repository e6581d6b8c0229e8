"""Optimizers and their learning rates: which method steps, how fast, and how the rate changes on the way.

Everything works on one flat parameter (`distributed.arena`) as well as on a list of them. A rate that depends on
progress is a pure function of it, so that all ranks and a resumed run compute the same one; a rate that depends on a
metric takes a value that the ranks have agreed on already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch

from harness.errors import BadInput
from harness.registry import named_class
from harness.schema import OptimizerSettings
from harness.training.flat_optimizers import FlatAdam, FlatOptimizer, FlatRMSprop

HOW_IT_STEPS = {"lr", "fused", "foreach", "capturable"}
"""Settings of an optimizer's groups that belong to the device, and a rate that `LearningRate` keeps."""


Params = list[torch.Tensor]


def adagrad(settings: OptimizerSettings, params: Params, capturable: bool) -> torch.optim.Optimizer:
    given: dict[str, Any] = {"lr": settings.lr, "eps": settings.eps, "weight_decay": settings.weight_decay}
    return torch.optim.Adagrad(params, **given, fused=lie_on(params, "cpu"))  # a graph cannot hold its step


def sgd(settings: OptimizerSettings, params: Params, capturable: bool) -> torch.optim.Optimizer:
    given: dict[str, Any] = {"momentum": settings.momentum, "weight_decay": settings.weight_decay}
    return torch.optim.SGD(params, lr=rate(settings, params, capturable), **given, fused=lie_on(params, "cpu", "cuda"))


def adam(
    settings: OptimizerSettings, params: Params, capturable: bool, kind: type = torch.optim.Adam
) -> torch.optim.Optimizer:
    return kind(
        params,
        lr=rate(settings, params, capturable),
        betas=settings.betas,
        eps=settings.eps,
        weight_decay=settings.weight_decay,
        fused=lie_on(params, "cpu", "cuda"),
        capturable=capturable and lie_on(params, "cuda"),
    )


def rmsprop(settings: OptimizerSettings, params: Params, capturable: bool) -> torch.optim.Optimizer:
    return torch.optim.RMSprop(
        params,
        lr=rate(settings, params, capturable),
        alpha=settings.alpha,
        eps=settings.eps,
        weight_decay=settings.weight_decay,
        momentum=settings.momentum,
        capturable=capturable and lie_on(params, "cuda"),
    )


def rate(settings: OptimizerSettings, params: Params, capturable: bool) -> Any:
    """In a tensor on the device, where a graph is to hold it."""
    return torch.tensor(settings.lr, dtype=torch.float32, device=params[0].device) if capturable else settings.lr


def lie_on(params: Params, *devices: str) -> bool:
    return {param.device.type for param in params} <= set(devices)


OPTIMIZERS: Mapping[str, Callable[[OptimizerSettings, Params, bool], torch.optim.Optimizer]] = {
    "sgd": sgd,
    "adam": adam,
    "adamw": partial(adam, kind=torch.optim.AdamW),
    "rmsprop": rmsprop,
    "adagrad": adagrad,
}
"""By the names of `optimizer.name`."""


def make_optimizer(
    settings: OptimizerSettings, params: Iterable[torch.Tensor], capturable: bool = False
) -> torch.optim.Optimizer:
    """The optimizer over `params` at the unscaled rate; `LearningRate` sets the rate from then on.

    The fused kernels are taken where torch has them: on one flat vector a step is then one pass over memory.
    `capturable`: a CUDA graph can hold its step, with the rate in a tensor on the device (adagrad has no such step).
    One of a user's own, `module:Class`, is called as torch's are, with the rate and `optimizer.kwargs`; BadInput where
    it refuses them.
    """
    if settings.name in OPTIMIZERS:
        return OPTIMIZERS[settings.name](settings, list(params), capturable)
    kind = named_class(settings.name, {}, "optimizer.name", torch.optim.Optimizer)
    try:
        return kind(params, lr=settings.lr, **settings.kwargs)
    except (TypeError, ValueError) as error:
        given = f"with lr = {settings.lr} and optimizer.kwargs = {settings.kwargs}"
        raise BadInput(f"optimizer.name = {settings.name!r} cannot be made {given}: {error}") from None


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
