"""An optimizer of the user's own: whether it can step on what ranks have agreed on, and rank 0's state in it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from harness.distributed.agreement import NotSent, pack, sendable, unpack
from harness.distributed.transports.base import Communicator
from harness.training.first_batch import CannotTrain


def refuse_optimizer(optimizer: Any, model: nn.Module) -> None:
    """Raises CannotTrain, with the way out, for an optimizer that does not step on the gradients that it is given."""
    if not callable(getattr(optimizer, "step", None)) or not hasattr(optimizer, "param_groups"):
        raise CannotTrain(
            f"optimizer must be one of torch's, an OptimizerSettings or a name, got {type(optimizer).__name__}"
        )
    name = type(optimizer).__name__
    if isinstance(optimizer, torch.optim.SparseAdam):
        raise CannotTrain(
            "the optimizer SparseAdam takes sparse gradients alone, and those that ranks agree on are dense: use Adam, "
            "or SGD, which steps on them as on sparse ones"
        )
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise CannotTrain(
            f"the optimizer {name} asks for the loss again within a step (a closure), which is not done here: use one "
            "that steps on a gradient, such as SGD or Adam"
        )
    known = set(map(id, model.parameters()))
    stepped = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    strange = sum(id(parameter) not in known for parameter in stepped)
    if strange:
        raise CannotTrain(
            f"the optimizer steps {strange} parameters that are not the model's: their gradients would differ between "
            "the ranks; put all that learns into one module"
        )


def share_state(optimizer: torch.optim.Optimizer, communicator: Communicator) -> None:
    """Rank 0's settings of each group and state of each parameter on every rank, and state where its parameter lies.

    Groups, and tensors in them, stay the objects that they are: schedulers and scripts hold them. An optimizer with a
    `state_dict` of its own is asked for it. What cannot be pickled stays each rank's own.
    """
    stepped = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    device = stepped[0].device
    if communicator.size > 1:
        own_way = isinstance(optimizer, torch.optim.Optimizer) and (
            type(optimizer).state_dict is torch.optim.Optimizer.state_dict
        )
        packed = None
        if communicator.rank == 0:
            of_parameters = [dict(optimizer.state.get(parameter, {})) for parameter in stepped] if own_way else None
            groups = [{key: group[key] for key in group if key != "params"} for group in optimizer.param_groups]
            packed = pack(sendable({"state": of_parameters or optimizer.state_dict(), "groups": groups}))
        received = unpack(communicator.broadcast_object(packed), device)
        if not own_way:
            optimizer.load_state_dict(received["state"])
        elif communicator.rank != 0:
            for parameter, values in zip(stepped, received["state"]):
                if values:
                    adopt(optimizer.state[parameter], values)
            for group, values in zip(optimizer.param_groups, received["groups"]):
                adopt(group, values)
    for parameter in stepped:  # the model may have been moved since the state was made
        for key, value in getattr(optimizer, "state", {}).get(parameter, {}).items():
            if isinstance(value, torch.Tensor) and value.dim() and value.device != parameter.device:
                optimizer.state[parameter][key] = value.to(parameter.device)


def adopt(own: dict[str, Any], values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        mine = own.get(key)
        if isinstance(value, NotSent):
            continue
        if isinstance(mine, torch.Tensor) and isinstance(value, torch.Tensor) and mine.shape == value.shape:
            mine.copy_(value)
        else:
            own[key] = value
