"""Arithmetic of a step: fp32, bf16, or fp16 with loss scaling; a step that overflows on one rank is skipped by all."""

from __future__ import annotations

import contextlib
from typing import Any

import torch

from harness.schema import PrecisionSettings

LARGEST_SCALE = torch.finfo(torch.float32).max
"""A larger one would make an infinity of any loss."""


class Precision:
    """Autocast and loss scaling (Micikevicius et al. 2018, section 3.2) for gradients that are summed over ranks.

    The order is scale -> backward -> all-reduce -> unscale -> look for overflow -> clip -> step. Looking after the
    all-reduce makes the decision agreed without a collective of its own: one rank's inf or nan is everybody's.
    """

    DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}

    def __init__(self, settings: PrecisionSettings, device: torch.device) -> None:
        self.kind = settings.kind
        self.growth_interval = settings.growth_interval
        self.device = device
        self.scale = settings.initial_scale if settings.kind == "fp16" else 1.0
        self.good_steps = 0

    @property
    def scales_loss(self) -> bool:
        return self.kind == "fp16"

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.kind == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.DTYPES[self.kind])

    def update(self, finite: bool) -> None:
        """Halves the scale after an overflow, doubles it after `growth_interval` steps without one, as long as it is a
        float32: as torch's GradScaler does."""
        if not self.scales_loss:
            return
        if not finite:
            self.scale, self.good_steps = self.scale / 2.0, 0
            return
        self.good_steps += 1
        if self.good_steps >= self.growth_interval:
            self.scale, self.good_steps = self.scale * (2.0 if self.scale * 2.0 <= LARGEST_SCALE else 1.0), 0

    @property
    def exhausted(self) -> bool:
        """True where no scale is left to try: the loss itself overflows."""
        return self.scales_loss and self.scale < 1.0

    def state(self) -> dict[str, float]:
        return {"scale": self.scale, "good_steps": self.good_steps}

    def load_state(self, state: dict[str, Any]) -> None:
        self.scale, self.good_steps = float(state["scale"]), int(state["good_steps"])
