"""Each optimizer against its formula in numpy, each schedule against a closed form or torch's own scheduler."""

from __future__ import annotations

import copy
import json
import math

import numpy as np
import pytest
import torch

from harness.errors import BadInput
from harness.schema import OptimizerSettings
from harness.settings import validate
from harness.training.optimizers import load_in_place, make_flat_optimizer, make_optimizer
from harness.training.schedules import LearningRate, make_schedule, scaled_lr

GRADIENTS = np.random.default_rng(0).normal(size=(5, 7))


def parameters_after_steps(settings: OptimizerSettings) -> np.ndarray:
    """What `make_optimizer` makes of one flat parameter of ones under the fixed gradients."""
    flat = torch.nn.Parameter(torch.ones(7, dtype=torch.float64))
    optimizer = make_optimizer(settings, [flat])
    for gradient in GRADIENTS:
        flat.grad = torch.tensor(gradient)
        optimizer.step()
    return flat.detach().numpy()


def test_sgd_with_momentum_and_decay_follows_its_formula():
    x, velocity = np.ones(7), np.zeros(7)
    for gradient in GRADIENTS:
        velocity = 0.9 * velocity + (gradient + 0.1 * x)
        x = x - 0.05 * velocity
    found = parameters_after_steps(OptimizerSettings(name="sgd", lr=0.05, momentum=0.9, weight_decay=0.1))
    np.testing.assert_allclose(found, x, rtol=1e-12)


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_adam_and_adamw_follow_their_formulas_and_differ_in_where_the_decay_goes(name):
    x, mean, square = np.ones(7), np.zeros(7), np.zeros(7)
    for step, gradient in enumerate(GRADIENTS, start=1):
        if name == "adamw":
            x = x * (1 - 0.02 * 0.3)
        else:
            gradient = gradient + 0.3 * x
        mean = 0.8 * mean + 0.2 * gradient
        square = 0.95 * square + 0.05 * gradient**2
        x = x - 0.02 * (mean / (1 - 0.8**step)) / (np.sqrt(square / (1 - 0.95**step)) + 1e-3)
    settings = OptimizerSettings(name=name, lr=0.02, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.3)
    np.testing.assert_allclose(parameters_after_steps(settings), x, rtol=1e-10)


def test_rmsprop_with_momentum_follows_its_formula():
    x, square, buffer = np.ones(7), np.zeros(7), np.zeros(7)
    for gradient in GRADIENTS:
        gradient = gradient + 0.1 * x
        square = 0.7 * square + 0.3 * gradient**2
        buffer = 0.5 * buffer + gradient / (np.sqrt(square) + 1e-2)
        x = x - 0.01 * buffer
    settings = OptimizerSettings(name="rmsprop", lr=0.01, alpha=0.7, momentum=0.5, eps=1e-2, weight_decay=0.1)
    np.testing.assert_allclose(parameters_after_steps(settings), x, rtol=1e-12)


def test_adagrad_follows_its_formula():
    x, total = np.ones(7), np.zeros(7)
    for gradient in GRADIENTS:
        gradient = gradient + 0.1 * x
        total = total + gradient**2
        x = x - 0.05 * gradient / (np.sqrt(total) + 1e-4)
    settings = OptimizerSettings(name="adagrad", lr=0.05, eps=1e-4, weight_decay=0.1)
    np.testing.assert_allclose(parameters_after_steps(settings), x, rtol=1e-10)


def test_the_step_does_not_depend_on_the_number_of_threads_so_ranks_with_unlike_cores_stay_bit_equal():
    def after_steps(threads: int) -> torch.Tensor:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            flat = torch.nn.Parameter(torch.linspace(-1, 1, 100_003))
            optimizer = make_optimizer(OptimizerSettings(name="adam"), [flat])
            for step in range(3):
                flat.grad = torch.sin(flat.detach() * (step + 1))
                optimizer.step()
            return flat.detach()
        finally:
            torch.set_num_threads(before)

    assert torch.equal(after_steps(1), after_steps(2))


