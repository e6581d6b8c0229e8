"""What a loss is divided by: a share of a batch has another denominator than the batch, and the ranks agree on theirs.

A mean over samples is divided by their number. Torch's cross-entropy with class weights or with targets to ignore is
divided by the weight of the targets that count, a masked mean by its mask's sum, a mean over selected elements by their
number: the batch's loss is then the sum of what the ranks' losses are quotients of, over the sum of their denominators.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.nn import _reduction as legacy
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from harness.distributed.transports.base import Communicator

Number = torch.Tensor | float
Loss = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class LossSum:
    """What a loss function of one's own may return: the batch's loss is the sum of `total` over the ranks, divided by
    that of `count`. For a mask, or a weight of each sample: `LossSum((losses * weights).sum(), weights.sum())`."""

    total: torch.Tensor
    count: Number


@dataclass(frozen=True)
class Measured:
    """A loss of this rank's share: `value * factor` adds up over the ranks, and so does `count`."""

    value: torch.Tensor
    factor: Number
    count: Number


@dataclass(frozen=True)
class LossForm:
    """How a loss is to be read; found on the first batch, equal on all ranks.

    samples: the mean over the samples (or what says itself what it is: a vector, a LossSum). quotient: the result of
    one call in `FOUND`, whose denominator is read each time. terms: among what it adds up are cross-entropies, each of
    which is divided by what all ranks' targets weigh.
    """

    kind: Literal["samples", "quotient", "terms"]
    in_model: bool = False
    """Whether what is to be watched happens in the model's forward, rather than in the loss function."""
    per_sample: float = 1.0
    """What a batch's denominator comes to for each sample: exactly where it is the same number for each, else about."""


