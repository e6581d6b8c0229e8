"""Steps on a GPU: decided where they are taken, and launched whole.

A small network's step is some two hundred kernels, which take longer to launch one by one than to run; and a host that
reads whether to skip a step leaves the GPU idle until it has launched the next. So the decision is arithmetic on the
device, and gradient and update are CUDA graphs, launched in one call each, with the ranks' reduce between them. One
rank has nothing to reduce: it captures both as one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from harness.errors import Diverged
from harness.training.compile.cuda_graphs import Captured, first_line_of
from harness.training.compile.gradient import MOST_SIZES, Batch, CompiledGradient, Loss
from harness.training.precision import LARGEST_SCALE
from harness.training.step import Step
from harness.training.updates import KlStop, Minibatch, UpdateLoop, UpdateSummary

SCALE, GOOD_STEPS, STOPPED, FAILURE, BATCHES, TAKEN, SKIPPED, KL, TOTALS = range(9)
"""Places in the state of the updates, float64 (TOTALS + statistics,): loss scale, steps since it changed, whether KL
stopped the updates, which failure ended them, and the counts and sums of `UpdateSummary`."""
FAILURES = {
    1: "non-finite loss",
    2: "non-finite gradient",
    3: "non-finite gradient at every loss scale down to 1",
}


@dataclass(frozen=True)
class Rules:
    """What `decide` goes by."""

    stop_at: int
    kl_limit: float
    scales_loss: bool
    growth_interval: int
    max_grad_norm: float | None


def decide(
    state: torch.Tensor, statistics: torch.Tensor, norm: torch.Tensor, rules: Rules
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What `HostUpdateLoop.apply` and `Step.apply` decide of a minibatch, as arithmetic: nothing is read by the host.

    `statistics`: float32 (statistics,), of all ranks; `norm`: float32 (), of the agreed gradient, scaled as it is.
    Returns the next state; float32 (), 1 where the step must be skipped and 0 where it is taken; and float32 (), what
    the gradient must be divided by. After a stop or a failure nothing changes any more.
    """
    scale, good, stopped, failure, _, _, _, kl = state[:TOTALS].unbind()
    statistics = statistics.double()
    norm = norm.double() / scale
    finite = norm < math.inf  # which a NaN is not
    live = stopped + failure == 0
    kl = torch.where(live, statistics[rules.stop_at], kl)
    if not rules.scales_loss:
        lost = live & ~(statistics[0].abs() < math.inf)
        failure = failure + lost
        live = live & ~lost
    stop = live & (kl > rules.kl_limit)
    live = live & ~stop
    taken, skipped = live & finite, live & ~finite
    divisor = scale
    if rules.max_grad_norm is not None:
        divisor = scale * ((norm + 1e-6) / rules.max_grad_norm).clamp(min=1.0)
    if rules.scales_loss:
        grown = taken & (good + 1 >= rules.growth_interval)
        good = torch.where(skipped | grown, 0.0, good + taken)
        doubled = torch.where(grown & (scale * 2 <= LARGEST_SCALE), scale * 2, scale)
        scale = torch.where(skipped, scale / 2, doubled)
        failure = failure + 3 * (skipped & (scale < 1))
    else:
        failure = failure + 2 * skipped
    counts = state[BATCHES:KL] + torch.stack([live, taken, skipped])
    head = torch.stack([scale, good, stopped + stop, failure])
    totals = state[TOTALS:] + torch.where(live, statistics, 0.0)
    return torch.cat([head, counts, kl[None], totals]), (~taken).float(), divisor.float()