def rates(settings: OptimizerSettings, points: np.ndarray) -> list[float]:
    schedule = make_schedule(settings, batch_size=1)
    return [schedule.lr_at(float(point)) for point in points]


def test_linear_equals_torchs_linear_scheduler():
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.3)
    theirs = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=1.0, end_factor=0.2, total_iters=50)
    expected = []
    for _ in range(51):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    found = rates(OptimizerSettings(lr=0.3, schedule="linear", final_lr_fraction=0.2), np.linspace(0, 1, 51))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_cosine_equals_torchs_cosine_scheduler():
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.3)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=50, eta_min=0.03)
    expected = []
    for _ in range(51):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    found = rates(OptimizerSettings(lr=0.3, schedule="cosine", final_lr_fraction=0.1), np.linspace(0, 1, 51))
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_warm_up_rises_in_a_straight_line_and_the_schedule_starts_where_it_ends():
    points = np.linspace(0, 1, 101)
    linear = OptimizerSettings(lr=0.2, schedule="linear", warmup=0.25, final_lr_fraction=0.1)
    np.testing.assert_allclose(rates(linear, points), np.interp(points, [0, 0.25, 1], [0, 0.2, 0.02]), atol=1e-15)
    constant = OptimizerSettings(lr=0.2, warmup=0.25)
    np.testing.assert_allclose(rates(constant, points), np.interp(points, [0, 0.25], [0, 0.2]), atol=1e-15)
    cosine = make_schedule(OptimizerSettings(lr=0.2, schedule="cosine", warmup=0.25), batch_size=1)
    assert cosine.lr_at(0.25) == pytest.approx(0.2)
    assert cosine.lr_at(0.625) == pytest.approx(0.1)  # half of what is left of the run: half of the height
    assert cosine.lr_at(1.0) == pytest.approx(0.0, abs=1e-15)


@pytest.mark.parametrize("mode", ["max", "min"])
def test_plateau_equals_torchs_own_on_a_noisy_metric(mode):
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.4)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, mode=mode, factor=0.3, patience=2, threshold=0.0, min_lr=0.4 * 0.01, eps=0.0
    )
    watched = {"plateau_mode": mode, "plateau_factor": 0.3, "plateau_patience": 2, "final_lr_fraction": 0.01}
    ours = make_schedule(OptimizerSettings(lr=0.4, schedule="plateau", **watched), batch_size=1)
    lowered = set()
    for value in np.random.default_rng(1).normal(size=60):
        theirs.step(float(value))
        ours.on_metric(float(value))
        assert ours.lr_at(0.5) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
        lowered.add(round(ours.lr_at(0.5), 12))
    assert len(lowered) >= 4 and min(lowered) == pytest.approx(0.004)


def test_plateau_takes_a_value_that_is_not_finite_for_no_improvement():
    schedule = make_schedule(
        OptimizerSettings(lr=1.0, schedule="plateau", plateau_patience=0, plateau_factor=0.5), batch_size=1
    )
    schedule.on_metric(1.0)
    schedule.on_metric(math.inf)
    schedule.on_metric(math.nan)
    assert schedule.lr_at(0.0) == 0.25


def test_kl_adaptive_moves_only_outside_half_to_twice_the_target_and_within_its_bounds():
    settings = OptimizerSettings(lr=1e-3, schedule="kl_adaptive", target_kl=0.01, min_lr=5e-4, max_lr=2e-3)
    schedule = make_schedule(settings, batch_size=1)
    for kl, expected in [
        (0.0201, 1e-3 / 1.5),
        (0.0199, 1e-3 / 1.5),
        (0.0051, 1e-3 / 1.5),
        (0.0049, 1e-3),
        (0.0, 1e-3),
        (math.nan, 1e-3),
        (0.001, 1.5e-3),
        (0.001, 2e-3),
        (0.001, 2e-3),
        (1.0, 2e-3 / 1.5),
        (1.0, 2e-3 / 1.5**2),
        (1.0, 2e-3 / 1.5**3),
        (math.inf, 5e-4),
        (1.0, 5e-4),
    ]:
        schedule.on_metric(kl)
        assert schedule.lr_at(0.3) == pytest.approx(expected, rel=1e-12), kl


