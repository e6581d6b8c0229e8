"""A look at a trainer's first batch before anything is learned from it: what cannot be trained is told by all ranks.

This rank's share of the batch goes through the model, the loss and a backward pass, without a collective, so that what
goes wrong on one rank leaves no other waiting. Nothing of it stays: random generators, buffers, attributes of modules
and gradients are afterwards what they were.
"""

from __future__ import annotations

import contextlib
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from harness.distributed.transports.base import Communicator
from harness.errors import BadInput
from harness.training.containers import arrays_in, is_dataclass, length_of, map_leaves
from harness.training.losses import CROSS_ENTROPIES, QUOTIENTS, Call, Loss, LossForm, LossSum, Watch, named

LONGEST_FORWARD = 0.3
"""Seconds of a forward pass above which the backward pass is left to the first step: the look is to cost a second."""

Predict = Callable[[Any], tuple[Any, Any]]


class CannotTrain(BadInput, ValueError):
    """What a trainer was given cannot be trained on these ranks: one line that says what may be."""


@dataclass(frozen=True)
class Seen:
    """What one rank found."""

    form: LossForm | None = None
    """None where it had no samples to look at."""
    problem: str = ""
    own: bool = False
    """Whether the problem is an exception of the user's code, which that rank raises as it is."""


def look_at(
    model: nn.Module,
    loss_fn: Loss,
    predict: Predict,
    batch: Any,
    samples: int,
    communicator: Communicator,
    learns: bool,
) -> LossForm | None:
    """The form of the loss, the same on all ranks; None where none of them has samples in this batch.

    `predict(batch)` gives outputs and targets. `learns`: a backward pass belongs to it. Raises CannotTrain on all
    ranks alike, but for what the user's own code raised, which the rank on which it did raises as it is.
    """
    seen, error = Seen(), None
    if samples:
        try:
            with untouched(model, loss_fn):
                seen = Seen(form_of(loss_fn, predict, batch, samples, communicator.size, learns))
        except CannotTrain as problem:
            seen = Seen(problem=str(problem))
        except Exception as problem:
            first_line = (str(problem).splitlines() or [""])[0]
            seen, error = Seen(problem=f"{type(problem).__name__}: {first_line}", own=True), problem
    all_seen = communicator.gather_objects(seen)
    failed = next((rank for rank, other in enumerate(all_seen) if other.problem), None)
    if failed is not None:
        if error is not None:
            raise error
        why, own = all_seen[failed].problem, all_seen[failed].own
        raise CannotTrain(f"the first batch failed on rank {failed}: {why}" if own else why)
    forms = [other.form for other in all_seen if other.form is not None]
    if not forms:
        return None
    if len({(form.kind, form.in_model) for form in forms}) == 1:
        return forms[0]
    # on some ranks the loss went another way; what holds there holds for the others too
    return max(forms, key=lambda form: ("samples", "quotient", "terms").index(form.kind))


def form_of(loss_fn: Loss, predict: Predict, batch: Any, samples: int, ranks: int, learns: bool) -> LossForm:
    began = time.perf_counter()
    with torch.enable_grad(), Watch() as watch:
        outputs, targets = predict(batch)
        in_model = len(watch.calls)
        loss = loss_fn(outputs, targets)
    name = named(loss_fn)
    value = loss.total if isinstance(loss, LossSum) else loss
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        kind = f"a tensor of {value.dtype}" if isinstance(value, torch.Tensor) else type(value).__name__
        raise CannotTrain(
            f"loss_fn ({name}) must give a floating-point tensor, the mean over the samples or one number for each, or "
            f"a LossSum; it gave {kind}"
        )
    if learns and not value.requires_grad:
        raise CannotTrain(
            f"the loss that loss_fn ({name}) gives has no gradient: it must be computed by torch from the model's "
            "outputs, with nothing detached, rounded or taken by argmax on the way"
        )
    form = read(loss, watch, in_model, Parts(loss_fn, outputs, targets), samples, ranks)
    if learns and time.perf_counter() - began < LONGEST_FORWARD:
        value.sum().backward()
    return form


