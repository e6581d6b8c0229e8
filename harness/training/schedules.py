"""Learning rates over a run's progress."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch

from harness.schema import OptimizerSettings


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

    def __init__(self, settings: OptimizerSettings, optimizer: Any, batch_size: int) -> None:
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
