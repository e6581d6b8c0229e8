"""Data-parallel training of any PyTorch module: the batches, losses and steps of one process, on N ranks."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

import torch
from torch import nn

from harness.distributed.agreement import check_equal
from harness.distributed.sync.base import Synchronizer
from harness.distributed.transports.base import Communicator
from harness.errors import Diverged
from harness.schema import OptimizerSettings, PrecisionSettings
from harness.training.batchnorm import GlobalBatchNorm, agree_on_buffers
from harness.training.containers import is_sequence, to_device
from harness.training.data import BatchShare, Shares
from harness.training.epoch_results import Tally, Tested, Trained
from harness.training.first_batch import CannotTrain, look_at
from harness.training.losses import Loss, Losses, Measured
from harness.training.modes import Modes
from harness.training.precision import Precision
from harness.training.step import Step
from harness.training.trainer_arguments import as_optimizer, as_precision, own_world, refuse_lazy, refuse_loss

Metric = Callable[[Any, Any], Any]


STATISTICS = ("loss", "count", "samples", "claimed", "claims")
"""What rides along with the gradient: the loss as it was divided, what it is to be divided by, samples, and what ranks
whose part of a batch could not be collated say of the whole."""


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
    - Losses, and through them gradients, are weighted by what they are divided by: by sample counts, whatever each
      rank's share of a batch (none is fine too) and whatever its collate function left out; by the weight of the
      targets that count for torch's cross-entropies with class weights or `ignore_index`; by the mask's sum for a
      masked mean. A batch of which nothing counts is a step of nothing. What no rank's loss reaches gets no gradient,
      as in torch alone. Tied weights and frozen parameters may be, and what is frozen may change between epochs.
    - BatchNorm: with `batch_norm="global"` it normalises by the batch of all ranks, as one rank would, for two small
      all-reduces a layer. All ranks must then reach these layers in the same order. With `"local"` each rank normalises
      by its own share, for nothing; the running statistics become the ranks' average, weighted by samples, at the end
      of each epoch. Other buffers become rank 0's then, with a warning where they differed. BatchNorm in a `forward` of
      your own stays local. Modules that you have put into evaluation mode, in a model that trains, stay in it.
    - What is random inside the model or the dataset (dropout, augmentation) is each rank's own affair.

    A batch is `(inputs, …, targets)`: `loss_fn(model(inputs, …), targets)`. One that is no list or tuple (a dataclass,
    a PackedSequence) goes whole to the model (a mapping as keyword arguments) and whole to the loss. None is a batch of
    nothing. The loss is the mean over the samples, or a loss for each of them, or a `LossSum`. The first batch is
    looked at before anything is learned from it: what cannot be trained, such as a loss that is no mean over samples on
    several ranks, is refused then.

    optimizer: one of torch's over the model's parameters, with whatever groups and state; or an OptimizerSettings, or a
    method's name. communicator: what the ranks agree by; None finds or starts it. precision: a kind (fp32, bf16, fp16),
    or settings, or a Precision. max_grad_norm: 2-norm that the agreed gradient is clipped to. device: where the model
    is moved to; None is this rank's GPU where the ranks are found here, else where the model lies.
    accumulate_grad_batches: how many batches make one step, as if they were one batch. count_samples: tells how many
    samples a batch holds, where the length of its targets does not (sequences whose first dimension is time).
    synchronizer: how the ranks stay one model; None sums their gradients.

    Parameters, buffers and the optimizer's state are rank 0's at the start. Raises ValueError for what cannot be
    trained; Diverged, on all ranks alike, for a non-finite loss or gradient; RanksDisagree if parameters ever differ.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | OptimizerSettings | str,
        loss_fn: Loss,
        *,
        communicator: Communicator | None = None,
        precision: Precision | PrecisionSettings | str = "fp32",
        max_grad_norm: float | None = None,
        batch_norm: Literal["global", "local"] = "global",
        seed: int = 0,
        device: torch.device | str | None = None,
        accumulate_grad_batches: int = 1,
        count_samples: Callable[[Any], int] | None = None,
        synchronizer: Synchronizer | None = None,
        collectives: Communicator | None = None,
    ) -> None:
        if collectives is not None:
            warnings.warn("DistributedTrainer(collectives=…) is communicator=… now", FutureWarning, stacklevel=2)
            communicator = collectives
        if batch_norm not in ("global", "local"):
            raise CannotTrain(f"batch_norm must be 'global' or 'local', got {batch_norm!r}")
        if not isinstance(accumulate_grad_batches, int) or accumulate_grad_batches < 1:
            raise CannotTrain(
                f"accumulate_grad_batches must be a whole number of batches >= 1, got {accumulate_grad_batches!r}"
            )
        refuse_loss(loss_fn)
        refuse_lazy(model)
        if communicator is None:
            world = own_world()
            communicator, device = world.communicator, device or world.device
        self.device = torch.device(device or next(iter(model.parameters()), torch.empty(0)).device)
        self.model = model.to(self.device)
        self.communicator, self.loss_fn = communicator, loss_fn
        self.global_batch_norm = batch_norm == "global"
        self.accumulate = accumulate_grad_batches
        self.precision = as_precision(precision, self.device)
        self.losses = Losses(communicator, self.device)
        self.step = Step(
            model,
            lambda arena: as_optimizer(optimizer, model, communicator),
            communicator,
            self.precision,
            statistics=len(STATISTICS),
            max_grad_norm=max_grad_norm,
            tracks_use=True,
            synchronizer=synchronizer,
        )
        self.shares = Shares(communicator, seed, count_samples)
        self.epoch = 0
        """Number of the next epoch of training, which shuffling follows from."""
        self.looked_at: set[str] = set()
        """What the first batch was looked at for: to be learned from, to be tested on."""
        self.modes = Modes(self.model)
        self.warned: set[str] = set()
        """Buffers that differed between the ranks, told once."""
        self.unsettled = 0
        """Samples that this rank has learned from since the ranks' buffers were last made equal."""

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        found = self.step.optimizer
        assert isinstance(found, torch.optim.Optimizer)
        return found

    def train_epoch(self, loader: Iterable[Any], before_step: Callable[[int], None] | None = None) -> Trained:
        """One pass over `loader`, a step for each batch (or for each `accumulate_grad_batches` of them).

        `before_step(n)` is called before step n of this epoch (from 0), to set a learning rate, say.
        """
        trained = self.train_on(self.shares.of(loader, self.epoch), before_step)
        self.settle()
        self.epoch += 1
        return trained

    def train_batch(self, batch: Any) -> Trained:
        """One step on a batch of which this is the rank's own part (None: it has none); called by all ranks.

        For loops of one's own, such as several networks that learn in turn. `batches` shares out a loader's. What
        `train_epoch` does at its end is then up to you: `settle` makes buffers equal on all ranks, and compares
        parameters.
        """
        return self.train_on(self.shares.of([batch], self.epoch))

    def batches(self, loader: Iterable[Any]) -> Iterator[Any]:
        """This rank's part of each batch of `loader`, None where it has none; one epoch further each time."""
        for share in self.shares.of(loader, self.epoch):
            yield share.batch if share.samples else None
        self.epoch += 1

    def train_on(self, shares: Iterable[BatchShare], before_step: Callable[[int], None] | None = None) -> Trained:
        step, tally = self.step, Tally()
        self.lay_out()
        self.modes.train()
        taken, skipped = step.gradient_steps, step.skipped_steps
        empty = True
        with GlobalBatchNorm(self.model, self.communicator, self.global_batch_norm) as norm:
            number, pending, nominal = 0, 0, 0.0
            for share in shares:
                empty = False
                self.look_at(share, norm, learns=True)
                if not pending:
                    if before_step is not None:
                        before_step(number)
                    nominal = share.total * self.losses.form.per_sample * self.accumulate
                self.fill(share, norm, nominal, add=pending > 0)
                tally.own_samples += share.samples
                pending += 1
                if pending == self.accumulate:
                    self.apply(nominal, tally)
                    number, pending = number + 1, 0
            if pending:
                self.apply(nominal, tally)
        if empty:
            raise ValueError("the loader gave no batch on any rank")
        self.unsettled += tally.own_samples
        return Trained(tally.mean, tally.samples, step.gradient_steps - taken, step.skipped_steps - skipped)

    def fill(self, share: BatchShare, norm: GlobalBatchNorm, nominal: float, add: bool) -> None:
        """This rank's part of the gradient: of the sums that its loss is made of, divided by `nominal`."""
        norm.counted = share.samples > 0
        takes_part = norm.counted or share.batch is not None and (bool(norm.layers) or self.losses.collective)
        compute = functools.partial(self.loss_and_statistics, share, nominal)
        self.step.fill(compute if takes_part else None, float(norm.counted), add)
        if share.claimed is not None:
            self.step.arena.tail[3:5] += torch.tensor([float(share.claimed), 1.0], device=self.device)

    def apply(self, nominal: float, tally: Tally) -> None:
        """The step on what the ranks have summed; none where they had no sample between them."""
        loss, count, samples, claimed, claims = self.step.reduce().tolist()
        if claims and claimed != claims * samples:
            raise CannotTrain(
                f"the collate function makes {claimed / claims:g} samples of a batch, and {samples:g} of its parts on "
                f"{self.communicator.size} ranks, where it failed on {claims:g}: it must give the same samples of each"
            )
        if not samples:
            return
        divisor = count / nominal if count else 1.0  # where nothing counts the gradient is zero
        loss = loss / divisor if count else math.nan
        if count and not math.isfinite(loss) and not self.precision.scales_loss:
            raise Diverged("non-finite loss")
        tally.samples += round(samples)
        if self.step.apply(divisor) and count:
            tally.loss, tally.counted = tally.loss + loss * count, tally.counted + count

    def look_at(self, share: BatchShare, norm: GlobalBatchNorm, learns: bool) -> None:
        """Looks at the first batch, once for learning and once for testing; collective."""
        purpose = "learning" if learns else "testing"
        if purpose in self.looked_at or "learning" in self.looked_at:
            return
        norm.apart = True
        with self.precision.autocast():
            form = look_at(
                self.model, self.loss_fn, self.predict, share.batch, share.samples, self.communicator, learns
            )
        norm.apart = False
        if form is not None:
            self.losses.form = form
            self.looked_at.add(purpose)

    def lay_out(self) -> None:
        if not self.step.arena.holds(self.model):
            refuse_lazy(self.model)
            self.step.lay_out()
        if self.accumulate > 1:
            self.step.reduce_at_once()

    def settle(self) -> None:
        """Makes buffers equal on all ranks, and compares parameters; called by all ranks.

        A warning names buffers that had come to differ: a network of its own statistics gathers them from each rank's
        share, and rank 0's are kept.
        """
        with GlobalBatchNorm(self.model, self.communicator, self.global_batch_norm) as norm:
            differing = agree_on_buffers(self.model, self.communicator, self.unsettled, agreed=norm.layers)
        self.unsettled = 0
        new = [name for name in differing if name not in self.warned]
        self.warned.update(new)
        if new and self.communicator.rank == 0:
            warnings.warn(
                f"{', '.join(new)} of the model differed between the {self.communicator.size} ranks, each of which has "
                "seen its share of the data: rank 0's are kept. A buffer that forward changes is not what one rank "
                "would make of all data",
                stacklevel=3,
            )
        self.lay_out()
        self.step.synchronizer.settle()
        check_equal(self.communicator, self.step.arena.parameters)

    @torch.no_grad()
    def test_epoch(self, loader: Iterable[Any], metric: Metric | None = None) -> Tested:
        """Mean loss over all samples of `loader`, each counted once; the model is in evaluation mode meanwhile.

        `metric(outputs, targets)` gives a number (or truth) for each sample, or their mean.
        """
        sums = {"samples": 0.0, "loss": 0.0, "count": 0.0, "metric": 0.0}
        with self.modes.evaluating(), GlobalBatchNorm(self.model, self.communicator, self.global_batch_norm) as norm:
            for share in self.shares.of(loader, self.epoch):
                self.look_at(share, norm, learns=False)
                norm.counted = share.samples > 0
                collective = norm.layers or self.losses.collective
                if not norm.counted and (share.batch is None or not collective):
                    continue
                with self.precision.autocast():
                    outputs, targets, measured = self.measure(share)
                if norm.counted:
                    count = float(measured.count)
                    sums["samples"] += share.samples
                    sums["count"] += count
                    sums["loss"] += float(measured.value.double()) * float(measured.factor) if count else 0.0
                    if metric is not None:
                        sums["metric"] += share.samples * float(
                            torch.as_tensor(metric(outputs, targets)).double().mean()
                        )
        agreed = self.communicator.agree(sums)
        samples, count = agreed["samples"], agreed["count"]
        if not samples:
            raise ValueError("the loader gave no batch on any rank")
        loss = agreed["loss"] / count if count else math.nan
        return Tested(loss, int(samples), None if metric is None else agreed["metric"] / samples)

    def predict(self, batch: Any) -> tuple[Any, Any]:
        """The model's outputs for a batch, and its targets."""
        batch = to_device(batch, self.device)
        if is_sequence(batch) and len(batch) > 1:
            *inputs, targets = batch
            return self.model(*inputs), targets
        if is_sequence(batch):
            batch = batch[0]
        return self.model(**batch) if isinstance(batch, Mapping) else self.model(batch), batch

    def measure(self, share: BatchShare) -> tuple[Any, Any, Measured]:
        return self.losses.compute(functools.partial(self.predict, share.batch), self.loss_fn, share.samples)

    def loss_and_statistics(self, share: BatchShare, nominal: float) -> tuple[torch.Tensor, torch.Tensor]:
        """This rank's part of the loss, and of STATISTICS."""
        measured = self.measure(share)[2]
        count, part = measured.count, measured.value * (measured.factor / nominal)
        statistics = torch.tensor([0.0, 0.0, float(share.samples), 0.0, 0.0], device=self.device)
        if isinstance(count, torch.Tensor):
            statistics[0], statistics[1] = torch.where(count > 0, part.detach(), 0.0), count
        elif count:  # a mean of nothing is nan
            statistics[0], statistics[1] = part.detach(), count
        return part, statistics

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
