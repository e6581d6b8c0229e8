"""What a script gives a DistributedTrainer: made into what it works with, or refused with the way out."""

from __future__ import annotations

import functools
import os
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from harness.distributed.transports.base import Communicator
from harness.distributed.world import World
from harness.schema import OptimizerSettings, PrecisionSettings
from harness.settings import validate
from harness.training.first_batch import CannotTrain
from harness.training.losses import named
from harness.training.optimizers import make_optimizer
from harness.training.precision import Precision
from harness.training.process import set_threads
from harness.training.users_optimizer import refuse_optimizer, share_state


@functools.cache
def own_world() -> World:
    """This process as a rank, started once; it stops at the process's end.

    A rank that raises leaves through Horovod's own end, which the others learn of: nobody waits for it.
    """
    world = World()
    world.start("auto")
    if "OMP_NUM_THREADS" not in os.environ:
        set_threads(world.cores)
    return world


def as_precision(precision: Precision | PrecisionSettings | str, device: torch.device) -> Precision:
    if isinstance(precision, Precision):
        return precision
    if isinstance(precision, str):
        precision = validate(PrecisionSettings, {"kind": precision}, prefix="precision")
    return Precision(precision, device)


def as_optimizer(
    optimizer: torch.optim.Optimizer | OptimizerSettings | str, model: nn.Module, communicator: Communicator
) -> torch.optim.Optimizer:
    """The optimizer over the model's parameters, its state that of rank 0."""
    if isinstance(optimizer, str):
        optimizer = validate(OptimizerSettings, {"name": optimizer}, prefix="optimizer")
    if isinstance(optimizer, OptimizerSettings):
        return make_optimizer(optimizer, model.parameters())
    refuse_optimizer(optimizer, model)
    share_state(optimizer, communicator)
    return optimizer


def refuse_loss(loss_fn: Any) -> None:
    """Raises CannotTrain where it is seen without a batch that the loss is no mean over samples."""
    if not callable(loss_fn):
        raise CannotTrain(f"loss_fn must be a function of outputs and targets, got {type(loss_fn).__name__}")
    given = loss_fn.keywords if isinstance(loss_fn, functools.partial) else getattr(loss_fn, "__dict__", {})
    if given.get("reduction", getattr(loss_fn, "reduction", "mean")) == "sum":
        raise CannotTrain(
            f"loss_fn ({named(loss_fn)}) must give the mean over the samples (or one loss for each): it has "
            "reduction='sum'"
        )


def refuse_lazy(model: nn.Module) -> None:
    lazy = [name for name, tensor in [*model.named_parameters(), *model.named_buffers()] if is_lazy(tensor)]
    if lazy:
        raise CannotTrain(
            f"{lazy[0]} of the model has no shape yet (it has lazy layers): call the model on a batch before the "
            "trainer is made"
        )
