"""Optimizers and their learning rates: which method steps, how fast, and how the rate changes on the way.

Everything works on one flat parameter (`distributed.arena`) as well as on a list of them. A rate that depends on
progress is a pure function of it, so that all ranks and a resumed run compute the same one; a rate that depends on a
metric takes a value that the ranks have agreed on already.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import torch
from pydantic import Field, model_validator

from harness.settings import Settings

HOW_IT_STEPS = {"lr", "fused", "foreach", "capturable"}
"""Settings of an optimizer's groups that belong to the device, and a rate that `LearningRate` keeps."""


class OptimizerSettings(Settings):
    """`[optimizer]`: the method that turns gradients into steps, and its learning rate over the run."""

    name: Literal["sgd", "adam", "adamw", "rmsprop", "adagrad"] = "adam"
    """The method."""
    lr: float = Field(default=3e-4, gt=0)
    """Learning rate at its full height, before the rule of `scale_lr`."""
    betas: tuple[float, float] = (0.9, 0.999)
    """adam, adamw: decay of the running means of the gradient and of its square, each in [0, 1)."""
    momentum: float = Field(default=0.0, ge=0, lt=1)
    """sgd, rmsprop: share of the last step that is taken again."""
    alpha: float = Field(default=0.99, ge=0, lt=1)
    """rmsprop: decay of the running mean of the squared gradient."""
    eps: float = Field(default=1e-8, gt=0)
    """adam, adamw, rmsprop, adagrad: added to the denominator."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decay of all parameters, biases too: decoupled from the gradient for adamw, added to it for the others."""
    schedule: Literal["constant", "linear", "cosine", "plateau", "kl_adaptive"] = "constant"
    """How the rate changes: by progress (constant, linear, cosine) or by a metric (plateau, kl_adaptive)."""
    warmup: float = Field(default=0.0, ge=0, lt=1)
    """Share of the run's updates over which the rate rises from 0 to its full height (not with kl_adaptive)."""
    final_lr_fraction: float = Field(default=0.0, ge=0, le=1)
    """linear, cosine: the rate at the end, as a fraction of the full height. plateau: the rate never falls below it."""
    plateau_metric: Literal["eval_return_mean"] = "eval_return_mean"
    """plateau: the metric that is watched, the mean of each evaluation."""
    plateau_mode: Literal["max", "min"] = "max"
    """plateau: whether more of the metric is better, or less."""
    plateau_factor: float = Field(default=0.5, gt=0, lt=1)
    """plateau: what the rate is multiplied by."""
    plateau_patience: int = Field(default=5, ge=0)
    """plateau: how many values in a row without improvement are borne; the next one lowers the rate."""
    target_kl: float = Field(default=0.01, gt=0)
    """kl_adaptive: the KL divergence of one update that the rate is steered to."""
    min_lr: float = Field(default=1e-5, gt=0)
    """kl_adaptive: the rate never falls below it."""
    max_lr: float = Field(default=1e-2, gt=0)
    """kl_adaptive: the rate never rises above it."""
    scale_lr: Literal["none", "linear", "sqrt"] = "none"
    """Rule for the batch: the rate is lr * (batch / reference_batch), or lr times the square root of that ratio."""
    reference_batch: int | None = Field(default=None, ge=1)
    """The batch, over all ranks, for which `lr` was tuned; needed by `scale_lr`."""

    @model_validator(mode="after")
    def check_that_the_settings_fit_together(self) -> OptimizerSettings:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must each be in [0, 1), got {list(self.betas)}")
        if self.scale_lr != "none" and self.reference_batch is None:
            raise ValueError(f'scale_lr = "{self.scale_lr}" needs reference_batch, the batch that lr was tuned for')
        if self.schedule == "kl_adaptive":
            if self.warmup:
                raise ValueError(f"warmup must be 0 with kl_adaptive, which would work against it, got {self.warmup}")
            if not self.min_lr <= self.lr <= self.max_lr:
                raise ValueError(f"lr must be in min_lr … max_lr with kl_adaptive, got {self.lr}")
        return self


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


