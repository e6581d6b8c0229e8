"""Data-parallel training of any PyTorch module: the batches, losses and steps of one process, on N ranks."""

from __future__ import annotations

import contextlib
import functools
import io
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from harness.distributed.collectives import Collectives
from harness.distributed.world import World, set_threads
from harness.errors import Diverged
from harness.settings import validate
from harness.training.batchnorm import GlobalBatchNorm, agree_on_buffers
from harness.training.data import Shares, to_device
from harness.training.optimizers import OptimizerSettings, make_optimizer
from harness.training.precision import Precision, PrecisionSettings
from harness.training.trainer import Step, check_equal

Loss = Callable[[Any, Any], torch.Tensor]


@dataclass(frozen=True)
class Trained:
    """An epoch of training; equal on all ranks."""

    loss: float
    """Mean over the samples of the steps that were taken; nan where all of them were skipped."""
    samples: int
    """Of all ranks, those of skipped steps too."""
    steps: int
    """That changed the parameters."""
    skipped: int
    """That overflowed in fp16 on some rank and were skipped by all."""


@dataclass(frozen=True)
class Tested:
    """A pass over a test set; equal on all ranks."""

    loss: float
    samples: int
    metric: float | None = None
    """Mean over all samples; None where no metric was asked for."""


class DistributedTrainer:
    """Trains `model` on the ranks that this process was launched with, or alone.

    trainer = DistributedTrainer(model, torch.optim.SGD(model.parameters(), lr=0.1), torch.nn.CrossEntropyLoss())
    for epoch in range(10):
        trained = trainer.train_epoch(train_loader)
        tested = trainer.test_epoch(test_loader, metric=lambda outputs, targets: outputs.argmax(-1) == targets)

    N ranks do what one rank does, to rounding:

    - Batch sizes are global. A DataLoader over a map-style dataset is cut up here: each of its batches is shared out
      over the ranks, and what its sampler draws follows from `seed` and the epoch. It keeps its dataset, sampler,
      collate_fn and workers. Anything else that gives batches (a DataLoader over an IterableDataset, a list, a
      generator) is taken as this rank's own part of the data; ranks whose part ends early take part without samples
      until all have ended.
    - Losses, and through them gradients, are weighted by sample counts, whatever each rank's share of a batch; none is
      fine too. What no rank's loss reaches gets no gradient, as in torch alone. Tied weights and frozen parameters may
      be, and what is frozen may change between epochs.
    - BatchNorm: with `batch_norm="global"` it normalises by the batch of all ranks, as one rank would, for two small
      all-reduces a layer. All ranks must then reach these layers in the same order. With `"local"` each rank normalises
      by its own share, for nothing; the running statistics become the ranks' average, weighted by samples, at the end
      of each epoch. Other buffers become rank 0's then. BatchNorm in a `forward` of your own stays local.
    - What is random inside the model or the dataset (dropout, augmentation) is each rank's own affair.

    A batch is `(inputs, …, targets)`: `loss_fn(model(inputs, …), targets)`. One that is no list or tuple goes whole to
    the model (a mapping as keyword arguments) and whole to the loss. The loss is the mean over the samples, or a loss
    for each of them.

    optimizer: one of torch's over the model's parameters, with whatever groups and state; or an OptimizerSettings, or a
    method's name. collectives: what the ranks agree by; None finds or starts it. precision: a kind (fp32, bf16, fp16),
    or settings, or a Precision. max_grad_norm: 2-norm that the agreed gradient is clipped to. device: where the model
    is moved to; None is this rank's GPU where the ranks are found here, else where the model lies.

    Parameters, buffers and the optimizer's state are rank 0's at the start. Raises ValueError for what cannot be
    trained; Diverged, on all ranks alike, for a non-finite loss or gradient; RanksDisagree if parameters ever differ.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | OptimizerSettings | str,
        loss_fn: Loss,
        *,
        collectives: Collectives | None = None,
        precision: Precision | PrecisionSettings | str = "fp32",
        max_grad_norm: float | None = None,
        batch_norm: Literal["global", "local"] = "global",
        seed: int = 0,
        device: torch.device | str | None = None,
    ) -> None:
        if batch_norm not in ("global", "local"):
            raise ValueError(f"batch_norm must be 'global' or 'local', got {batch_norm!r}")
        if getattr(loss_fn, "reduction", "mean") == "sum":
            raise ValueError(
                "loss_fn must give the mean over the samples (or one loss for each): it has reduction='sum'"
            )
        if collectives is None:
            world = own_world()
            collectives, device = world.collectives, device or world.device
        self.device = torch.device(device or next(model.parameters()).device)
        self.model = model.to(self.device)
        self.collectives, self.loss_fn = collectives, loss_fn
        self.global_batch_norm = batch_norm == "global"
        self.precision = as_precision(precision, self.device)
        self.step = Step(
            model,
            lambda arena: as_optimizer(optimizer, model, collectives),
            collectives,
            self.precision,
            statistics=1,
            max_grad_norm=max_grad_norm,
            tracks_use=True,
        )
        self.shares = Shares(collectives, seed)
        self.epoch = 0
        """Number of the next epoch of training, which shuffling follows from."""

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        return self.step.optimizer

    def train_epoch(self, loader: Iterable[Any], before_step: Callable[[int], None] | None = None) -> Trained:
        """One pass over `loader`, a step for each batch.

        `before_step(n)` is called before step n of this epoch (from 0), to set a learning rate, say.
        """
        step = self.step
        if not step.arena.holds(self.model):
            step.lay_out()
        self.model.train()
        loss_sum, counted, seen, own_seen = 0.0, 0, 0, 0
        taken, skipped = step.gradient_steps, step.skipped_steps
        with GlobalBatchNorm(self.model, self.collectives, self.global_batch_norm) as norm:
            for number, share in enumerate(self.shares.of(loader, self.epoch)):
                if before_step is not None:
                    before_step(number)
                norm.counted = share.samples > 0
                compute = functools.partial(self.loss_and_statistics, share.batch)
                takes_part = norm.counted or norm.layers
                loss = float(step.gradient(compute if takes_part else None, share.samples / share.total)[0])
                if not math.isfinite(loss) and not self.precision.scales_loss:
                    raise Diverged("non-finite loss")
                if step.apply():
                    loss_sum, counted = loss_sum + loss * share.total, counted + share.total
                seen, own_seen = seen + share.total, own_seen + share.samples
        if not seen:
            raise ValueError("the loader gave no batch on any rank")
        agree_on_buffers(self.model, self.collectives, own_seen, agreed=norm.layers)
        check_equal(self.collectives, step.arena.parameters)
        self.epoch += 1
        mean = loss_sum / counted if counted else math.nan
        return Trained(mean, seen, step.gradient_steps - taken, step.skipped_steps - skipped)

    @torch.no_grad()
    def test_epoch(self, loader: Iterable[Any], metric: Loss | None = None) -> Tested:
        """Mean loss over all samples of `loader`, each counted once; the model is in evaluation mode meanwhile.

        `metric(outputs, targets)` gives a number (or truth) for each sample, or their mean.
        """
        sums = {"samples": 0.0, "loss": 0.0, "metric": 0.0}
        with evaluating(self.model), GlobalBatchNorm(self.model, self.collectives, self.global_batch_norm) as norm:
            for share in self.shares.of(loader, self.epoch):
                norm.counted = share.samples > 0
                if not norm.counted and not norm.layers:
                    continue
                with self.precision.autocast():
                    outputs, targets = self.predict(share.batch)
                    loss = self.loss_fn(outputs, targets)
                if norm.counted:
                    sums["samples"] += share.samples
                    sums["loss"] += share.samples * float(loss.double().mean())
                    if metric is not None:
                        sums["metric"] += share.samples * float(
                            torch.as_tensor(metric(outputs, targets)).double().mean()
                        )
        agreed = self.collectives.agree(sums)
        samples = agreed["samples"]
        if not samples:
            raise ValueError("the loader gave no batch on any rank")
        return Tested(agreed["loss"] / samples, int(samples), None if metric is None else agreed["metric"] / samples)

    def predict(self, batch: Any) -> tuple[Any, Any]:
        """The model's outputs for a batch, and its targets."""
        batch = to_device(batch, self.device)
        if isinstance(batch, (list, tuple)) and len(batch) > 1:
            *inputs, targets = batch
            return self.model(*inputs), targets
        if isinstance(batch, (list, tuple)):
            batch = batch[0]
        return self.model(**batch) if isinstance(batch, Mapping) else self.model(batch), batch

    def loss_and_statistics(self, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        loss = self.loss_fn(*self.predict(batch)).mean()
        return loss, loss.detach().view(1)

    def state(self) -> dict[str, Any]:
        """All that going on depends on, equal on all ranks: tensors and plain values."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "precision": self.precision.state(),
            "epoch": self.epoch,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.precision.load_state(state["precision"])
        self.epoch = state["epoch"]


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and then for each module the mode that it had."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


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
    optimizer: torch.optim.Optimizer | OptimizerSettings | str, model: nn.Module, collectives: Collectives
) -> torch.optim.Optimizer:
    """The optimizer over the model's parameters, its state that of rank 0."""
    if isinstance(optimizer, str):
        optimizer = validate(OptimizerSettings, {"name": optimizer}, prefix="optimizer")
    if isinstance(optimizer, OptimizerSettings):
        return make_optimizer(optimizer, model.parameters())
    known = set(map(id, model.parameters()))
    stepped = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    strange = sum(id(parameter) not in known for parameter in stepped)
    if strange:
        raise ValueError(
            f"the optimizer steps {strange} parameters that are not the model's: their gradients would differ between "
            "the ranks; put all that learns into one module"
        )
    if collectives.size > 1 or any(parameter.device.type != "cpu" for parameter in stepped):
        packed = io.BytesIO()
        torch.save(optimizer.state_dict(), packed)
        sent = collectives.broadcast_object(packed.getvalue())
        # loading also moves it to where the parameters lie now
        optimizer.load_state_dict(torch.load(io.BytesIO(sent), map_location="cpu", weights_only=True))
    return optimizer
