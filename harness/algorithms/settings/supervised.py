"""Settings of supervised classification."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from harness.errors import BadInput
from harness.schema import AlgorithmSettings, RunConfig
from harness.settings import named_object

DIGITS_TRAINING_SAMPLES, DIGITS_SHAPE, DIGITS = 1077, (1, 8, 8), 10


class SupervisedSettings(AlgorithmSettings):
    name: Literal["supervised"]
    dataset: str = "digits"
    """`digits` (8x8 images that come with scikit-learn), or a function of your own, `module:function`, that returns the
    training, validation and test splits: each (inputs, targets) as arrays, or a Dataset of such pairs."""
    epochs: int = Field(30, ge=1)
    """Passes over the training split; this is the run's budget, run.steps is not."""
    batch_size: int = Field(64, ge=1)
    """Samples of a step, over all ranks; the last batch of an epoch may have fewer."""
    augment: bool = False
    """Turn and shift each training image a little, anew in each epoch."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of a target's probability that is spread over all classes."""
    max_grad_norm: float | None = Field(None, gt=0)
    """2-norm that the agreed gradient is clipped to."""
    batch_norm: Literal["global", "local"] = "global"
    """Whether BatchNorm normalises over the batch of all ranks, or each rank over its own share."""

    def check(self, config: RunConfig) -> None:
        if config.env is not None:
            raise ValueError("env must be absent: supervised learns from algorithm.dataset")
        if config.run.steps is not None:
            raise ValueError("run.steps must be absent: the budget of supervised is algorithm.epochs")
        if config.optimizer.schedule == "kl_adaptive":
            raise ValueError("optimizer.schedule = 'kl_adaptive' needs a policy, which supervised has none of")
        if self.dataset != "digits" and ":" not in self.dataset:
            raise ValueError(f"algorithm.dataset must be 'digits' or module:function, got {self.dataset!r}")
        if self.dataset == "digits" and self.batch_size > DIGITS_TRAINING_SAMPLES:
            raise ValueError(
                f"algorithm.batch_size must be at most the {DIGITS_TRAINING_SAMPLES} training samples, "
                f"got {self.batch_size}"
            )

    def check_data(self, config: RunConfig, ranks: int) -> None:
        if self.batch_size < ranks:
            raise BadInput(f"algorithm.batch_size must be at least the {ranks} ranks, got {self.batch_size}")
        if self.dataset != "digits":  # what it returns may be large: it is the ranks that load it
            named_object(self.dataset, "algorithm.dataset")