def test_the_batch_scales_the_rate_by_the_stated_rule():
    assert scaled_lr(OptimizerSettings(lr=0.1), 4096) == 0.1
    assert scaled_lr(OptimizerSettings(lr=0.1, scale_lr="linear", reference_batch=256), 1024) == pytest.approx(0.4)
    assert scaled_lr(OptimizerSettings(lr=0.1, scale_lr="sqrt", reference_batch=256), 1024) == pytest.approx(0.2)
    assert scaled_lr(OptimizerSettings(lr=0.1, scale_lr="sqrt", reference_batch=256), 64) == pytest.approx(0.05)


def test_learning_rate_sets_the_optimizers_rate_as_the_run_goes_on():
    settings = OptimizerSettings(lr=0.1, schedule="linear", scale_lr="linear", reference_batch=100)
    optimizer = make_optimizer(settings, [torch.nn.Parameter(torch.zeros(3))])
    rate = LearningRate(settings, optimizer, batch_size=200)
    assert rate.value == optimizer.param_groups[0]["lr"] == pytest.approx(0.2)
    rate.on_progress(0.25)
    assert rate.value == optimizer.param_groups[0]["lr"] == pytest.approx(0.15)
    rate.on_progress(1.01)  # the last rollout may overshoot the budget
    assert rate.value == optimizer.param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-15)


def test_learning_rate_hears_only_the_metric_of_its_schedule():
    settings = OptimizerSettings(lr=1e-3, schedule="kl_adaptive")
    optimizer = make_optimizer(settings, [torch.nn.Parameter(torch.zeros(3))])
    rate = LearningRate(settings, optimizer, batch_size=1)
    rate.on_metric("eval_return_mean", 500.0)
    assert rate.value == 1e-3
    rate.on_metric("kl", 1.0)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-3 / 1.5)


def test_a_rate_held_as_a_tensor_is_changed_in_place():
    flat = torch.nn.Parameter(torch.zeros(3))
    held = torch.tensor(1.0)
    rate = LearningRate(OptimizerSettings(lr=0.5), torch.optim.Adam([flat], lr=held, fused=True), batch_size=1)
    assert held.item() == 0.5 == rate.value


@pytest.mark.parametrize("schedule,metric", [("plateau", "eval_return_mean"), ("kl_adaptive", "kl"), ("cosine", "")])
def test_a_resumed_rate_goes_on_as_it_would_have(schedule, metric):
    settings = OptimizerSettings(lr=1e-3, schedule=schedule, plateau_patience=1)

    def fresh() -> LearningRate:
        return LearningRate(settings, make_optimizer(settings, [torch.nn.Parameter(torch.zeros(3))]), batch_size=1)

    def advance(rate: LearningRate, steps: range) -> list[float]:
        seen = []
        for step in steps:
            rate.on_progress(step / 20)
            rate.on_metric(metric, 0.5 + math.sin(step))
            seen.append(rate.value)
        return seen

    whole = advance(fresh(), range(20))
    first = fresh()
    advance(first, range(9))
    resumed = fresh()
    resumed.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert resumed.value == whole[8] == resumed.optimizer.param_groups[0]["lr"]
    assert advance(resumed, range(9, 20)) == whole[9:]
    assert len(set(whole)) > 2


