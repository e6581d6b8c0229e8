"""What `env.backend = "auto"` comes to be."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from harness.envs import EnvSettings, choose_backend
from harness.envs.backends.selection import check_backend
from harness.errors import BadInput
from tests.conftest import need
from tests.multirank.launch import run_ranks

BUSY = "tests.environments:Busy-v0"


def chosen(env_id: str, count: int = 8, cores: int = 4, device: str = "cpu", **settings: Any) -> tuple[str, str]:
    found = choose_backend(EnvSettings(id=env_id, count=count, **settings), count, cores, device)
    return found.backend, found.double_buffer


def test_slow_environments_step_in_workers_where_a_rank_has_several_cores() -> None:
    slow = {"seconds": 0.001}
    assert chosen(BUSY, kwargs=slow) == ("workers", "on")
    assert chosen(BUSY, kwargs=slow, cores=1) == ("sync", "off")
    assert chosen(BUSY, kwargs=slow, count=1) == ("sync", "off")
    assert chosen(BUSY, kwargs=slow, cores=1, workers=4) == ("workers", "on"), "env.workers is what counts"


def test_they_step_by_halves_where_that_gains_time() -> None:
    slow = {"seconds": 0.001}
    assert chosen(BUSY, kwargs=slow, count=7) == ("workers", "off"), "not every worker has a part of both halves"
    assert chosen(BUSY, kwargs=slow, cores=2) == ("workers", "off"), "acting twice takes the workers' cores"
    assert chosen(BUSY, kwargs=slow, cores=2, device="cuda") == ("workers", "on")
    assert chosen(BUSY, kwargs=slow, device="cuda", double_buffer="off") == ("workers", "off")


def test_quick_environments_step_one_after_the_other() -> None:
    assert chosen("tests.environments:Line-v0") == ("sync", "off")


def test_the_project_knows_a_vector_of_cartpole_unless_it_is_wrapped() -> None:
    assert chosen("CartPole-v1") == ("native", "off")
    assert chosen("CartPole-v1", kwargs={"max_episode_steps": 20}) == ("native", "off")
    assert chosen("CartPole-v1", wrappers=["gymnasium.wrappers:FlattenObservation"])[0] != "native"


def test_envpool_is_taken_where_it_has_the_very_environment() -> None:
    need(find_spec("envpool"), "the extra envpool")
    assert chosen("Acrobot-v1") == chosen("Acrobot-v1", count=1, cores=1) == ("envpool", "off")
    assert chosen("Acrobot-v1", kwargs={"render_mode": "rgb_array"})[0] != "envpool"
    assert chosen("Acrobot-v1", wrappers=["gymnasium.wrappers:FlattenObservation"])[0] != "envpool"
    assert chosen("FrozenLake-v1")[0] != "envpool"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"id": "FrozenLake-v1"}, "EnvPool has no FrozenLake-v1 with gymnasium's observations"),
        ({"id": "Acrobot-v1", "kwargs": {"render_mode": "human"}}, "max_episode_steps alone of env.kwargs"),
        ({"id": "Acrobot-v1", "wrappers": ["gymnasium.wrappers:FlattenObservation"]}, "env.wrappers cannot wrap"),
    ],
)
def test_envpool_is_refused_where_it_would_be_another_environment(settings: dict[str, object], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        check_backend(EnvSettings.model_validate({**settings, "backend": "envpool"}))


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "envpool", None)
    with pytest.raises(BadInput, match=r"env.backend = 'envpool' needs the extra 'envpool'.*pip install"):
        check_backend(EnvSettings(id="Acrobot-v1", backend="envpool"))
    assert chosen("Acrobot-v1", cores=1) == ("sync", "off")


RANK_0_DECIDES = """
from harness.envs import EnvSettings
from harness.envs.backends.selection import agree_on_backend
from tests.multirank.launch import give, join
world, communicator = join()
slow_on_rank_1 = {"seconds": 0.002 * communicator.rank}
settings = EnvSettings(id="tests.environments:Busy-v0", count=8, kwargs=slow_on_rank_1, workers=2)
give(agree_on_backend(settings, communicator, 2).backend)
world.stop()
"""


def test_all_ranks_take_what_rank_0_chooses(tmp_path: Path) -> None:
    assert run_ranks(2, "mpirun", RANK_0_DECIDES, tmp_path, sync_path="mpi").given == ("sync", "sync")
