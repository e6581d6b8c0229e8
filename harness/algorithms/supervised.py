"""Supervised classification: an iteration is an epoch, a step is a sample, an evaluation is the accuracy.

N ranks are the same experiment as one: batches are cut into shares, BatchNorm normalises over all of them, and what is
shuffled or augmented follows from the seed, the epoch and the sample.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import nn

from harness.algorithms.base import Algorithm, AlgorithmSettings, Context, Evaluation, Iteration
from harness.algorithms.networks import make_classifier
from harness.algorithms.randomness import generator
from harness.algorithms.splits import DIGITS, DIGITS_SHAPE, DIGITS_TRAINING_SAMPLES, Samples, load_splits, make_loader
from harness.errors import BadInput
from harness.settings import named_object
from harness.training.distributed_trainer import DistributedTrainer
from harness.training.optimizers import LearningRate
from harness.training.precision import Precision

if TYPE_CHECKING:
    from harness.config import RunConfig

EVALUATION_BATCH = 512


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


class Supervised(Algorithm):
    Settings = SupervisedSettings

    @classmethod
    def check_data(cls, config: RunConfig, ranks: int) -> None:
        settings = config.algorithm
        assert isinstance(settings, SupervisedSettings)
        if settings.batch_size < ranks:
            raise BadInput(f"algorithm.batch_size must be at least the {ranks} ranks, got {settings.batch_size}")
        user_class = named_object(config.network.class_, "network.class") if config.network.class_ else None
        if settings.dataset == "digits":
            make_classifier(config.network, DIGITS_SHAPE, DIGITS, user_class)
        else:  # what it returns may be large: it is the ranks that load it
            named_object(settings.dataset, "algorithm.dataset")

    def __init__(self, context: Context) -> None:
        config, settings = context.config, context.config.algorithm
        assert isinstance(settings, SupervisedSettings)
        self.context, self.config, self.settings = context, config, settings
        splits = load_splits(settings.dataset)
        samples = len(splits.train)  # type: ignore[arg-type]
        if settings.batch_size > samples:
            raise BadInput(
                f"algorithm.batch_size must be at most the {samples} training samples, got {settings.batch_size}"
            )
        self.split = splits.train
        if settings.augment:
            if not isinstance(self.split, Samples) or len(splits.shape) != 3:
                raise BadInput("algorithm.augment must be false: it is for arrays (n, channels, height, width)")
            self.split.augment_seed = config.seed
        self.train_loader = make_loader(splits.train, settings.batch_size, shuffle=True)
        self.validation_loader = make_loader(splits.validation, EVALUATION_BATCH)
        self.test_loader = make_loader(splits.test, EVALUATION_BATCH)
        self.iterations, self.env_steps_per_iteration = settings.epochs, samples

        torch.manual_seed(config.seed)
        user_class = named_object(config.network.class_, "network.class") if config.network.class_ else None
        self.module = make_classifier(config.network, splits.shape, splits.classes, user_class)
        self.trainer = DistributedTrainer(
            self.module,
            config.optimizer,
            nn.CrossEntropyLoss(label_smoothing=settings.label_smoothing),
            collectives=context.collectives,
            precision=Precision(config.precision, context.device),
            max_grad_norm=settings.max_grad_norm,
            batch_norm=settings.batch_norm,
            seed=config.seed,
            device=context.device,
        )
        self.learning_rate = LearningRate(config.optimizer, self.trainer.optimizer, settings.batch_size)

    def iterate(self, iteration: int) -> Iteration:
        self.context.phases.start("train")
        if isinstance(self.split, Samples):
            self.split.epoch = iteration
        # what a network draws by itself (dropout) differs between ranks, and is the same again after a resume
        rank = self.context.collectives.rank
        torch.manual_seed(int(generator(self.config.seed, "dropout", iteration, rank).integers(2**62)))
        trained = self.trainer.train_epoch(self.train_loader, functools.partial(self.set_rate, iteration))
        self.context.phases.start("rest")
        metrics = {"loss": trained.loss, "skipped_steps": float(trained.skipped), "lr": self.learning_rate.value}
        return Iteration(trained.samples, trained.steps, metrics)

    def set_rate(self, iteration: int, step: int) -> None:
        self.context.phases.start("train")  # once more: it shows that the epoch goes on
        steps = math.ceil(self.env_steps_per_iteration / self.settings.batch_size)
        self.learning_rate.on_progress((iteration + step / steps) / self.iterations)

    def evaluate(self, episodes: int, final: bool = False) -> Evaluation:
        """All of the validation split, `final` of the test split: the return of a sample is 1 where it is right."""
        mine: list[np.ndarray] = []

        def is_right(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            self.context.phases.start("evaluate")
            right = outputs.argmax(-1) == targets
            mine.append(right.cpu().numpy())
            return right

        self.trainer.test_epoch(self.test_loader if final else self.validation_loader, is_right)
        shares = self.context.collectives.gather_objects(mine)
        batches = itertools.zip_longest(*shares, fillvalue=np.zeros(0, dtype=bool))
        return Evaluation(np.concatenate([part for batch in batches for part in batch]).astype(np.float64))

    def on_evaluation(self, evaluation: Evaluation) -> None:
        self.learning_rate.on_metric("eval_return_mean", evaluation.mean)

    def state(self) -> dict[str, Any]:
        return {"trainer": self.trainer.state(), "learning_rate": self.learning_rate.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        self.trainer.load_state(state["trainer"])
        self.learning_rate.load_state_dict(state["learning_rate"])
