"""`harness export`: a file that acts as the policy does, or no file and one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from harness import evaluate, export, load_policy
from harness.config import preset_names
from harness.errors import BadInput
from harness.policy.card import beside
from harness.policy.exporters import WAYS
from harness.policy.onnx_policy import OnnxPolicy
from harness.policy.parity import visit
from harness.policy.policy import load_run
from tests.command import ROOT, harness
from tests.conftest import slow
from tests.harness.policy.runs import short_run

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

SMALL = ("ppo-cartpole", "a2c-cartpole", "dqn-cartpole", "ppo-pendulum", "sac-pendulum")
"""A head of each kind, gSDE, and an actor of continuous actions."""
SIMULATORS = {"lunarlander": "Box2D", "halfcheetah": "mujoco", "pong": "ale_py"}
POLICIES = [name for name in preset_names() if not name.startswith("supervised")]


@pytest.fixture(scope="module")
def cartpole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return short_run(tmp_path_factory.mktemp("export") / "run", "ppo-cartpole")


@pytest.mark.parametrize("preset", [name if name in SMALL else slow(name) for name in POLICIES])
def test_the_file_acts_as_the_policy_does_drawn_and_not(preset: str, tmp_path: Path) -> None:
    for part, module in SIMULATORS.items():
        if part in preset:
            pytest.importorskip(module)
    run = short_run(tmp_path / "run", preset)

    exported = export(run, states=500)

    policy, file = load_run(run), OnnxPolicy(exported.path)
    states = visit(policy, 200 if preset in SMALL else 1_000)
    for noise in (None, states.noise):
        expected, found = policy.act(states.observations, noise), file.act(states.observations, noise)
        assert found.dtype == expected.dtype
        if found.dtype.kind == "f":
            assert np.allclose(found, expected, rtol=1e-5, atol=1e-5)
        else:
            assert (found != expected).mean() <= 0.005  # of values that are equal but for a rounding


@pytest.mark.parametrize("preset", POLICIES)
@pytest.mark.slow
def test_ten_thousand_states_of_every_preset(preset: str, tmp_path: Path) -> None:
    for part, module in SIMULATORS.items():
        if part in preset:
            pytest.importorskip(module)

    exported = export(short_run(tmp_path / "run", preset), states=10_000)

    checked = exported.card.checked
    assert checked["states"] == 10_000 and checked["largest_difference"] <= 1e-5 and checked["ties"] <= 20


@pytest.mark.parametrize(
    "settings",
    [
        "Discrete",
        "MultiDiscrete",
        "MultiBinary",
        "whole",
        "float64",
        "unbounded",
        "float64 algorithm.squash=true",
        "whole algorithm.squash=true",
        "Discrete env.kwargs.observed=float64 env.normalize_observations=true",
        "Discrete env.kwargs.observed=uint8",
        "Discrete network.class=tests.harness.policy.runs:Gated",
    ],
)
def test_actions_come_as_any_space_takes_them(settings: str, tmp_path: Path) -> None:
    actions, *more = settings.split()
    where = ["env.id=tests.harness.policy.runs:Spaces-v0", f"env.kwargs.actions={actions}"]
    run = short_run(tmp_path / "run", "ppo-cartpole", *where, *more)

    file = OnnxPolicy(export(run, states=200).path)

    policy = load_run(run)
    states = visit(policy, 50)
    for deterministic in (True, False):
        assert all(policy.environments.action_space.contains(each) for each in file(states.observations, deterministic))
    assert file(states.observations[0]).shape == policy(states.observations[0]).shape


def test_the_torch_format_acts_without_this_project(cartpole: Path, tmp_path: Path) -> None:
    path = export(cartpole, format="torch", output=tmp_path / "policy.pt2", states=100).path

    program = torch.export.load(path).module()

    policy = load_run(cartpole)
    states = visit(policy, 100)
    assert states.noise is not None
    seen, noise = torch.from_numpy(states.observations), torch.from_numpy(states.noise)
    assert (program(seen, noise).numpy() == policy.act(states.observations, states.noise)).all()
    assert (program(seen, torch.zeros_like(noise)).numpy() == policy.act(states.observations, None)).all()


def test_the_file_is_evaluated_as_the_run_is_without_torch(cartpole: Path, tmp_path: Path) -> None:
    path = export(cartpole, output=tmp_path / "policy.onnx", states=100).path
    blocker = tmp_path / "torch"
    blocker.mkdir()
    (blocker / "__init__.py").write_text("raise ImportError('torch is not here')")
    search_path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))

    ran = harness(
        "evaluate", str(path), "--env", "CartPole-v1", "--episodes", "5", cwd=tmp_path, env={"PYTHONPATH": search_path}
    )

    expected = evaluate(cartpole, episodes=5)
    assert ran.code == 0, ran.err
    assert ran.out.startswith(f"{expected.mean:.4g} ± {expected.std:.3g} over 5 episodes of {path}")


def test_the_page_runs_it_without_this_project(cartpole: Path, tmp_path: Path) -> None:
    export(cartpole, output=tmp_path / "policy.onnx", states=100)
    script = (ROOT / "docs" / "exporting.md").read_text().split("```python\n")[1].split("```")[0]
    for module in ("torch", "harness"):
        (tmp_path / f"{module}.py").write_text("raise ImportError('it is not here')")
    (tmp_path / "script.py").write_text(script)

    ran = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=100)

    mean = float(ran.stdout.split(" ± ")[0])
    expected = evaluate(cartpole, episodes=100)
    assert abs(mean - expected.mean) <= 4 * expected.std * (1 / 20 + 1 / 100) ** 0.5 + 1e-9


def test_a_file_and_what_lies_beside_it_say_where_it_comes_from(cartpole: Path) -> None:
    exported = export(cartpole, states=100)

    card = json.loads(beside(exported.path).read_text())
    file = load_policy(exported.path)
    assert isinstance(file, OnnxPolicy)
    assert {**file.card.as_json(), "checked": card["checked"]} == card
    assert (card["algorithm"], card["preset"], card["which"]) == ("ppo", "ppo-cartpole", "latest")
    assert card["returns"]["episodes"] == 3 and card["versions"]["torch"]
    low, high = card["returns"]["interval"]
    assert low <= card["returns"]["mean"] <= high


def test_zeros_and_no_noise_are_the_deterministic_policy(cartpole: Path) -> None:
    file = OnnxPolicy(export(cartpole, states=100).path)
    states = visit(load_run(cartpole), 100).observations

    assert (file.act(states) == file.act(states, np.zeros((100, 1), np.float32))).all()


def test_a_file_that_acts_differently_gets_no_name(
    cartpole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(WAYS, "onnx", WAYS["onnx"][:1])
    wrong = lambda self, observations, drawn=None: np.ones(len(observations), np.int64)  # noqa: E731
    monkeypatch.setattr(OnnxPolicy, "act", wrong)
    output = tmp_path / "policy.onnx"

    with pytest.raises(BadInput, match="acts differently from the policy"):
        export(cartpole, output=output, states=200)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_network_that_no_exporter_reads_is_refused_in_a_line(tmp_path: Path) -> None:
    where = ["env.id=tests.harness.policy.runs:Spaces-v0", "network.class=tests.harness.policy.runs:Branching"]
    run = short_run(tmp_path / "run", "ppo-cartpole", *where)

    with pytest.raises(BadInput, match="cannot be exported as onnx") as refused:
        export(run, states=200)

    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("how", ["mean", "vote"])
def test_an_ensemble_decides_by_all_members(how: str, tmp_path: Path) -> None:
    runs = [short_run(tmp_path / f"run-{seed}", "ppo-cartpole", f"seed={seed}") for seed in range(3)]

    output = tmp_path / "all.onnx"
    file = OnnxPolicy(export(runs, ensemble=how, output=output, states=300).path)  # type: ignore[arg-type]

    members = [load_run(run) for run in runs]
    seen = visit(members[0], 200).observations
    with torch.no_grad():
        scores = [member.algorithm.module(torch.from_numpy(seen))[0].numpy() for member in members]
    right = [np.exp(each[:, 1]) / np.exp(each).sum(1) for each in scores]
    if how == "vote":
        right = [(each > 0.5).astype(float) for each in right]
    sure = np.abs(np.mean(right, 0) - 0.5) > 1e-5
    assert (file.act(seen) == (np.mean(right, 0) > 0.5))[sure].all()
    assert file.card.noise is None and len(file.card.members) == 3


def test_an_ensemble_of_numbers_is_their_mean(tmp_path: Path) -> None:
    runs = [short_run(tmp_path / f"run-{seed}", "ppo-pendulum", f"seed={seed}") for seed in range(2)]

    file = OnnxPolicy(export(runs, ensemble="mean", output=tmp_path / "all.onnx", states=200).path)

    members = [load_run(run) for run in runs]
    seen = visit(members[0], 100).observations
    assert np.allclose(file.act(seen), np.mean([member.act(seen, None) for member in members], 0), atol=1e-5)
    with pytest.raises(BadInput, match="--ensemble vote is for discrete actions"):
        export(runs, ensemble="vote", output=tmp_path / "all.onnx")


def test_bad_input_is_a_line_and_2(cartpole: Path, tmp_path: Path) -> None:
    path = export(cartpole, output=tmp_path / "policy.onnx", states=50).path
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    for command, line in (
        (["export", str(tmp_path)], "is no run's directory"),
        (["export", str(cartpole), "--format", "tflite"], "--format"),
        (["evaluate", str(path)], "--env ID is missing"),
        (["evaluate", str(path), "--env", "Acrobot-v1"], "is a policy for observations shape [4] dtype float32"),
        (["evaluate", str(tmp_path / "broken.onnx"), "--env", "CartPole-v1"], "is no model that ONNX Runtime reads"),
    ):
        ran = harness(*command, cwd=tmp_path)
        assert ran.code == 2 and line in ran.err and len(ran.err.splitlines()) == 1, (command, ran)


def test_a_policy_for_other_actions_is_refused(cartpole: Path) -> None:
    path = export(cartpole, states=50).path
    where = "tests.harness.policy.runs:Spaces-v0"

    with pytest.raises(BadInput, match="is a policy for observations"):
        evaluate(path, env=where, episodes=1)
