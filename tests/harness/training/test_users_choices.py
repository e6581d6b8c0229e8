"""What DistributedTrainer refuses at once, and what of the user's it leaves alone; on one rank."""

from __future__ import annotations

import functools
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from harness import DistributedTrainer
from harness.distributed.transports.base import Alone
from harness.errors import BadInput
from harness.schema import PrecisionSettings
from harness.training.losses import LossSum
from harness.training.precision import LARGEST_SCALE, Precision

INPUTS, TARGETS = torch.randn(16, 4, generator=torch.Generator().manual_seed(1)), torch.arange(16) % 3


def loader() -> DataLoader:
    return DataLoader(TensorDataset(INPUTS, TARGETS), batch_size=8)


def make(model: nn.Module, optimizer: object = "sgd", loss: object = functional.cross_entropy, **options: object):
    return DistributedTrainer(model, optimizer, loss, communicator=Alone(), **options)  # type: ignore[arg-type]


REFUSED = {
    "LBFGS": (lambda model: (torch.optim.LBFGS(model.parameters()), functional.cross_entropy), "closure"),
    "SparseAdam": (lambda model: (torch.optim.SparseAdam(model.parameters()), functional.cross_entropy), "use Adam"),
    "no optimizer": (lambda model: (model, functional.cross_entropy), "got Linear"),
    "no loss": (lambda model: ("sgd", None), "got NoneType"),
    "a sum": (lambda model: ("sgd", nn.CrossEntropyLoss(reduction="sum")), "reduction='sum'"),
    "a sum, partly": (
        lambda model: ("sgd", functools.partial(functional.cross_entropy, reduction="sum")),
        "reduction='sum'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_trained_is_refused_in_one_line_at_construction(name: str) -> None:
    model = nn.Linear(4, 3)
    given, reason = REFUSED[name]
    with pytest.raises(BadInput, match=reason) as refused:
        make(model, *given(model))
    assert isinstance(refused.value, ValueError) and "\n" not in str(refused.value)


def test_lazy_layers_are_refused_until_they_have_seen_a_batch() -> None:
    model = nn.Sequential(nn.LazyLinear(8), nn.LazyBatchNorm1d(), nn.LazyLinear(3))
    with pytest.raises(ValueError, match="0.weight.* call the model on a batch"):
        make(model)
    model(INPUTS)
    assert make(model).train_epoch(loader()).steps == 2


@pytest.mark.parametrize(
    "method",
    [
        lambda p: torch.optim.AdamW(p, amsgrad=True, maximize=True),
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
        lambda p: torch.optim.RMSprop(p, centered=True),
        *(getattr(torch.optim, name) for name in ("Adadelta", "Adamax", "ASGD", "NAdam", "RAdam", "Rprop", "Adagrad")),
    ],
    ids=lambda method: getattr(method, "__name__", "method"),
)
def test_any_of_torchs_optimizers_steps_as_in_torch(method) -> None:
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(nn.Linear(4, 3))
    make(models[0], method(models[0].parameters())).train_epoch(loader())
    optimizer = method(models[1].parameters())
    for inputs, targets in loader():
        optimizer.zero_grad()
        functional.cross_entropy(models[1](inputs), targets).backward()
        optimizer.step()
    torch.testing.assert_close(models[0].weight, models[1].weight, rtol=1e-6, atol=1e-7)


def test_hooks_and_schedulers_that_come_after_the_trainer_are_heard() -> None:
    model = nn.Linear(4, 3, bias=False)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1, fused=True)
    trainer = make(model, optimizer)
    steps: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: steps.append("before"))
    optimizer.register_step_post_hook(lambda *_: steps.append("after"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
        trainer.train_epoch(loader())
        scheduler.step()
    assert steps == ["before", "after"] * 2
    assert optimizer.param_groups[0]["lr"] == 0.05


def test_modes_that_the_user_has_set_stay_also_where_the_whole_model_was_evaluated_between() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).eval(), nn.Dropout(0.1), nn.Linear(4, 3))
    trainer = make(model)
    before = model[0][1].running_mean.clone()
    trainer.train_epoch(loader())
    assert model.training and model[1].training and not model[0].training and not model[0][1].training
    model.eval()
    trainer.train_epoch(loader())
    assert model.training and model[2].training and not model[0][1].training
    assert torch.equal(model[0][1].running_mean, before)
    model.train()
    trainer.train_epoch(loader())
    assert model[0][1].training and not torch.equal(model[0][1].running_mean, before)


def test_the_look_at_the_first_batch_leaves_modules_as_they_were() -> None:
    class Counts(nn.Linear):
        def __init__(self) -> None:
            super().__init__(4, 3)
            self.calls, self.seen = 0, []
            self.register_buffer("total", torch.zeros(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            self.seen.append(len(x))
            self.total += 1
            return super().forward(x)

    model = Counts()
    make(model).train_epoch(loader())
    assert (model.calls, model.seen, float(model.total)) == (2, [8, 8], 2.0)


def test_a_loss_over_pairs_is_welcome_on_one_rank() -> None:
    def contrastive(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(outputs @ outputs.T, torch.arange(len(outputs)))

    assert make(nn.Linear(4, 3), loss=contrastive).train_epoch(loader()).steps == 2


def test_the_loss_of_a_test_is_that_of_all_its_samples_at_once() -> None:
    targets = torch.where(torch.arange(16) % 5 < 2, -100, TARGETS)
    data = DataLoader(TensorDataset(INPUTS, targets), batch_size=6)
    model = nn.Linear(4, 3)
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 2.0]))
    tested = make(model, loss=loss).test_epoch(data)
    assert tested.loss == pytest.approx(loss(model(INPUTS), targets).item(), rel=1e-6)
    assert tested.samples == 16


def test_a_batch_of_padding_alone_is_a_step_of_nothing() -> None:
    for loss in (nn.CrossEntropyLoss(), lambda o, t: LossSum(o.sum() * 0.0, 0.0)):
        model = nn.Linear(4, 3)
        before = model.weight.clone()
        trained = make(model, torch.optim.SGD(model.parameters(), 0.1), loss).train_epoch(
            [(INPUTS, torch.full((16,), -100))]
        )
        assert torch.equal(model.weight, before) and trained.steps == 1 and trained.loss != trained.loss


def test_the_loss_scale_grows_as_far_as_a_float32_goes() -> None:
    precision = Precision(PrecisionSettings(kind="fp16", growth_interval=1), torch.device("cpu"))
    for _ in range(300):
        precision.update(True)
    assert precision.scale == 2.0**127 <= LARGEST_SCALE
    precision.update(False)
    assert precision.scale == 2.0**126
