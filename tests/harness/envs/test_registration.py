"""What a script has registered, handed to a process that does not run that script."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType

import gymnasium as gym
import pytest

from harness.envs import EnvSettings, make_environment
from harness.envs.registration import register_from_parent, registration
from harness.errors import BadInput
from tests.harness.envs.oddities import Odd


@pytest.fixture(autouse=True)
def registry() -> Iterator[None]:
    with suppress(ImportError):
        import ale_py  # noqa: F401 (registers its games when it is first loaded, and never again)
    before = dict(gym.registry)
    yield
    gym.registry.clear()
    gym.registry.update(before)


def test_another_process_makes_it(tmp_path: Path) -> None:
    gym.register("Mine-v0", Odd, max_episode_steps=3, kwargs={"what": "far"})
    written = registration(EnvSettings(id="Mine-v0"))
    assert written is not None
    del gym.registry["Mine-v0"]
    with pytest.raises(BadInput, match="Mine-v0' does not exist"):
        make_environment(EnvSettings(id="Mine-v0"))
    (tmp_path / "registration.pkl").write_bytes(written)
    register_from_parent("Mine-v0", tmp_path / "registration.pkl")
    env = make_environment(EnvSettings(id="Mine-v0"))
    assert isinstance(env.unwrapped, Odd) and env.unwrapped.what == "far"
    assert env.spec is not None and env.spec.max_episode_steps == 3


def test_a_string_that_names_the_script_is_its_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = ModuleType("__main__")
    script.Here = Odd  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "__main__", script)
    gym.register("Here-v0", "__main__:Here")
    written = registration(EnvSettings(id="Here-v0"))
    assert written is not None
    (tmp_path / "it").write_bytes(written)
    del gym.registry["Here-v0"]
    register_from_parent("Here-v0", tmp_path / "it")
    assert gym.registry["Here-v0"].entry_point is Odd


@pytest.mark.parametrize("env_id", ["CartPole-v1", "tests.harness.envs.oddities:Odd-v0", "NoSuch-v0", "ALE/Pong-v5"])
def test_what_every_process_knows_is_not_handed_over(env_id: str) -> None:
    assert registration(EnvSettings(id=env_id)) is None


def test_what_cannot_be_handed_over_is_told_with_what_to_write() -> None:
    held = sys._getframe()  # no process can send it
    gym.register("Mine-v0", lambda: held)  # type: ignore[arg-type, return-value]
    with pytest.raises(BadInput, match="write env.id = 'module:Mine-v0'") as caught:
        registration(EnvSettings(id="Mine-v0"))
    assert "\n" not in str(caught.value)


def test_what_cannot_be_read_is_told_with_what_to_write(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="write env.id = 'module:Mine-v0'"):
        register_from_parent("Mine-v0", tmp_path / "gone")
