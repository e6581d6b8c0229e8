"""What learns: a module with its optimizer, learning rate, precision and gradient (compiled or eager), and the step
that ranks take together by a minibatch of which each has a part.

`Learner.update` takes one step, `Learner.update_on` those of a rollout. Both go the same way: this rank's gradient, the
sum over ranks, the optimizer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from harness.cluster.machine import usable_cores
from harness.cluster.place import host_name
from harness.distributed.sync.base import Synchronizer
from harness.distributed.transports.base import Communicator
from harness.errors import Diverged
from harness.reporting.phases import PhaseTimer
from harness.schema import RunConfig
from harness.training.compile.device_updates import DeviceUpdateLoop
from harness.training.compile.gradient import (
    MOST_SIZES,
    Batch,
    Beside,
    CompiledGradient,
    compile_step,
    wants_compiling,
)
from harness.training.compile.store import CodeStore, default_folder
from harness.training.compile.ways import FunctionGradient, Wanted, choose
from harness.training.optimizers import load_in_place, make_flat_optimizer
from harness.training.precision import Precision
from harness.training.schedules import LearningRate
from harness.training.step import Step
from harness.training.updates import KlStop, Minibatch, UpdateLoop, UpdateSummary

Rows = slice | torch.Tensor
"""Which rows of the data a minibatch is: a range, or int64 (n,) on the device."""


class Surroundings(Protocol):
    """What a learner takes of an algorithm's context."""

    @property
    def config(self) -> RunConfig: ...

    @property
    def communicator(self) -> Communicator: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def phases(self) -> PhaseTimer: ...

    @property
    def synchronizer(self) -> Synchronizer | None: ...