def read(loss: Any, watch: Watch, in_model: int, parts: Parts, samples: int, ranks: int) -> LossForm:
    """The form of `loss`, of a share of `samples`; `in_model`: how many of the calls seen happened in the model."""
    if isinstance(loss, LossSum):
        return with_ratio(LossForm("samples"), float(loss.count), samples)
    if loss.dim():
        if ranks > 1 and parts.add_up("vector") is False:
            raise CannotTrain(not_of_samples(parts.loss_fn, ranks))
        return with_ratio(LossForm("samples"), float(loss.numel()), samples)
    call = watch.that_gave(loss)
    count = None if call is None else call.count
    if call is not None and count is not None:
        inside = any(call is other for other in watch.calls[:in_model])
        known = call.function in CROSS_ENTROPIES
        if known or not inside and not parts.are_of(call, samples) and parts.add_up("quotient"):
            return with_ratio(LossForm("quotient", inside), float(count), samples)
    terms = [at for at, other in enumerate(watch.calls) if is_term(other, loss)]
    if terms:
        return LossForm("terms", terms[0] < in_model)
    if ranks > 1 and parts.add_up("samples") is False:
        raise CannotTrain(not_of_samples(parts.loss_fn, ranks))
    return LossForm("samples")


def with_ratio(form: LossForm, count: float, samples: int) -> LossForm:
    """Of the denominator to the samples: as it is where it is a whole number, else a power of two, by which numbers are
    multiplied exactly whatever the first batch was."""
    ratio = count / samples
    if not math.isfinite(ratio) or ratio <= 0:
        return form
    return replace(form, per_sample=ratio if ratio == round(ratio) else 2.0 ** round(math.log2(ratio)))


def is_term(call: Call, loss: torch.Tensor) -> bool:
    """Whether `call` is a mean cross-entropy that `loss` is computed from."""
    return call.function in CROSS_ENTROPIES and call.count is not None and reaches(loss, call.result)


def reaches(loss: torch.Tensor, part: torch.Tensor) -> bool:
    if part.grad_fn is None:
        return False
    pending, known = [loss.grad_fn], set()
    while pending:
        node = pending.pop()
        if node is part.grad_fn:
            return True
        if node is not None and node not in known:
            known.add(node)
            pending.extend(following for following, _ in node.next_functions)
    return False


class Parts:
    """A loss function on a batch's outputs and targets, and on two parts of them."""

    def __init__(self, loss_fn: Loss, outputs: Any, targets: Any) -> None:
        self.loss_fn = loss_fn
        self.whole = outputs, targets
        lengths = [next(filter(None, map(length_of, arrays_in(side))), 0) for side in self.whole]
        self.samples = lengths[0] if lengths[0] == lengths[1] and self.can_be_cut(lengths[0]) else 0
        """Rows that all of the outputs and targets have in common; 0 where they cannot be cut."""

    def can_be_cut(self, samples: int) -> bool:
        """Whether all there is are tensors of so many rows, and numbers: a list of texts, a packed sequence or tensors
        of other lengths would stay whole, and the loss of a part would be of something else."""
        able = True

        def look(leaf: Any) -> Any:
            nonlocal able
            dense = isinstance(leaf, torch.Tensor) and leaf.layout is torch.strided and not leaf.is_nested
            able = able and dense and length_of(leaf) in (samples, None)
            return None

        left = map_leaves(look, self.whole)
        return able and all(map(is_plain, contents(left)))

    def are_of(self, call: Call, samples: int) -> bool:
        """Whether `call` averages over the outputs as they are, as many as the share has samples: over no selection."""
        given = call.args[0] if call.args else None
        plain = call.function not in QUOTIENTS and any(given is output for output in arrays_in(self.whole[0]))
        return plain and self.samples == samples

    def add_up(self, form: str) -> bool | None:
        """Whether the loss, read as `form`, of the whole is the sum of its parts'; None where it cannot be told."""
        if self.samples < 2:
            return None
        cut = max(1, self.samples // 3)
        try:
            whole, again = (self.fraction(form, *self.whole, self.samples) for _ in range(2))
            first = self.fraction(form, *self.rows(0, cut), cut)
            second = self.fraction(form, *self.rows(cut, self.samples), self.samples - cut)
        except Exception:  # a loss that wants whole batches, or a graph behind its outputs
            return None
        if whole is None or first is None or second is None:
            return False
        if whole != again:  # it draws random numbers, or changes as it is called
            return None
        values = [*whole, *first, *second]
        if not all(map(math.isfinite, values)):
            return None
        return all(
            math.isclose(one, a + b, rel_tol=self.tolerance(), abs_tol=self.tolerance() * max(1e-6, abs(a) + abs(b)))
            for one, a, b in zip(whole, first, second)
        )

    def tolerance(self) -> float:
        dtypes = {array.dtype for array in arrays_in(self.whole[0]) if isinstance(array, torch.Tensor)}
        return 3e-2 if dtypes & {torch.float16, torch.bfloat16} else 1e-4

    def rows(self, start: int, end: int) -> tuple[Any, Any]:
        def cut(leaf: Any) -> Any:
            whole = isinstance(leaf, torch.Tensor) and length_of(leaf) == self.samples
            return leaf[start:end] if whole else leaf

        return map_leaves(cut, self.whole)

    def fraction(self, form: str, outputs: Any, targets: Any, samples: int) -> tuple[float, float] | None:
        """Dividend and divisor of a loss; None where it does not have the form."""
        with torch.no_grad(), Watch() as watch:
            loss = self.loss_fn(outputs, targets)
        if form == "vector":
            return (float(loss.double().sum()), float(loss.numel())) if loss.dim() else None
        if form == "samples":
            return float(loss) * samples, float(samples)
        call = watch.that_gave(loss)
        measured = call.measured() if call is not None else None
        if measured is None:
            return None
        return float(measured.value) * float(measured.factor), float(measured.count)


def contents(value: Any) -> Iterator[Any]:
    """What stands in lists, tuples, mappings and dataclasses."""
    if isinstance(value, Mapping):
        value = list(value.values())
    elif is_dataclass(value):
        value = list(vars(value).values()) if hasattr(value, "__dict__") else [value]
    if isinstance(value, (list, tuple)):
        for inner in value:
            yield from contents(inner)
    else:
        yield value


def is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float))