class DeviceUpdateLoop(UpdateLoop):
    """`HostUpdateLoop`, decided on the device; the host looks once an epoch where KL may stop the updates, and
    at the end.

    Parameters, optimizer state and all that is drawn from must stay where they are: they are part of the graphs.
    """

    def __init__(
        self,
        step: Step,
        loss: Loss,
        data: Batch,
        numbers: Sequence[str],
        sizes: Sequence[int],
        stop: KlStop,
        compiled: CompiledGradient | None = None,
        capture: bool = True,
    ) -> None:
        """`data`, `numbers`, `sizes`: as for CompiledGradient, which `compiled` is, or None for an eager gradient.

        `capture`: as graphs, where they can be had; `notice` says why not. Collective, as all ranks do the same.
        """
        self.step, self.loss, self.data, self.names, self.compiled = step, loss, data, tuple(numbers), compiled
        self.device, precision = step.arena.wire.device, step.precision
        step.reduce_at_once()
        self.may_stop = stop.limit is not None
        limit = math.inf if stop.limit is None else stop.limit
        self.rules = Rules(stop.at, limit, precision.scales_loss, precision.growth_interval, step.max_grad_norm)
        self.decide = torch.compile(decide, fullgraph=True, dynamic=False) if compiled and capture else decide
        self.state = torch.zeros(TOTALS + step.arena.tail.numel(), dtype=torch.float64, device=self.device)
        self.numbers = torch.ones(len(self.names) + 1, device=self.device)
        """Those of the minibatch, and its weight."""
        self.rows = {size: torch.zeros(size, dtype=torch.int64, device=self.device) for size in sizes}
        self.skip, self.divisor = torch.zeros((), device=self.device), torch.ones((), device=self.device)
        self._prepare_optimizer()
        self.whole = False
        """Whether what fills the arena takes the step too."""
        self.fills: dict[int, Callable[[], None]] = {
            size: partial(self._fill, rows) for size, rows in self.rows.items()
        }
        self.update: Callable[[], None] = self._update
        problem = self._capture() if capture else "compile.capture = false"
        graphs = "gradient and update one CUDA graph" if self.whole else "gradient and update two CUDA graphs"
        self.notice = f"gradient and update launched kernel by kernel ({problem})" if problem else graphs

    # -- one rollout ---------------------------------------------------------------------------------------------------

    def begin(self, minibatches: Sequence[Minibatch], epoch: int) -> None:
        self.minibatches, self.epoch = minibatches, epoch
        self.ends = np.cumsum([len(each.rows) for each in minibatches]).tolist()
        self.all_rows = self._send(torch.from_numpy(np.concatenate([each.rows for each in minibatches])))
        self.all_numbers = self._send(torch.tensor([[*each.numbers, each.weight] for each in minibatches]).float())
        state = torch.zeros(len(self.state), dtype=torch.float64)
        state[SCALE], state[GOOD_STEPS] = self.step.precision.scale, self.step.precision.good_steps
        self.state.copy_(self._send(state))
        self.over = False

    def gradient(self, number: int) -> None:
        size = len(self.minibatches[number].rows)
        if size == 0:
            self.step.arena.wire.zero_()
            return
        end = self.ends[number]
        self.rows[size].copy_(self.all_rows[end - size : end])
        self.numbers.copy_(self.all_numbers[number])
        self.fills[size]()

    def apply(self, number: int) -> bool:
        if not self.whole:
            self.step.sync.step(self.update)
        if self.may_stop and (number + 1) % self.epoch == 0:
            _, _, stopped, failure, *_ = self.state.tolist()
            return not (stopped or failure)
        return True

    def finish(self) -> UpdateSummary:
        scale, good, stopped, failure, batches, taken, skipped, kl, *totals = self.state.tolist()
        step = self.step
        step.precision.scale, step.precision.good_steps = scale, int(good)
        step.gradient_steps += int(taken)
        step.skipped_steps += int(skipped)
        if failure:
            raise Diverged(FAILURES[int(failure)])
        return UpdateSummary(int(batches), int(taken), [total / max(batches, 1) for total in totals], bool(stopped), kl)

    def _send(self, tensor: torch.Tensor) -> torch.Tensor:
        """`tensor` on the device. The host goes on: the allocator of pinned memory keeps it until it is copied."""
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else tensor

    # -- one minibatch, on the device ----------------------------------------------------------------------------------

    def _fill(self, rows: torch.Tensor) -> None:
        """As `Step.fill`, where weight and loss scale are on the device."""
        arena, precision, weight, scale = self.step.arena, self.step.precision, self.numbers[-1], self.state[SCALE]
        if self.compiled is not None:
            self.compiled.write(rows, torch.cat([self.numbers, scale[None].float()]))
            return
        arena.wire.zero_()
        batch = {name: values[rows] for name, values in self.data.items()}
        batch |= dict(zip(self.names, self.numbers))
        with precision.autocast():
            loss, statistics = self.loss(batch)
        (loss * (weight * scale.float())).backward()
        arena.own_gradients()
        arena.tail.copy_(statistics).mul_(weight)

    @torch.no_grad()
    def _update(self) -> None:
        """As `HostUpdateLoop.apply`."""
        arena = self.step.arena
        state, skip, divisor = self.decide(
            self.state, arena.tail, torch.linalg.vector_norm(arena.gradients), self.rules
        )
        self.state.copy_(state)
        self.skip.copy_(skip)
        self.divisor.copy_(divisor)
        optimizer: Any = self.step.optimizer
        if self.skips_by_itself:
            optimizer.grad_scale, optimizer.found_inf = self.divisor, self.skip
            optimizer.step()
            del optimizer.grad_scale, optimizer.found_inf
            return
        arena.gradients.div_(self.divisor)
        kept = [tensor.clone() for tensor in self.stepped]
        optimizer.step()
        for tensor, before in zip(self.stepped, kept):
            tensor.copy_(torch.where(self.skip > 0, before, tensor))

    def _fill_and_update(self, rows: torch.Tensor) -> None:
        self._fill(rows)
        self._update()

    def _prepare_optimizer(self) -> None:
        """Has the optimizer make its state, which graphs hold, and leaves it as it was before the first step.

        Fused Adam skips by itself and divides in passing. Fused SGD offers that too, but a first step that it skips
        leaves its momentum unset, and on GPUs it is reported to move the momentum in skipped steps; the others do not
        offer it. What those have changed is put back.
        """
        arena, optimizer = self.step.arena, self.step.optimizer
        if isinstance(optimizer, torch.optim.Optimizer):  # the first steps are; torch would warn of it
            optimizer._warned_capturable_if_run_uncaptured = True
        before = arena.parameters.clone()
        arena.wire.zero_()
        optimizer.step()
        arena.parameters.copy_(before)
        own = [value for values in optimizer.state.values() for value in values.values() if torch.is_tensor(value)]
        for value in own:
            value.zero_()
        self.skips_by_itself = isinstance(optimizer, (torch.optim.Adam, torch.optim.AdamW))
        self.stepped = [arena.parameters, *(value for value in own if value.device == self.device)]

    # -- graphs --------------------------------------------------------------------------------------------------------

    def _capture(self) -> str:
        """Makes graphs of all that is launched; why not, on all ranks, where any of them could not."""
        communicator, problem = self.step.communicator, ""
        whole = communicator.size == 1 and self.step.synchronizer.same_experiment  # the reduce does nothing
        self.state[SCALE], self.state[STOPPED] = 1.0, 1.0  # so that the calls before a capture change nothing
        fills, update = dict(self.fills), self.update

        try:
            if len(self.rows) > MOST_SIZES:
                raise RuntimeError(f"minibatches of {len(self.rows)} different sizes")
            if isinstance(self.step.optimizer, torch.optim.Adagrad):
                raise RuntimeError("Adagrad reads its learning rate on the host")
            for size, rows in self.rows.items():
                fills[size] = Captured(partial(self._fill_and_update if whole else self._fill, rows), self.device)
            if not whole:
                update = Captured(self._update, self.device)
        except Exception as error:  # whatever a capture may raise: launched one by one they are right
            problem = first_line_of(error)
        problems = [text for text in communicator.gather_objects(problem) if text]
        self.step.arena.wire.zero_()
        if problems:
            self.decide = decide
            return problems[0]
        self.fills, self.update, self.whole = fills, update, whole
        return ""