class Learner:
    """Takes steps on the loss of a module: `learn_from` once, with the tensors that minibatches are rows of, then
    `update` for each minibatch, or `update_on` for those of a rollout."""

    def __init__(
        self,
        module: nn.Module,
        loss: Callable[[Batch], tuple[torch.Tensor, ...]],
        context: Surroundings,
        statistics: Sequence[str],
        batch_size: int,
        max_grad_norm: float | None = None,
        capturable: bool = False,
        relative_weights: bool = False,
        name: str = "parameters",
    ) -> None:
        """`loss`: from a minibatch to its mean loss and a vector of `statistics`, the loss first; and to one number for
        each sample, where `learn_from` names a place for it. `batch_size`: samples of a step over all ranks, for the
        learning rate. `capturable`: CUDA graphs are to hold the optimizer's step. `relative_weights`: losses are
        multiplied by weights that count relative to the largest of the minibatch, as `update` is given them; the
        statistics then end with a zero for each rank. `name`: of the vector that the ranks agree on."""
        self.module, self.loss, self.statistics = module, loss, tuple(statistics)
        self.config, self.communicator = context.config, context.communicator
        self.device, self.phases = context.device, context.phases
        self.precision = Precision(self.config.precision, self.device)
        self.step = Step(
            module,
            lambda arena: make_flat_optimizer(self.config.optimizer, arena.flat, capturable),
            self.communicator,
            self.precision,
            statistics=len(self.statistics) + (self.communicator.size if relative_weights else 0),
            max_grad_norm=max_grad_norm,
            synchronizer=context.synchronizer,
            name=name,
        )
        self.learning_rate = LearningRate(self.config.optimizer, self.step.optimizer, batch_size)
        self.compiled: CompiledGradient | None = None
        """The gradient where this run has compiled it."""
        self.function: FunctionGradient | None = None
        """The gradient as a trace, or as code that an earlier run has left."""
        self.compile_reason = ""
        """Why it is made the way it is."""
        self.history: list[list[float]] = []
        """The statistics of each `update` since `forget`."""

    def learn_from(
        self,
        data: Batch,
        sizes: Sequence[int],
        gradient_steps: int,
        numbers: Sequence[str] = (),
        per_sample: str | None = None,
        beside: Sequence[Beside] = (),
        eager: str | None = None,
        describe: Callable[[], dict[str, Any] | None] | None = None,
        reads: Sequence[torch.Tensor] = (),
    ) -> None:
        """Says what minibatches are rows of, and compiles the gradient where rank 0 finds that it pays; collective.

        `data`: tensors that stay where they are. `sizes`: how many rows this rank's part of a minibatch may have.
        `gradient_steps`: what the run is to make, about. `numbers`: the names of what is given with each minibatch
        beside its rows. `per_sample`: the tensor of `data` whose rows take the loss's number for each sample.
        `beside`: what is compiled with the gradient. `eager`: why the gradient must not be compiled, if so.
        `describe`: what the loss is made of, as `ways.Wanted` has it, of a loss that reads no tensors but its
        arguments, the module's and `reads`, which keep their places; None for one that does.
        """
        self.data, self.sizes, self.numbers, self.per_sample = data, list(sizes), tuple(numbers), per_sample
        self.rows = torch.arange(len(next(iter(data.values()))), device=self.device)
        if eager is not None:
            self.compile_reason = eager
            return
        settings = self.config.compile
        compiles, reason = wants_compiling(settings, gradient_steps, self.step)
        by_function = settings.mode not in ("off", "on") and self.device.type == "cpu" and not self.step.sync.overlaps
        compiles, reason, by_function = self.communicator.broadcast_object((compiles, reason, by_function))
        if describe is None and settings.mode in ("traced", "kept"):
            reason = f"compile.mode = {settings.mode} serves no loss that reads other networks"
        by_function = by_function and describe is not None
        if (compiles or by_function) and max(self.communicator.gather_objects(len(self.sizes))) > MOST_SIZES:
            self.compile_reason = "minibatches of too many different sizes"
        elif by_function and self._by_function(compiles, gradient_steps, describe and describe(), reads):
            pass  # it says why itself
        elif compiles:
            self.compiled, problem = compile_step(self.step, self._traced, settings.products, *beside)
            self.compile_reason = problem or reason
        else:
            self.compile_reason = self.compile_reason or reason

    def _by_function(
        self, compiles: bool, gradient_steps: int, description: dict[str, Any] | None, reads: Sequence[torch.Tensor]
    ) -> bool:
        """Whether the gradient is had from a trace or from code on disk; `compiles`: this run would compile it."""
        mode = self.config.compile.mode
        if mode == "auto" and description is None:
            return False  # a method or network of the user's may read what changes: only where that was asked for
        free_core = usable_cores() > self.communicator.gather_objects(host_name()).count(host_name())
        parts = self.module, self.step.arena, self.loss, self.precision, self.data, self.numbers, self.sizes
        beside = free_core and self.config.compile.ahead
        needed = Wanted(*parts, description, reads, self.per_sample, gradient_steps, beside)
        self.function, self.compile_reason = choose(
            needed, "find" if mode == "auto" and compiles else mode, self.communicator, CodeStore(default_folder())
        )
        if self.function is not None:
            self.step.reduce_at_once()
        return self.function is not None

    def _traced(self, products: str) -> CompiledGradient:
        parts = self.module, self.step.arena, self.loss, self.precision, self.data, self.numbers, self.sizes
        return CompiledGradient(*parts, self.per_sample, products)

    @property
    def notice(self) -> str:
        way = "compiled" if self.compiled is not None else "eager" if self.function is None else self.function.way
        return f"gradient {way} ({self.compile_reason})"

    @property
    def mode(self) -> str:
        """What `compile.mode` a repeat takes: eager and traced are one to the bit, other ways differ by rounding."""
        if self.config.compile.mode in ("traced", "kept"):
            return self.config.compile.mode
        if self.function is not None:
            return self.function.way
        return "off" if self.compiled is None else "on"

    # -- one step ------------------------------------------------------------------------------------------------------

    def update(self, rows: Rows, weight: float, largest: float | None = None) -> bool:
        """One step by a minibatch; False where its gradient overflowed and all ranks skipped it.

        `rows`: this rank's samples of it; `weight`: their share of the minibatch, 0 where there are none. `largest`:
        of their weights, with `relative_weights`; loss and gradient are divided by the largest of all ranks. Raises
        Diverged, on all ranks alike, for a loss or gradient that is not finite.
        """
        phases, step, names = self.phases, self.step, len(self.statistics)
        phases.start("gradient")
        self.gradient(rows, weight)
        if largest is not None:  # it rides along
            step.arena.tail[names + self.communicator.rank] = largest
        phases.start("reduce")
        statistics = step.reduce()
        if largest is not None:
            of_all = statistics[names:].max()
            step.arena.gradients.div_(of_all)
            statistics[0] /= of_all
        phases.start("optimizer")
        values = statistics.tolist()[:names]
        if not math.isfinite(values[0]) and not self.precision.scales_loss:
            raise Diverged("non-finite loss")
        self.history.append(values)
        return step.apply()

    def gradient(self, rows: Rows, weight: float, numbers: tuple[float, ...] = ()) -> None:
        """Fills the arena with this rank's share of a minibatch's gradient; `numbers` in the order of their names."""
        if not weight:
            self.step.fill(None, 0.0)
        elif self.compiled is not None:
            self.compiled(self.rows[rows] if isinstance(rows, slice) else rows, numbers, weight)
        elif self.function is not None:
            self.function(self.rows[rows] if isinstance(rows, slice) else rows, numbers, weight)
        else:
            self.step.fill(lambda: self._eager_loss(rows, numbers), weight)

    def _eager_loss(self, rows: Rows, numbers: tuple[float, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        batch = {name: values[rows] for name, values in self.data.items()}
        for name, number in zip(self.numbers, numbers):
            batch[name] = torch.tensor(number, device=self.device)
        loss, statistics, *samples = self.loss(batch)
        if self.per_sample is not None:
            self.data[self.per_sample][rows] = samples[0]
        return loss, statistics

    def forget(self) -> None:
        """Begins the `history` anew."""
        self.history.clear()

    def means(self) -> dict[str, float]:
        """Of the statistics in the `history`, by name; none where there is no update in it."""
        return {name: float(np.mean(values)) for name, values in zip(self.statistics, zip(*self.history))}

    # -- the steps of a rollout ----------------------------------------------------------------------------------------

    def make_loop(self, stop: KlStop, on_device: bool) -> UpdateLoop:
        """What takes the steps of `update_on`: decided by the host, which reads what it needs for it, or on the
        device."""
        if not on_device:
            return HostUpdateLoop(self, stop)
        parts = self.step, self.loss, self.data, self.numbers, self.sizes, stop, self.compiled
        return DeviceUpdateLoop(*parts, capture=self.config.compile.capture)

    def update_on(
        self, loop: UpdateLoop, minibatches: Sequence[Minibatch], epoch: int, rollout: int, rollouts: int
    ) -> UpdateSummary:
        """A step by each of a rollout's minibatches, until `loop` says that it is enough.

        `epoch`: how many of them make an epoch. The learning rate follows from the rollout's number, of `rollouts`.
        """
        phases, count = self.phases, len(minibatches)
        loop.begin(minibatches, epoch)
        for number in range(count):
            phases.start("gradient")
            self.learning_rate.on_progress((rollout + number / count) / rollouts)
            loop.gradient(number)
            phases.start("reduce")
            self.step.reduce()
            phases.start("optimizer")
            if not loop.apply(number):
                break
        done = loop.finish()
        if done.stopped:
            self.learning_rate.on_progress((rollout + done.batches / count) / rollouts)
        phases.start("rest")
        return done

    # -- state ---------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps; equal on all ranks."""
        return {
            "module": self.module.state_dict(),
            "optimizer": self.step.optimizer.state_dict(),
            "learning_rate": self.learning_rate.state_dict(),
            "precision": self.precision.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """`state`: what `state()` gave, perhaps among other things."""
        self.module.load_state_dict(state["module"])
        load_in_place(self.step.optimizer, state["optimizer"])
        self.learning_rate.load_state_dict(state["learning_rate"])
        self.precision.load_state(state["precision"])


class HostUpdateLoop(UpdateLoop):
    """Reads the statistics of each minibatch and decides."""

    def __init__(self, learner: Learner, stop: KlStop) -> None:
        self.learner, self.step = learner, learner.step
        self.stop_at = stop.at
        self.limit = math.inf if stop.limit is None else stop.limit

    def begin(self, minibatches: Sequence[Minibatch], epoch: int) -> None:
        self.minibatches = minibatches
        self.totals = torch.zeros(self.step.arena.tail.numel(), dtype=torch.float64)
        self.batches, self.taken, self.stopped, self.kl = 0, 0, False, math.nan

    def gradient(self, number: int) -> None:
        minibatch = self.minibatches[number]
        rows = torch.from_numpy(minibatch.rows).to(self.learner.device)
        self.learner.gradient(rows, minibatch.weight, minibatch.numbers)

    def apply(self, number: int) -> bool:
        step = self.step
        statistics = step.arena.tail.cpu()
        values = statistics.tolist()
        if not math.isfinite(values[0]) and not step.precision.scales_loss:
            raise Diverged("non-finite loss")
        self.kl = values[self.stop_at]
        if self.kl > self.limit:
            self.stopped = True
            return False
        self.totals += statistics
        self.taken += step.apply()
        self.batches += 1
        return True

    def finish(self) -> UpdateSummary:
        means = (self.totals / max(self.batches, 1)).tolist()
        return UpdateSummary(self.batches, self.taken, means, self.stopped, self.kl)
