"""DistributedTrainer on one rank, against plain PyTorch; on several ranks: tests/multirank."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from harness import DistributedTrainer
from harness.distributed.transports.base import Alone
from harness.errors import BadInput, Diverged
from harness.schema import OptimizerSettings, PrecisionSettings


def make_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))


def make_loader(samples: int = 22, batch_size: int = 5) -> DataLoader:
    draw = torch.Generator().manual_seed(1)
    inputs, targets = torch.randn(samples, 4, generator=draw), torch.randint(0, 3, (samples,), generator=draw)
    return DataLoader(TensorDataset(inputs, targets), batch_size=batch_size)


def plain_epochs(model: nn.Module, optimizer: torch.optim.Optimizer, loader: DataLoader, epochs: int) -> None:
    model.train()
    for _ in range(epochs):
        for inputs, targets in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), targets).backward()
            optimizer.step()


def assert_equal_models(ours: nn.Module, theirs: nn.Module, **tolerance: float) -> None:
    for (name, mine), other in zip(ours.state_dict().items(), theirs.state_dict().values()):
        torch.testing.assert_close(mine, other, **tolerance, msg=lambda text: f"{name}: {text}")


def test_an_optimizer_of_the_users_keeps_its_groups_its_state_and_its_scheduler():
    models = make_model(), make_model()
    optimizers = []
    for model in models:
        groups = [{"params": [*model[0].parameters()]}, {"params": [*model[1:].parameters()], "lr": 0.3}]
        optimizers.append(torch.optim.SGD(groups, lr=0.1, momentum=0.9, weight_decay=0.01))
        plain_epochs(model, optimizers[-1], make_loader(), epochs=1)  # there is momentum already
    schedulers = [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5) for optimizer in optimizers]
    trainer = DistributedTrainer(models[0], optimizers[0], nn.CrossEntropyLoss(), communicator=Alone())
    for _ in range(3):
        trainer.train_epoch(make_loader())
        optimizers[0].zero_grad(set_to_none=True)
        plain_epochs(models[1], optimizers[1], make_loader(), epochs=1)
        for scheduler in schedulers:
            scheduler.step()
    assert_equal_models(*models, rtol=1e-5, atol=1e-6)
    assert trainer.optimizer is optimizers[0]


@pytest.mark.parametrize("optimizer", ["adam", OptimizerSettings(name="adam", lr=3e-4)])
def test_an_optimizer_may_be_named_or_described(optimizer):
    ours, theirs = make_model(), make_model()
    DistributedTrainer(ours, optimizer, nn.CrossEntropyLoss()).train_epoch(make_loader())
    plain_epochs(theirs, torch.optim.Adam(theirs.parameters(), lr=3e-4), make_loader(), epochs=1)
    assert_equal_models(ours, theirs, rtol=1e-4, atol=1e-6)


def test_a_layer_that_is_thawed_between_epochs_learns_from_then_on():
    models = make_model(), make_model()
    optimizers = []
    for model in models:
        model[0].requires_grad_(False)
        optimizers.append(torch.optim.Adam(model.parameters(), lr=0.01))
    trainer = DistributedTrainer(models[0], optimizers[0], nn.CrossEntropyLoss())
    frozen = models[0][0].weight.clone()
    for thawed in (False, True):
        for model in models:
            model[0].requires_grad_(thawed)
        trainer.train_epoch(make_loader())
        plain_epochs(models[1], optimizers[1], make_loader(), epochs=1)
        assert torch.equal(models[0][0].weight, frozen) is not thawed
    assert_equal_models(*models, rtol=1e-4, atol=1e-6)


def test_a_module_whose_tensors_were_replaced_between_epochs_still_learns():
    models = make_model(), make_model()
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in models]
    trainer = DistributedTrainer(models[0], optimizers[0], nn.CrossEntropyLoss())
    for _ in range(2):
        trainer.train_epoch(make_loader())
        plain_epochs(models[1], optimizers[1], make_loader(), epochs=1)
        for model in models:
            model.double().float()  # as `cpu()` and back would
    assert_equal_models(*models, rtol=1e-5, atol=1e-6)


def test_the_loss_of_an_epoch_is_the_mean_over_its_samples():
    model = make_model().requires_grad_(False)
    model[3].bias.requires_grad_(True)
    trainer = DistributedTrainer(model, torch.optim.SGD([model[3].bias], lr=1e-12), nn.CrossEntropyLoss())
    loader = make_loader(22, 5)  # the last batch has 2
    expected = sum(
        len(targets) * nn.functional.cross_entropy(model.train()(inputs), targets).item() for inputs, targets in loader
    )
    trained = trainer.train_epoch(loader)
    assert trained.loss == pytest.approx(expected / 22, rel=1e-6)
    assert (trained.samples, trained.steps, trained.skipped) == (22, 5, 0)


def test_a_test_counts_every_sample_once_and_restores_each_modules_mode():
    model, loader = make_model(), make_loader(22, 5)
    trainer = DistributedTrainer(model, "sgd", nn.CrossEntropyLoss())
    trainer.train_epoch(loader)
    model[1].eval()
    tested = trainer.test_epoch(loader, metric=lambda outputs, targets: outputs.argmax(-1) == targets)
    assert model.training and not model[1].training
    inputs, targets = loader.dataset.tensors
    with torch.no_grad():
        outputs = copy.deepcopy(model).eval()(inputs)
    assert tested.loss == pytest.approx(float(nn.functional.cross_entropy(outputs, targets)), rel=1e-5)
    assert tested.metric == pytest.approx(float((outputs.argmax(-1) == targets).double().mean()), rel=1e-12)
    assert tested.samples == 22
    assert trainer.test_epoch(loader, metric=lambda outputs, targets: float(len(targets))).metric == (4 * 25 + 4) / 22


class Sum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return self.layer(left + right)


def of_labels(outputs: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return nn.functional.mse_loss(outputs, batch["right"][:, :1], reduction="none")


@pytest.mark.parametrize(
    "model, loss, batch",
    [
        (nn.Linear(2, 2), nn.MSELoss(), torch.ones(3, 2)),
        (nn.Linear(2, 2), nn.MSELoss(), [torch.ones(3, 2)]),
        (Sum(), nn.MSELoss(), (torch.ones(3, 2), torch.ones(3, 2), torch.zeros(3, 1))),
        (Sum(), of_labels, {"left": torch.ones(3, 2), "right": torch.zeros(3, 2)}),
    ],
    ids=["a tensor", "one in a list", "several inputs", "a mapping, and a loss for each sample"],
)
def test_batches_may_have_any_usual_form(model, loss, batch):
    trainer = DistributedTrainer(model, torch.optim.SGD(model.parameters(), lr=0.05), loss)
    losses = [trainer.train_epoch([batch]) for _ in range(3)]
    assert losses[2].loss < losses[0].loss
    assert losses[0].samples == 3


def test_before_step_is_called_with_the_number_of_each_step():
    model = make_model()
    seen = []
    trainer = DistributedTrainer(model, "sgd", nn.CrossEntropyLoss())
    trainer.train_epoch(make_loader(22, 5), before_step=seen.append)
    assert seen == [0, 1, 2, 3, 4]


def test_training_goes_on_from_a_saved_state_as_if_never_interrupted():
    def make() -> DistributedTrainer:
        settings = PrecisionSettings(kind="bf16")
        return DistributedTrainer(make_model(), "adamw", nn.CrossEntropyLoss(), precision=settings, seed=3)

    loader = DataLoader(make_loader().dataset, batch_size=5, shuffle=True)
    straight, first, second = make(), make(), make()
    for _ in range(4):
        straight.train_epoch(loader)
    for _ in range(2):
        first.train_epoch(loader)
    second.load_state(copy.deepcopy(first.state()))
    for _ in range(2):
        second.train_epoch(loader)
    assert_equal_models(second.model, straight.model, rtol=0, atol=0)


@pytest.mark.parametrize("precision, skipped", [("fp32", 0), ("fp16", 17)])
def test_a_loss_that_is_not_finite_is_divergence_in_fp16_at_the_last_scale(precision, skipped):
    model = nn.Linear(2, 1)
    trainer = DistributedTrainer(model, "sgd", nn.MSELoss(), precision=precision)
    batch = torch.full((2, 2), float("nan")), torch.zeros(2, 1)
    before = model.weight.clone()
    with pytest.raises(Diverged, match="non-finite"):
        trainer.train_epoch([batch] * 30)
    assert torch.equal(model.weight, before)
    assert trainer.step.skipped_steps == skipped


def test_what_cannot_be_trained_is_refused_with_the_reason():
    model, other = make_model(), nn.Linear(1, 1)
    everything = [*model.parameters(), *other.parameters()]
    with pytest.raises(ValueError, match="2 parameters that are not the model's"):
        DistributedTrainer(model, torch.optim.SGD(everything, lr=0.1), nn.CrossEntropyLoss())
    with pytest.raises(ValueError, match="reduction='sum'"):
        DistributedTrainer(model, "sgd", nn.CrossEntropyLoss(reduction="sum"))
    with pytest.raises(ValueError, match="batch_norm must be 'global' or 'local'"):
        DistributedTrainer(model, "sgd", nn.CrossEntropyLoss(), batch_norm="none")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match=r"optimizer.name.*'lion'"):
        DistributedTrainer(model, "lion", nn.CrossEntropyLoss())
    with pytest.raises(BadInput, match=r"precision.kind.*'fp8'"):
        DistributedTrainer(model, "sgd", nn.CrossEntropyLoss(), precision="fp8")
    trainer = DistributedTrainer(model, "sgd", nn.CrossEntropyLoss())
    for run in (trainer.train_epoch, trainer.test_epoch):
        with pytest.raises(ValueError, match="no batch"):
            run([])


def test_a_launcher_whose_ranks_are_unknown_here_is_refused_rather_than_each_rank_training_alone(monkeypatch):
    from harness.training.trainer_arguments import own_world

    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(BadInput, match="start ranks by horovodrun, mpirun, srun"):
        own_world.__wrapped__()