def load_in_place(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
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


def bare_step(optimizer: torch.optim.Optimizer) -> Callable[[], Any]:
    """`optimizer.step`; for Adam on one flat CPU parameter its fused kernel alone, without the 15 us of bookkeeping
    around it (hooks, profiler records, grouping by device), which a step of a small network would feel.

    For optimizers that `make_optimizer` has made: hooks that are registered later are not called.
    """
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


def scaled_lr(settings: OptimizerSettings, batch_size: int) -> float:
    """The full height of the rate for batches of `batch_size` samples, counted over all ranks."""
    if settings.scale_lr == "none" or settings.reference_batch is None:
        return settings.lr
    ratio = batch_size / settings.reference_batch
    return settings.lr * (ratio if settings.scale_lr == "linear" else math.sqrt(ratio))


def warm_up(progress: float, warmup: float) -> float:
    """The factor in [0, 1] by which the rate is held down at the start."""
    return min(progress / warmup, 1.0) if warmup else 1.0


def progress_after_warm_up(progress: float, warmup: float) -> float:
    return max(progress - warmup, 0.0) / (1.0 - warmup)


class Schedule(ABC):
    """A learning rate over a run. `lr_at` is a pure function of progress, unless the schedule listens to a metric."""

    listens_to: str | None = None

    def __init__(self, settings: OptimizerSettings, lr: float) -> None:
        self.settings = settings
        self.lr = lr

    @abstractmethod
    def lr_at(self, progress: float) -> float:
        """The rate after `progress` in [0, 1] of the run's updates."""

    def on_metric(self, value: float) -> None:
        """Takes the next value of the metric `listens_to`.

        The CALLER has agreed it over the ranks (all-reduced or broadcast): ranks that see different values would part
        ways here without an error.
        """

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state_dict` was taken."""


class Constant(Schedule):
    def lr_at(self, progress: float) -> float:
        return self.lr * warm_up(progress, self.settings.warmup)


class Linear(Schedule):
    """From the full height to `final_lr_fraction` of it, in a straight line that starts where the warm-up ends."""

    def lr_at(self, progress: float) -> float:
        done = progress_after_warm_up(progress, self.settings.warmup)
        final = self.settings.final_lr_fraction
        return self.lr * warm_up(progress, self.settings.warmup) * (1.0 - (1.0 - final) * done)


class Cosine(Schedule):
    """Half a cosine from the full height to `final_lr_fraction` of it (Loshchilov and Hutter 2017, eq. 5)."""

    def lr_at(self, progress: float) -> float:
        done = progress_after_warm_up(progress, self.settings.warmup)
        final = self.settings.final_lr_fraction
        share = final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * done))
        return self.lr * warm_up(progress, self.settings.warmup) * share


class Plateau(Schedule):
    """Lowers the rate by `plateau_factor` when the metric has not improved for more than `plateau_patience` values.

    A value that is not finite is no improvement.
    """

    def __init__(self, settings: OptimizerSettings, lr: float) -> None:
        super().__init__(settings, lr)
        self.listens_to = settings.plateau_metric
        self.factor = 1.0
        self.best: float | None = None
        self.waited = 0

    def lr_at(self, progress: float) -> float:
        return self.lr * self.factor * warm_up(progress, self.settings.warmup)

    def on_metric(self, value: float) -> None:
        signed = value if self.settings.plateau_mode == "max" else -value
        if math.isfinite(signed) and (self.best is None or signed > self.best):
            self.best, self.waited = signed, 0
            return
        self.waited += 1
        if self.waited > self.settings.plateau_patience:
            self.factor = max(self.factor * self.settings.plateau_factor, self.settings.final_lr_fraction)
            self.waited = 0

    def state_dict(self) -> dict[str, Any]:
        return {"factor": self.factor, "best": self.best, "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.factor, self.best, self.waited = state["factor"], state["best"], state["waited"]


class KlAdaptive(Schedule):
    """Steers the KL divergence of an update to `target_kl`: above twice of it the rate is divided by 1.5, below half of
    it multiplied by 1.5, within `min_lr` … `max_lr`, as rsl_rl and Isaac Gym's PPO do.
    """

    listens_to = "kl"
    step = 1.5

    def __init__(self, settings: OptimizerSettings, lr: float) -> None:
        super().__init__(settings, lr)
        self.adapted = self.bounded(lr)

    def bounded(self, lr: float) -> float:
        return min(max(lr, self.settings.min_lr), self.settings.max_lr)

    def lr_at(self, progress: float) -> float:
        return self.adapted

    def on_metric(self, value: float) -> None:
        if value > 2.0 * self.settings.target_kl:
            self.adapted = self.bounded(self.adapted / self.step)
        elif 0.0 < value < 0.5 * self.settings.target_kl:  # 0: nothing was learned from this batch, the rate is not why
            self.adapted = self.bounded(self.adapted * self.step)

    def state_dict(self) -> dict[str, Any]:
        return {"adapted": self.adapted}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.adapted = state["adapted"]


SCHEDULES: Mapping[str, Callable[[OptimizerSettings, float], Schedule]] = {
    "constant": Constant,
    "linear": Linear,
    "cosine": Cosine,
    "plateau": Plateau,
    "kl_adaptive": KlAdaptive,
}


def make_schedule(settings: OptimizerSettings, batch_size: int) -> Schedule:
    return SCHEDULES[settings.schedule](settings, scaled_lr(settings, batch_size))


class LearningRate:
    """Keeps an optimizer's rate on its schedule.

    `batch_size` is that of one optimizer step, counted over all ranks.
    """

    def __init__(self, settings: OptimizerSettings, optimizer: torch.optim.Optimizer, batch_size: int) -> None:
        self.optimizer = optimizer
        self.schedule = make_schedule(settings, batch_size)
        self.progress = 0.0
        self.apply()

    @property
    def value(self) -> float:
        """The rate that the next step takes."""
        return self.schedule.lr_at(self.progress)

    def on_progress(self, fraction: float) -> None:
        """`fraction` of the run's updates is done: a number in [0, 1], past the end it counts as 1."""
        self.progress = min(max(fraction, 0.0), 1.0)
        self.apply()

    def on_metric(self, name: str, value: float) -> None:
        """A metric that the CALLER has agreed over the ranks; one that the schedule does not listen to is ignored."""
        if name == self.schedule.listens_to:
            self.schedule.on_metric(value)
            self.apply()

    def apply(self) -> None:
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], torch.Tensor):  # a tensor is read by a compiled step without compiling it again
                group["lr"].fill_(self.value)
            else:
                group["lr"] = self.value

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers: JSON holds them."""
        return {"progress": self.progress, "schedule": self.schedule.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state_dict` was taken, whatever rate the optimizer's own state brought along."""
        self.schedule.load_state_dict(state["schedule"])
        self.progress = state["progress"]
        self.apply()
