"""Supervised classification: an iteration is an epoch, a step is a sample, an evaluation is the accuracy.

N ranks are the same experiment as one: batches are cut into shares, BatchNorm normalises over all of them, and what is
shuffled or augmented follows from the seed, the epoch and the sample.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import BatchSampler, RandomSampler

from harness.algorithms.base import Algorithm, Context, Evaluation, Iteration
from harness.algorithms.common.datasets import Samples, load_datasets, make_loader
from harness.algorithms.settings.supervised import DIGITS, DIGITS_SHAPE, SupervisedSettings
from harness.errors import BadInput, StopHere
from harness.models.classifier import make_classifier
from harness.randomness import generator
from harness.settings import named_object
from harness.training.batchnorm import agree_on_buffers
from harness.training.distributed_trainer import DistributedTrainer
from harness.training.listening import Listener
from harness.training.precision import Precision
from harness.training.schedules import LearningRate

if TYPE_CHECKING:
    from harness.schema import RunConfig

EVALUATION_BATCH = 512


@dataclass
class Part:
    """What there is of an epoch that is not over."""

    batches: int = 0
    loss_sum: float = 0.0
    """Of the samples that were `counted`, those of steps that were taken."""
    counted: int = 0
    samples: int = 0
    steps: int = 0
    skipped: int = 0


class Remaining(BatchSampler):
    """The batches of an epoch without the first `left_out` of them."""

    left_out = 0

    def __iter__(self) -> Iterator[list[int]]:
        return itertools.islice(super().__iter__(), self.left_out, None)

    def __len__(self) -> int:
        return super().__len__() - self.left_out


class Supervised(Algorithm):
    Settings = SupervisedSettings

    @classmethod
    def check_data(cls, config: RunConfig, ranks: int) -> None:
        settings = config.algorithm
        assert isinstance(settings, SupervisedSettings)
        user_class = named_object(config.network.class_, "network.class") if config.network.class_ else None
        if settings.dataset == "digits":
            make_classifier(config.network, DIGITS_SHAPE, DIGITS, user_class)

    def __init__(self, context: Context) -> None:
        config, settings = context.config, context.config.algorithm
        assert isinstance(settings, SupervisedSettings)
        self.context, self.config, self.settings = context, config, settings
        splits = load_datasets(settings.dataset)
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
        self.batches = Remaining(RandomSampler(splits.train), settings.batch_size, drop_last=False)  # type: ignore
        self.train_loader = make_loader(splits.train, self.batches)
        self.part = Part()
        """Of the epoch that is under way; of one that a stopped attempt has begun, what that has made."""
        self.listener = Listener(context.listen)
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
            communicator=context.communicator,
            precision=Precision(config.precision, context.device),
            max_grad_norm=settings.max_grad_norm,
            batch_norm=settings.batch_norm,
            seed=config.seed,
            device=context.device,
            synchronizer=context.synchronizer,
        )
        self.learning_rate = LearningRate(config.optimizer, self.trainer.optimizer, settings.batch_size)

    def iterate(self, iteration: int) -> Iteration:
        self.context.phases.start("train")
        if isinstance(self.split, Samples):
            self.split.epoch = iteration
        before = replace(self.part)
        if not before.batches:
            self.seed_draws(iteration, 0)
        self.batches.left_out = before.batches
        self.taken, self.skipped = self.trainer.step.gradient_steps, self.trainer.step.skipped_steps
        try:
            trained = self.trainer.train_epoch(
                self.train_loader, functools.partial(self.before_step, iteration, before.batches)
            )
        except StopHere as stop:  # on all ranks, at the same batch
            self.context.phases.start("rest")
            agree_on_buffers(self.module, self.context.communicator, samples=1)
            part = self.part
            return Iteration(part.samples - before.samples, part.steps - before.steps, {}, cut=stop.reason)
        finally:
            self.batches.left_out = 0
        self.part = Part()
        self.context.phases.start("rest")
        counted = trained.samples if math.isfinite(trained.loss) else 0
        loss = trained.loss
        if before.counted:
            rest = trained.loss * counted if counted else 0.0
            loss = (before.loss_sum + rest) / (before.counted + counted)
        skipped = float(before.skipped + trained.skipped)
        metrics = {"loss": loss, "skipped_steps": skipped, "lr": self.learning_rate.value}
        return Iteration(trained.samples, trained.steps, metrics)

    def seed_draws(self, iteration: int, batch: int) -> None:
        """What a network draws by itself (dropout) differs between ranks, and is the same again after a resume."""
        numbers = iteration, self.context.communicator.rank, *([batch] if batch else [])
        torch.manual_seed(int(generator(self.config.seed, "dropout", *numbers).integers(2**62)))

    def before_step(self, iteration: int, first: int, step: int) -> None:
        """Before step number `step` of those that this attempt makes of the epoch, whose first is batch `first`."""
        self.context.phases.start("train")  # once more: it shows that the epoch goes on
        if step:
            self.account(first + step)
            self.listener.step()
        steps = math.ceil(self.env_steps_per_iteration / self.settings.batch_size)
        self.learning_rate.on_progress((iteration + (first + step) / steps) / self.iterations)

    def account(self, batches: int) -> None:
        """Batch number `batches - 1` of the epoch has been learned from."""
        step, part, samples = self.trainer.step, self.part, self.settings.batch_size
        if step.gradient_steps > self.taken:
            part.loss_sum += float(step.arena.tail[0]) * samples
            part.counted += samples
        part.steps += step.gradient_steps - self.taken
        part.skipped += step.skipped_steps - self.skipped
        self.taken, self.skipped = step.gradient_steps, step.skipped_steps
        part.batches, part.samples = batches, part.samples + samples

    def evaluate(self, episodes: int, final: bool = False) -> Evaluation:
        """All of the validation split, `final` of the test split: the return of a sample is 1 where it is right."""
        mine: list[np.ndarray] = []
        loader = self.test_loader if final else self.validation_loader
        heard = len(loader) - 1 if EVALUATION_BATCH >= self.context.communicator.size else 0
        """Batches before which all ranks listen: those before which each rank has had samples."""

        def is_right(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            self.context.phases.start("evaluate")
            if len(mine) < heard:
                self.listener.step()
            right = outputs.argmax(-1) == targets
            mine.append(right.cpu().numpy())
            return right

        self.trainer.test_epoch(loader, is_right)
        shares = self.context.communicator.gather_objects(mine)
        batches = itertools.zip_longest(*shares, fillvalue=np.zeros(0, dtype=bool))
        return Evaluation(np.concatenate([part for batch in batches for part in batch]).astype(np.float64))

    def on_evaluation(self, evaluation: Evaluation) -> None:
        self.learning_rate.on_metric("eval_return_mean", evaluation.mean)

    def state(self) -> dict[str, Any]:
        rate = self.learning_rate.state_dict()
        return {"trainer": self.trainer.state(), "learning_rate": rate, "part": asdict(self.part)}

    def load_state(self, state: dict[str, Any]) -> None:
        self.trainer.load_state(state["trainer"])
        self.learning_rate.load_state_dict(state["learning_rate"])
        self.part = Part(**state.get("part", {}))
        if self.part.batches:  # the process's random numbers are loaded after this, where the ranks are as many
            self.seed_draws(self.trainer.epoch, self.part.batches)