def not_of_samples(loss_fn: Loss, ranks: int) -> str:
    return (
        f"loss_fn ({named(loss_fn)}) is not the mean over a batch's samples, nor a quotient of sums over them, so that "
        f"{ranks} ranks, each with its share of a batch, would learn something else than one; let it give the loss of "
        "each sample (reduction='none'), or harness.LossSum(total, count), whose parts are summed over the ranks"
    )


@contextlib.contextmanager
def untouched(model: nn.Module, loss_fn: Any) -> Iterator[None]:
    """Random generators, buffers, attributes and gradients of `model`, and of a loss that is a module, are afterwards
    what they were."""
    modules = [*model.modules(), *(loss_fn.modules() if isinstance(loss_fn, nn.Module) else ())]
    attributes = [(module, held(vars(module))) for module in modules if not isinstance(module, torch.jit.ScriptModule)]
    buffers = [buffer for module in modules for buffer in module.buffers(recurse=False)]
    contents = [(buffer, buffer.detach().clone()) for buffer in buffers]
    gradients = [(parameter, parameter.grad) for module in modules for parameter in module.parameters(recurse=False)]
    generators = random.getstate(), np.random.get_state(), torch.get_rng_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    for parameter, _ in gradients:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, gradient in gradients:
            parameter.grad = gradient
        for module, before in attributes:
            put_back(vars(module), before)
        with torch.no_grad():
            for buffer, content in contents:
                # one that several elements share memory in cannot be written, nor be changed by a forward
                if buffer.layout is not torch.strided or buffer.is_nested or not torch.equal(buffer, content):
                    buffer.copy_(content)
        random.setstate(generators[0])
        np.random.set_state(generators[1])
        torch.set_rng_state(generators[2])
        if devices:
            torch.cuda.set_rng_state_all(devices)


def held(attributes: dict[str, Any]) -> dict[str, Any]:
    """Attributes, and of those that are lists, dicts or sets what they hold."""
    return {name: (value, copied(value)) for name, value in attributes.items()}


def copied(value: Any) -> Any:
    return value.copy() if type(value) in (list, dict, set) else None


def put_back(attributes: dict[str, Any], before: dict[str, Any]) -> None:
    attributes.clear()
    for name, (value, content) in before.items():
        if content is not None:
            value.clear()
            value.extend(content) if isinstance(value, list) else value.update(content)
        attributes[name] = value
