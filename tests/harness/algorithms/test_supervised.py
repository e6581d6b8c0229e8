"""Supervised learning: its data, what is drawn from it, and that it goes on where it stopped."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from harness.__main__ import main
from harness.algorithms import Context, Evaluation
from harness.algorithms.common.datasets import Samples, load_datasets, make_loader, turned_and_shifted
from harness.algorithms.supervised import Supervised
from harness.config import load_run_config
from harness.distributed.transports.base import Alone
from harness.errors import BadInput
from harness.reporting import PhaseTimer
from tests.command import harness


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As a run has it for so small a network."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make(*overrides: str) -> Supervised:
    config = load_run_config("supervised-digits", overrides)
    cpu = torch.device("cpu")
    return Supervised(Context(config, Alone(), cpu, PhaseTimer(), None, lambda act, episodes, final: np.zeros(0)))


def parameters(algorithm: Supervised) -> torch.Tensor:
    return torch.cat([tensor.double().flatten() for tensor in algorithm.module.state_dict().values()])


# -- data --------------------------------------------------------------------------------------------------------------


def test_the_digits_are_split_by_class_without_overlap_and_scaled_by_the_training_split() -> None:
    splits = load_datasets("digits")
    parts = [splits.train, splits.validation, splits.test]
    assert [len(part) for part in parts] == [1077, 360, 360]  # type: ignore[arg-type]
    assert (splits.shape, splits.classes) == ((1, 8, 8), 10)
    for part in parts:
        shares = torch.bincount(part.targets) / len(part)  # type: ignore[attr-defined, arg-type]
        assert (shares - 0.1).abs().max() < 0.01
    whole = torch.cat([part.inputs.flatten(1) for part in parts])  # type: ignore[attr-defined]
    assert len(torch.unique(whole, dim=0)) == 1797
    train = splits.train.inputs.double()  # type: ignore[attr-defined]
    assert (float(train.mean()), float(train.std(correction=0))) == pytest.approx((0.0, 1.0), abs=1e-6)
    assert abs(float(splits.test.inputs.mean())) > 1e-4  # type: ignore[attr-defined]


def test_augmentation_turns_about_the_middle_and_shifts_as_scipy_does() -> None:
    images = torch.randn(3, 2, 6, 9)
    amounts = torch.tensor([[1.0, 0.5, -1.0], [-0.4, 0.0, 0.3], [0.0, 0.0, 0.0]])
    found = turned_and_shifted(images, amounts)
    for image, (angle, right, down), turned in zip(images, amounts.tolist(), found):
        cosine, sine = math.cos(math.radians(10 * angle)), math.sin(math.radians(10 * angle))
        matrix = np.array([[cosine, sine], [-sine, cosine]])  # of (row, column)
        middle = np.array([2.5, 4.0])
        offset = middle - matrix @ middle + np.array([down, right])
        for channel, expected in zip(image.numpy(), turned.numpy()):
            theirs = ndimage.affine_transform(channel, matrix, offset, order=1, mode="nearest")
            np.testing.assert_allclose(expected, theirs, atol=1e-4)
    torch.testing.assert_close(found[2], images[2], atol=1e-5, rtol=0)


def test_an_augmented_sample_depends_on_seed_epoch_and_index_alone() -> None:
    split = Samples(torch.randn(20, 1, 8, 8), torch.arange(20))
    split.augment_seed = 3
    alone, among_others = split[7][0], split.__getitems__([1, 7, 19])[0][1]
    assert torch.equal(alone, among_others)
    assert not torch.allclose(alone, split.inputs[7])
    split.epoch = 1
    assert not torch.allclose(alone, split[7][0])
    split.epoch, split.augment_seed = 0, 4
    assert not torch.allclose(alone, split[7][0])


def test_validation_and_test_are_never_augmented() -> None:
    algorithm = make("algorithm.augment=true")
    for loader in (algorithm.validation_loader, algorithm.test_loader):
        split = loader.dataset
        assert isinstance(split, Samples) and torch.equal(split[5][0], split.inputs[5])


def test_a_loader_of_samples_gives_what_one_of_single_samples_gives() -> None:
    split = Samples(torch.randn(7, 3), torch.arange(7))
    single = TensorDataset(split.inputs, split.targets)
    for ours, theirs in zip(make_loader(split, 3), make_loader(single, 3), strict=True):
        assert all(torch.equal(one, other) for one, other in zip(ours, theirs))


# -- learning ----------------------------------------------------------------------------------------------------------


class WithDropout(nn.Module):
    def __init__(self, shape: tuple[int, ...], classes: int, width: int = 16) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(math.prod(shape), width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.3)
        )
        self.last = nn.Linear(width, classes)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.last(self.layers(inputs))


OWN_NETWORK = f"network.class={__name__}:WithDropout"


def test_it_goes_on_from_a_checkpoint_to_the_bit(tmp_path: Path) -> None:
    settings = [OWN_NETWORK, "algorithm.epochs=4", "algorithm.augment=true", "precision.kind=bf16"]
    straight, before, after = make(*settings), make(*settings), make(*settings)
    for iteration in range(4):
        straight.iterate(iteration)
    for iteration in range(2):
        before.iterate(iteration)
    torch.save(before.state(), tmp_path / "state.pt")
    torch.rand(5)
    after.load_state(torch.load(tmp_path / "state.pt", weights_only=True))
    for iteration in range(2, 4):
        after.iterate(iteration)
    assert torch.equal(parameters(after), parameters(straight))


def test_an_evaluation_holds_whether_each_sample_was_right_in_the_order_of_the_split() -> None:
    algorithm = make("algorithm.epochs=1")
    done = algorithm.iterate(0)
    assert (done.env_steps, done.gradient_steps) == (1077, 17)
    for final, loader in ((False, algorithm.validation_loader), (True, algorithm.test_loader)):
        split = loader.dataset
        assert isinstance(split, Samples)
        with torch.no_grad():
            right = algorithm.module.eval()(split.inputs).argmax(-1) == split.targets
        assert algorithm.evaluate(10, final).returns.tolist() == right.double().tolist()


def test_the_rate_follows_its_schedule_within_an_epoch() -> None:
    algorithm = make("algorithm.epochs=2", "optimizer.schedule=linear", "optimizer.warmup=0", "optimizer.lr=0.1")
    rates: list[float] = []
    step = algorithm.trainer.step.apply
    algorithm.trainer.step.apply = (
        lambda *divisor: rates.append(  # type: ignore[method-assign, func-returns-value, return-value]
            algorithm.trainer.optimizer.param_groups[0]["lr"]
        )
        or step(*divisor)
    )
    algorithm.iterate(0)
    algorithm.iterate(1)
    np.testing.assert_allclose(rates, [0.1 * (1 - done / 34) for done in range(34)], rtol=1e-9)


def test_plateau_listens_to_the_validation_accuracy() -> None:
    algorithm = make("optimizer.schedule=plateau", "optimizer.plateau_patience=1", "optimizer.warmup=0")
    for accuracy in (0.9, 0.8, 0.85):
        algorithm.on_evaluation(Evaluation(np.array([accuracy])))
    assert algorithm.learning_rate.value == pytest.approx(0.5 * 3e-3)


# -- the users' own ----------------------------------------------------------------------------------------------------


def arrays() -> list[tuple[np.ndarray, list[int]]]:
    draw = np.random.default_rng(0)
    labels = [[n % 3 for n in range(count)] for count in (90, 30, 30)]
    return [(draw.normal(size=(len(each), 4)) + 5 * np.eye(3, 4)[each], each) for each in labels]


class Named(TensorDataset):
    classes = ["one", "two", "three"]


def datasets() -> tuple[Dataset, ...]:
    return tuple(Named(torch.tensor(x).float(), torch.tensor(y)) for x, y in arrays())


def two_splits() -> list[tuple[np.ndarray, list[int]]]:
    return arrays()[:2]


def nameless() -> tuple[Dataset, ...]:
    return tuple(TensorDataset(torch.zeros(2, 4), torch.zeros(2)) for _ in range(3))


def uneven() -> list[tuple[np.ndarray, list[int]]]:
    return [(x, y[:-1]) for x, y in arrays()]


def words() -> list[tuple[list[str], list[int]]]:
    return [(["a"], [0])] * 3


OWN = ["algorithm.augment=false", "algorithm.epochs=5", "algorithm.batch_size=16"]


@pytest.mark.parametrize("function", ["arrays", "datasets"])
def test_splits_of_the_users_are_learned(function: str) -> None:
    algorithm = make(f"algorithm.dataset={__name__}:{function}", "optimizer.lr=0.02", *OWN)
    for iteration in range(5):
        algorithm.iterate(iteration)
    tested = algorithm.evaluate(0, final=True)
    assert len(tested.returns) == 30
    assert tested.mean >= 0.9


@pytest.mark.parametrize(
    "settings, words",
    [
        ([f"algorithm.dataset={__name__}:two_splits", *OWN], ["algorithm.dataset", "three splits"]),
        ([f"algorithm.dataset={__name__}:nameless", *OWN], ["algorithm.dataset", "classes"]),
        ([f"algorithm.dataset={__name__}:uneven", *OWN], ["training split", "90 inputs and 89 targets"]),
        ([f"algorithm.dataset={__name__}:words", *OWN], ["algorithm.dataset", "arrays"]),
        ([f"algorithm.dataset={__name__}:arrays"], ["algorithm.augment must be false"]),
        (
            [f"algorithm.dataset={__name__}:arrays", *OWN, "algorithm.batch_size=91"],
            ["algorithm.batch_size", "at most the 90", "got 91"],
        ),
    ],
    ids=lambda case: " ".join(case)[-40:],
)
def test_splits_that_do_not_do_are_refused(settings: list[str], words: list[str]) -> None:
    with pytest.raises(BadInput) as refused:
        make(*settings)
    assert all(word in str(refused.value) for word in words), refused.value


@pytest.mark.parametrize(
    "settings, words",
    [
        (["env.id=CartPole-v1"], ["env must be absent"]),
        (["run.steps=1000"], ["run.steps must be absent", "algorithm.epochs"]),
        (["algorithm.batch_size=1078"], ["algorithm.batch_size", "at most the 1077", "got 1078"]),
        (["optimizer.schedule=kl_adaptive", "optimizer.warmup=0"], ["optimizer.schedule", "kl_adaptive"]),
        (["algorithm.epochs=0"], ["algorithm.epochs must be >= 1, got 0"]),
        (["algorithm.batch_size=1", "--ranks", "2"], ["algorithm.batch_size", "at least the 2 ranks", "got 1"]),
        (["algorithm.dataset=os:nothing"], ["algorithm.dataset", "nothing"]),
        (["algorithm.dataset=digit"], ["algorithm.dataset must be 'digits' or module:function, got 'digit'"]),
        (["network.class=torch.nn:Identity"], ["network.class", "(1, 10)"]),
        (["network.class=torch.nn:Bilinear"], ["network.class", "Class(input_shape, classes, **network.kwargs)"]),
    ],
    ids=lambda case: " ".join(case)[-40:],
)
def test_bad_input_is_one_line_and_starts_nothing(
    settings: list[str],
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "supervised-digits", *settings]) == 2
    said = capsys.readouterr()
    assert len(said.err.splitlines()) == 1 and all(word in said.err for word in words), said.err
    assert not said.out and not list(tmp_path.iterdir())


def test_evaluate_says_that_there_is_no_policy(tmp_path: Path) -> None:
    settings = ["algorithm.epochs=1", "evaluation.count=1", "logging.tensorboard=false", "--output", "run"]
    assert harness("train", "supervised-digits", *settings, cwd=tmp_path).code == 0
    ran = harness("evaluate", "run", cwd=tmp_path)
    assert (ran.code, len(ran.err.splitlines())) == (2, 1)
    assert "supervised" in ran.err and "no policy" in ran.err