def of_cross_entropy(
    input: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Number | None:
    """What torch's cross_entropy divides by; None where it does not."""
    if not averages(reduction, size_average, reduce):
        return None
    if target.is_floating_point():  # probabilities of the classes: no weight and no index enters
        return float(input.numel() // input.shape[1 if input.dim() > 1 else 0])
    return of_targets(target, weight, ignore_index)


def of_nll_loss(
    input: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Number | None:
    return of_targets(target, weight, ignore_index) if averages(reduction, size_average, reduce) else None


def of_targets(target: torch.Tensor, weight: torch.Tensor | None, ignore_index: int) -> Number:
    counted = target != ignore_index
    if weight is None:
        return on_host(counted.sum())
    return on_host((weight[target.where(counted, 0)] * counted).sum())


def on_host(count: torch.Tensor) -> Number:
    """A number where reading it costs nothing; on a device it is not waited for."""
    return float(count) if count.device.type == "cpu" else count


def averages(reduction: str, size_average: bool | None, reduce: bool | None) -> bool:
    if size_average is not None or reduce is not None:
        reduction = legacy.legacy_get_string(size_average, reduce, emit_warning=False)
    return reduction == "mean"


def of_elementwise(
    input: torch.Tensor, target: torch.Tensor, *args: Any, reduction: str = "mean", **kwargs: Any
) -> Number | None:
    """What losses of two tensors divide by. Those whose other arguments are given by position are not looked at."""
    if args or not averages(reduction, kwargs.get("size_average"), kwargs.get("reduce")):
        return None
    return float(torch.broadcast_shapes(input.shape, target.shape).numel())


def of_mean(input: torch.Tensor, *args: Any, **kwargs: Any) -> Number | None:
    return float(input.numel()) if not args and not kwargs.keys() - {"dtype"} else None


def of_quotient(total: Any, count: Any = None, **kwargs: Any) -> Number | None:
    """A number divided by one that is not learned: a masked mean, perhaps."""
    if kwargs or not isinstance(total, torch.Tensor) or total.dim():
        return None
    if isinstance(count, torch.Tensor):
        return on_host(count.detach()) if not count.dim() and not count.requires_grad else None
    return float(count) if isinstance(count, (int, float)) else None


CROSS_ENTROPIES: dict[Any, Callable[..., Number | None]] = {
    functional.cross_entropy: of_cross_entropy,
    functional.nll_loss: of_nll_loss,
}
QUOTIENTS = {torch.div, torch.Tensor.div, torch.true_divide, torch.Tensor.true_divide, torch.Tensor.__truediv__}
ELEMENTWISE = (
    functional.mse_loss,
    functional.l1_loss,
    functional.smooth_l1_loss,
    functional.huber_loss,
    functional.binary_cross_entropy,
    functional.binary_cross_entropy_with_logits,
)
FOUND: dict[Any, Callable[..., Number | None]] = {
    **CROSS_ENTROPIES,
    **{loss: of_elementwise for loss in ELEMENTWISE},
    **{mean: of_mean for mean in (torch.mean, torch.Tensor.mean)},
    **{quotient: of_quotient for quotient in QUOTIENTS},
}


@dataclass(frozen=True)
class Call:
    """Of something in `FOUND`, as a loss was computed."""

    function: Any
    result: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def count(self) -> Number | None:
        return FOUND[self.function](*self.args, **self.kwargs)

    def measured(self) -> Measured | None:
        count = self.count
        if count is None:
            return None
        if self.function in QUOTIENTS:  # its dividend, since a share whose divisor is 0 has no quotient
            return Measured(self.args[0], 1.0, count)
        return Measured(self.result, count, count)


class Watch(TorchFunctionMode):
    """Sees the calls in `FOUND`; with `agreed`, cross-entropies become this rank's part of all ranks' mean."""

    def __init__(self, agreed: Callable[[torch.Tensor, Number], torch.Tensor] | None = None) -> None:
        super().__init__()
        self.agreed = agreed
        self.calls: list[Call] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func not in FOUND:
            return result
        if self.agreed is not None and func in CROSS_ENTROPIES:
            count = FOUND[func](*args, **(kwargs or {}))
            return result if count is None else self.agreed(result, count)
        self.calls.append(Call(func, result, args, kwargs or {}))
        return result

    def that_gave(self, loss: Any) -> Call | None:
        """The call whose result `loss` is, or the mean of, being one number already."""
        for call in reversed(self.calls):
            if call.result is loss:
                alone = call.function in (torch.mean, torch.Tensor.mean) and not call.args[0].dim()
                return self.that_gave(call.args[0]) if alone else call
        return None


class Losses:
    """Computes a loss as its `form` says: what there is of it in a rank's share, and what that counts for."""

    def __init__(self, communicator: Communicator, device: torch.device) -> None:
        self.communicator, self.device = communicator, device
        self.form = LossForm("samples")

    @property
    def collective(self) -> bool:
        """Whether the ranks agree while the loss is computed, so that all of them must compute it."""
        return self.form.kind == "terms"

    def compute(self, predict: Callable[[], tuple[Any, Any]], loss_fn: Loss, samples: int) -> tuple[Any, Any, Measured]:
        """The outputs, the targets, and the loss of a share of `samples` (0: a stand-in, which counts for nothing)."""
        if self.form.kind == "samples":
            outputs, targets = predict()
            return outputs, targets, self.measured(loss_fn(outputs, targets), samples, None)
        agreed = functools.partial(self.agreed, samples) if self.collective else None
        watch = Watch(agreed)
        if self.form.in_model:
            with watch:
                outputs, targets = predict()
                loss = loss_fn(outputs, targets)
        else:
            outputs, targets = predict()
            with watch:
                loss = loss_fn(outputs, targets)
        return outputs, targets, self.measured(loss, samples, watch)

    def measured(self, loss: Any, samples: int, watch: Watch | None) -> Measured:
        if isinstance(loss, LossSum):
            return Measured(loss.total, 1.0, loss.count)
        if loss.dim():
            return Measured(loss.sum(), 1.0, float(loss.numel()))
        if self.form.kind != "quotient":
            return Measured(loss, float(samples), float(samples))
        call = watch.that_gave(loss) if watch is not None else None
        measured = call.measured() if call is not None else None
        if measured is None:  # another way through the loss function than in the first batch
            count = samples * self.form.per_sample
            return Measured(loss, count, count)
        return measured

    def agreed(self, samples: int, loss: torch.Tensor, count: Number) -> torch.Tensor:
        """A mean over what this rank's targets weigh as a mean over what all ranks' do, but for the share of the
        samples that the whole loss is weighted by."""
        own, own_samples = (float(count), float(samples)) if samples else (0.0, 0.0)
        counts = torch.tensor([own, own_samples], dtype=torch.float64, device=self.device)
        total, all_samples = self.communicator.all_reduce_(counts, name="denominators").tolist()
        if not own:  # a mean of nothing is nan, and has no gradient
            return torch.where(torch.isfinite(loss), loss, 0.0) * 0.0
        return loss * (own / total * all_samples / own_samples)


def named(function: Any) -> str:
    """What a loss function is called in messages."""
    if isinstance(function, functools.partial):
        return f"partial of {named(function.func)}"
    return getattr(function, "__name__", type(function).__name__)
