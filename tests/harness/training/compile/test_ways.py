"""Gradients by their three ways: traced is eager to the bit, kept code is found by what it depends on, and what is
damaged, foreign or half written is never loaded."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from harness.algorithms.base import Context
from harness.algorithms.common.description import describe_loss
from harness.algorithms.ppo import PPO
from harness.config import load_run_config
from harness.distributed.arena import Arena
from harness.distributed.transports.base import Alone
from harness.envs import make_environments
from harness.reporting.phases import PhaseTimer
from harness.schema import PrecisionSettings
from harness.training.compile import ahead, traced
from harness.training.compile.store import CodeStore
from harness.training.compile.ways import TRACING_EARNS, Wanted, choose, key_of
from harness.training.precision import Precision
from tests.conftest import need, slow

ROWS = 300
NAMES = ("clip", "coefficient")


class Problem:
    """A small actor and critic, and a loss with all that PPO's has: minima, exponentials, a second output."""

    def __init__(self, kind: str = "fp32", width: int = 16, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.module = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 3))
        self.arena = Arena(self.module, tail=2)
        self.precision = Precision(PrecisionSettings(kind=kind), torch.device("cpu"))
        self.data = {
            "observations": torch.randn(ROWS, 4),
            "actions": torch.randint(0, 2, (ROWS, 1)),
            "returns": torch.randn(ROWS),
        }

    def loss(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        outputs = self.module(batch["observations"]).float()
        chosen = outputs[:, :2].log_softmax(-1).gather(-1, batch["actions"]).squeeze(-1)
        ratio = chosen.exp()
        policy = -torch.min(ratio * batch["returns"], ratio.clamp(max=1.0 - batch["clip"]) * batch["returns"]).mean()
        loss = policy + batch["coefficient"] * (outputs[:, 2] - batch["returns"]).square().mean()
        return loss, torch.stack([loss.detach(), policy.detach()])

    def wanted(self, *sizes: int, **more: object) -> Wanted:
        described = {"description": {"loss": "a test's"}, "steps": TRACING_EARNS, **more}
        parts = self.module, self.arena, self.loss, self.precision, self.data, NAMES, sizes
        return Wanted(*parts, **described)  # type: ignore[arg-type]

    def eager(self, rows: torch.Tensor, numbers: tuple[float, ...], weight: float) -> torch.Tensor:
        batch = {name: values[rows] for name, values in self.data.items()}
        batch |= {name: torch.tensor(number) for name, number in zip(NAMES, numbers)}
        self.arena.wire.zero_()
        with self.precision.autocast():
            loss, statistics = self.loss(batch)
        (loss * (weight * self.precision.scale)).backward()
        self.arena.own_gradients()
        self.arena.tail.copy_(statistics).mul_(weight)
        return self.arena.wire.clone()


@pytest.fixture
def store(tmp_path: Path) -> CodeStore:
    return CodeStore(tmp_path / "code")


@pytest.mark.parametrize("kind", ["fp32", "bf16", "fp16"])
def test_traced_is_eager_to_the_bit_for_every_size_number_and_weight(kind: str, store: CodeStore) -> None:
    problem = Problem(kind)
    for again in range(2):  # the second from the disk
        gradient, why = choose(problem.wanted(64, 17), "traced", Alone(), store)
        assert gradient is not None and gradient.way == "traced", why
        for size, numbers, weight in ((64, (0.2, 0.5), 0.37), (17, (0.1, 0.25), 1.0), (64, (0.3, 1.5), 0.6)):
            rows = torch.randperm(ROWS)[:size]
            expected = problem.eager(rows, numbers, weight)
            problem.arena.wire.fill_(7.0)
            gradient(rows, numbers, weight)
            assert torch.equal(problem.arena.wire, expected)
        with torch.no_grad():
            problem.arena.parameters.mul_(1.01)  # they are read anew at each call


def test_numbers_for_each_sample_go_where_they_belong(store: CodeStore) -> None:
    problem = Problem()
    problem.data["errors"] = torch.zeros(ROWS)
    plain = problem.loss

    def loss(batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        return *plain(batch), batch["returns"].abs() + 1.0

    problem.loss = loss  # type: ignore[method-assign, assignment]
    gradient, _ = choose(problem.wanted(8, per_sample="errors"), "traced", Alone(), store)
    assert gradient is not None
    rows = torch.tensor([3, 1, 200, 5, 9, 77, 8, 250])
    gradient(rows, (0.2, 0.5), 1.0)
    assert torch.equal(problem.data["errors"][rows], problem.data["returns"][rows].abs() + 1.0)
    assert problem.data["errors"].count_nonzero() == len(rows)


def test_what_cannot_be_traced_stays_eager_with_a_reason(store: CodeStore) -> None:
    problem = Problem()
    other = nn.Linear(4, 30)
    drawing = nn.Dropout(0.5)
    plain = problem.loss
    for loss, reason in (
        (lambda batch: plain({**batch, "observations": drawing(batch["observations"])}), "draws random numbers"),
        (lambda batch: plain({**batch, "returns": other(batch["observations"])[:, 0]}), "is no argument of it"),
        (lambda batch: plain(batch) if batch["returns"].sum() > 0 else (), "cannot be traced"),
    ):
        problem.loss = loss  # type: ignore[method-assign]
        gradient, why = choose(problem.wanted(8, description=None), "traced", Alone(), store)
        assert gradient is None and reason in why and "\n" not in why
    assert not store.entries()


def test_a_short_run_takes_a_trace_from_the_disk_and_makes_none(store: CodeStore) -> None:
    problem = Problem()
    short = problem.wanted(32, steps=100)
    assert choose(short, "auto", Alone(), store)[0] is None
    assert choose(problem.wanted(32), "auto", Alone(), store)[0] is not None
    gradient, _ = choose(short, "auto", Alone(), store)
    assert gradient is not None and gradient.way == "traced"


def test_the_key_holds_what_the_code_depends_on_and_nothing_else() -> None:
    one = key_of(Problem().wanted(32), 32)
    assert one == key_of(Problem(seed=5).wanted(32, steps=7), 32), "parameters and lengths of runs are no part of it"
    longer = Problem()
    longer.data = {name: torch.cat([values, values]) for name, values in longer.data.items()}
    assert one == key_of(longer.wanted(32), 32), "a rollout's length is none either"
    others = [
        key_of(Problem().wanted(33), 33),
        key_of(Problem("bf16").wanted(32), 32),
        key_of(Problem(width=17).wanted(32), 32),
        key_of(Problem().wanted(32, description={"loss": "another"}), 32),
    ]
    assert len({one, *others}) == 5


def test_the_description_holds_what_a_networks_shapes_do_not_tell(tmp_path: Path) -> None:
    """Spaces with as many numbers, switches. A coefficient, which is given with each minibatch, is no part of it."""

    def described(action_space: gym.Space, *settings: str) -> str:
        gym.register("Described-v0", lambda: Described(action_space))
        try:
            config = load_run_config(str(toml), settings)
            assert config.env is not None
            envs = make_environments(config.env, 0, 1)
            ppo = PPO(Context(config, Alone(), torch.device("cpu"), PhaseTimer(), envs, lambda *_: np.zeros(1)))
            return json.dumps(describe_loss(ppo, ppo.loss, ppo.data, ppo.NUMBERS), sort_keys=True)
        finally:
            del gym.registry["Described-v0"]

    toml = tmp_path / "described.toml"
    toml.write_text(
        'run = {steps = 64}\nenv = {id = "Described-v0", count = 2, backend = "sync"}\n'
        'algorithm = {name = "ppo", rollout_steps = 16, minibatch_size = 32}\ncompile = {mode = "off"}\n'
    )
    one = described(spaces.MultiDiscrete([2, 3]))
    assert one != described(spaces.MultiDiscrete([3, 2]))
    assert one != described(spaces.MultiDiscrete([2, 3]), "algorithm.normalize_advantages=false")
    assert one != described(spaces.MultiDiscrete([2, 3]), "algorithm.clip_range_value=0.2")
    assert one == described(spaces.MultiDiscrete([2, 3]), "algorithm.entropy_coefficient=0.1", "optimizer.lr=0.5")


class Described(gym.Env):
    observation_space = spaces.Box(-1.0, 1.0, (3,))

    def __init__(self, action_space: gym.Space) -> None:
        self.action_space = action_space

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        return np.zeros(3, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        return np.zeros(3, np.float32), 1.0, True, False, {}


@pytest.mark.parametrize("harm", ["truncated", "tampered", "its record is another's", "others can write to the folder"])
def test_what_is_damaged_or_foreign_is_never_loaded(harm: str, store: CodeStore, tmp_path: Path) -> None:
    problem = Problem()
    assert choose(problem.wanted(32), "traced", Alone(), store)[0] is not None
    key = key_of(problem.wanted(32), 32)
    path = store.get(key, traced.TRACE)
    assert path is not None
    content = path.read_bytes()
    if harm == "truncated":
        path.write_bytes(content[:-100])
    elif harm == "tampered":
        path.write_bytes(content[:500] + b"x" + content[501:])
    elif harm == "its record is another's":
        store.put("other", traced.TRACE, content)
        record = path.with_name(path.name + ".json")
        record.write_text((path.parent / f"other.{traced.TRACE}.json").read_text())
    else:
        path.parent.chmod(0o777)
        refusing = CodeStore(path.parent)
        assert refusing.get(key, traced.TRACE) is None and "can be written to by others" in refusing.refused
        return
    assert store.get(key, traced.TRACE) is None and not path.exists()
    assert choose(problem.wanted(32), "traced", Alone(), store)[0] is not None, "it is made again"


def test_the_store_keeps_what_was_used_last_within_its_limit(tmp_path: Path) -> None:
    store = CodeStore(tmp_path / "code", limit=2500)
    for number in range(3):
        store.put(f"k{number}", "trace", bytes(1000))
        os.utime(tmp_path / "code" / f"k{number}.trace", (number, number))
        if number == 1:
            assert store.get("k0", "trace") is not None  # used now
    assert store.get("k0", "trace") is not None and store.get("k1", "trace") is None


def test_two_that_make_the_same_at_once_are_one(store: CodeStore) -> None:
    with store.alone("k", "code") as first, store.alone("k", "code") as second, store.alone("other", "code") as third:
        assert (first, second, third) == (True, False, True)
    with store.alone("k", "code") as again:
        assert again


class OneOfTwo(Alone):
    """A rank beside another, which says what `other` makes of this one's words."""

    size = 2

    def __init__(self, rank: int, other: Callable[[Any], Any]) -> None:
        super().__init__()
        self.rank, self.other = rank, other

    def gather_objects(self, value: Any) -> list[Any]:
        both = [value, self.other(value)]
        return both if self.rank == 0 else both[::-1]


@pytest.mark.parametrize(("rank", "started"), [(0, 1), (1, 0)])
def test_one_rank_of_a_host_has_the_minibatches_of_all_compiled(
    rank: int, started: int, store: CodeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(ahead.subprocess, "Popen", lambda command, **_: commands.append(command))
    monkeypatch.setattr(ahead.shutil, "which", lambda name: name)
    wanted = Problem().wanted(64, 17, may_compile_beside=True)

    def other(value: Any) -> Any:
        return ("", value[1], [*value[2][:1], "other"]) if isinstance(value, tuple) else value

    gradient, why = choose(wanted, "auto", OneOfTwo(rank, other), store)

    assert gradient is not None and gradient.way == "traced", why
    keys = [key_of(wanted, 64), key_of(wanted, 17), "other"]
    assert [command[-3:] for command in commands] == [keys] * started


def test_the_first_rank_of_each_host_that_lacks_code_has_it_made() -> None:
    lacking = [("a", []), ("a", ["k1"]), ("a", ["k2", "k1"]), ("b", ["k3"]), ("b", [])]
    assert [ahead.share(lacking, rank) for rank in range(5)] == [[], ["k1", "k2"], [], ["k3"], []]


@pytest.mark.parametrize("launched", [slow("kept"), slow("beside")])
def test_code_that_was_compiled_ahead_is_found_by_a_later_run(launched: str, store: CodeStore) -> None:
    need(shutil.which("g++"), "a C++ compiler")
    problem = Problem()
    wanted = problem.wanted(64)
    if launched == "kept":
        first, why = choose(wanted, "kept", Alone(), store)
        assert first is not None and (first.way, why) == ("kept", "compiled")
    else:
        assert choose(wanted, "auto", Alone(), store)[0] is not None
        assert ahead.main(str(store.folder), key_of(wanted, 64)) == 0  # what runs beside
    gradient, why = choose(problem.wanted(64, steps=1), "auto", Alone(), store)
    assert gradient is not None and (gradient.way, why) == ("kept", "found on disk")
    rows = torch.randperm(ROWS)[:64]
    expected = problem.eager(rows, (0.2, 0.5), 0.37)
    gradient(rows, (0.2, 0.5), 0.37)
    assert (problem.arena.wire - expected).norm() <= 1e-6 * expected.norm()
    longer = Problem()
    longer.data = {name: torch.cat([values, values]) for name, values in longer.data.items()}
    gradient, _ = choose(longer.wanted(64, steps=1), "auto", Alone(), store)
    assert gradient is not None and gradient.way == "kept"
    gradient(rows, (0.2, 0.5), 0.37)
    assert (longer.arena.wire - longer.eager(rows, (0.2, 0.5), 0.37)).norm() <= 1e-6 * expected.norm()


def test_to_load_a_trace_imports_no_compiler(store: CodeStore) -> None:
    problem = Problem()
    choose(problem.wanted(32), "traced", Alone(), store)
    (path,) = [path for path in store.entries() if path.suffix == ".trace"]
    code = (
        "import sys\nfrom pathlib import Path\nfrom harness.training.compile import traced, ways, ahead\n"
        f"traced.load_script(Path({str(path)!r}))\n"
        "print([name for name in ('torch._dynamo', 'torch._inductor', 'sympy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "[]", done.stderr