@pytest.mark.parametrize(
    "table,line",
    [
        ({"lr": 0}, "optimizer.lr must be > 0, got 0"),
        ({"name": "lion"}, "optimizer.name"),
        ({"betas": [0.9, 1.0]}, "optimizer: betas must each be in [0, 1), got [0.9, 1.0]"),
        ({"scale_lr": "linear"}, 'optimizer: scale_lr = "linear" needs reference_batch'),
        ({"schedule": "kl_adaptive", "warmup": 0.1}, "optimizer: warmup must be 0 with kl_adaptive"),
        ({"schedule": "kl_adaptive", "lr": 0.5}, "optimizer: lr must be in min_lr … max_lr with kl_adaptive, got 0.5"),
    ],
)
def test_settings_that_cannot_be_used_are_refused_in_one_line(table, line):
    with pytest.raises(BadInput) as refused:
        validate(OptimizerSettings, table, prefix="optimizer")
    assert line in str(refused.value) and "\n" not in str(refused.value)


def test_every_setting_is_documented():
    assert all(field.description for field in OptimizerSettings.model_fields.values())


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "rmsprop", "adagrad"])
def test_the_step_on_a_flat_vector_is_torchs(name: str) -> None:
    """Also after its state was loaded, and with a rate that changes."""
    draw = torch.Generator().manual_seed(0)
    settings = OptimizerSettings(name=name, lr=0.01, weight_decay=0.1)
    bare, whole = (torch.nn.Parameter(torch.linspace(-1, 1, 40)) for _ in range(2))
    of_bare, of_whole = make_flat_optimizer(settings, bare), make_optimizer(settings, [whole])
    for number in range(6):
        bare.grad = torch.randn(40, generator=draw)
        whole.grad = bare.grad.clone()
        for optimizer in (of_bare, of_whole):
            optimizer.param_groups[0]["lr"] = 0.01 / (number + 1)
        of_bare.step()
        of_whole.step()
        if number == 3:
            of_bare.load_state_dict(copy.deepcopy(of_bare.state_dict()))
    assert torch.equal(bare, whole)
    assert str(of_bare.state_dict()) == str(of_whole.state_dict())


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "rmsprop", "adagrad"])
def test_a_state_is_loaded_into_the_tensors_that_are_there(name: str) -> None:
    """A CUDA graph goes on to use them. How the other one stepped, and its rate, are not taken over."""
    draw = torch.Generator().manual_seed(0)
    settings = OptimizerSettings(name=name, lr=0.01, momentum=0.9 if name in ("sgd", "rmsprop") else 0.0)
    one, other = (torch.nn.Parameter(torch.linspace(-1, 1, 40)) for _ in range(2))
    of_one, of_other = make_optimizer(settings, [one], capturable=True), make_optimizer(settings, [other])
    rate = LearningRate(settings, of_one, batch_size=1)
    for _ in range(3):
        one.grad, other.grad = torch.randn(40, generator=draw), torch.randn(40, generator=draw)
        of_one.step(), of_other.step()
    held, lr = dict(of_one.state[one]), of_one.param_groups[0]["lr"]
    load_in_place(of_one, copy.deepcopy(of_other.state_dict()))
    assert of_one.state[one].keys() == of_other.state[other].keys()
    for key, tensor in of_one.state[one].items():
        assert tensor is held[key] and torch.equal(tensor, of_other.state[other][key])
    assert of_one.param_groups[0]["lr"] is lr
    rate.on_progress(0.5)
    one.data.copy_(other.data)
    one.grad = torch.randn(40, generator=draw)
    other.grad = one.grad.clone()
    of_one.step(), of_other.step()
    torch.testing.assert_close(one, other)
    load_in_place(of_one, make_optimizer(settings, [other]).state_dict())  # of one that has not stepped yet
    assert all(tensor is held[key] and not tensor.any() for key, tensor in of_one.state[one].items())


def test_a_rate_on_the_device_stays_one_tensor() -> None:
    settings = OptimizerSettings(name="adam", lr=0.01, schedule="linear")
    optimizer = make_optimizer(settings, [torch.nn.Parameter(torch.zeros(3))], capturable=True)
    tensor = optimizer.param_groups[0]["lr"]
    LearningRate(settings, optimizer, batch_size=1).on_progress(0.25)
    assert optimizer.param_groups[0]["lr"] is tensor and tensor.item() == pytest.approx(0.0075)
