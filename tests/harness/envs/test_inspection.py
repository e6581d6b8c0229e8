"""What an environment does is looked at before a run: what would be misread later is refused in one line."""

from __future__ import annotations

import copy
import pickle
import time
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from harness.distributed.transports.base import Alone
from harness.envs import EnvSettings, inspection, make_environment, make_environments, play_episodes
from harness.envs.conformance import LARGEST_SEED, STEPS, keeps_values
from harness.envs.inspection import close_spare, inspect_environment
from harness.envs.settings import LIFE_LOST
from harness.envs.wrappers import is_statistics
from harness.errors import BadInput
from tests.harness.envs.oddities import KEPT, Halved, Learns, Odd

HERE = "tests.harness.envs.oddities"


def settings(name: str = "Odd", **more: Any) -> EnvSettings:
    return EnvSettings(**{"id": f"{HERE}:{name}-v0", "count": 2, "backend": "sync", **more})


@pytest.fixture(autouse=True)
def nothing_was_made() -> Iterator[None]:
    close_spare()
    inspection.latest = None
    KEPT.clear()
    yield
    close_spare()
    inspection.latest = None


REFUSED: dict[str, tuple[dict[str, Any], list[str]]] = {
    "floats as bytes": ({"what": "floats", "says": "uint8"}, ["float32", "observation_space says uint8"]),
    "floats as whole numbers": ({"what": "floats", "says": "int64"}, ["float32", "says int64"]),
    "whole numbers as bytes": ({"what": "int64", "says": "uint8"}, ["int64", "says uint8"]),
    "one number for four": ({"what": "narrow"}, ["shape (1,)", "says (4,)"]),
    "a row": ({"what": "row"}, ["shape (1, 4)", "says (4,)"]),
    "a number for a vector": ({"what": "scalar"}, ["shape ()", "says (4,)"]),
    "a dict": ({"what": "a dict"}, ["a dict", "Box(-1.0, 1.0, (4,), float32)"]),
    "None": ({"what": "None"}, ["None", "Box"]),
    "strings": ({"what": "strings"}, ["<U1", "Box"]),
    "lists of unequal lengths": ({"what": "ragged"}, ["a list", "Box"]),
    "nan": ({"what": "nan"}, ["reset gives an observation with nan"]),
    "inf": ({"what": "inf"}, ["reset gives an observation with -inf"]),
    "the observation alone": ({"what": "observation alone"}, ["its reset gives an array", "before gym 0.26"]),
    "two numbers alone": ({"what": "two numbers alone"}, ["shape (2,)", "before gym 0.26"]),
    "three values": ({"what": "three values"}, ["a tuple of 3", "(observation, info)"]),
    "no info": ({"what": "no info"}, ["a tuple of 2: (ndarray, NoneType)"]),
    "a reset that raises": ({"what": "reset raises"}, ["reset raised KeyError: 'map' (oddities.py, line "]),
    "large seeds": ({"what": "seeds below 2**31"}, [f"any seed from 0 to {LARGEST_SEED}", "OverflowError"]),
    "a step that raises": ({"what": "step raises"}, ["step by", "RuntimeError: the joint broke (oddities.py, line "]),
    "four values": ({"what": "four values"}, ["its step gives 4 values", "before gym 0.26", "terminated, truncated"]),
    "three values of a step": ({"what": "three values at a step"}, ["a tuple of 3: (ndarray, float, bool)"]),
    "no reward": ({"what": "no reward"}, ["one number as reward, and gives None"]),
    "two rewards": ({"what": "two rewards"}, ["one number as reward", "shape (2,)"]),
    "a word as reward": ({"what": "a word as reward"}, ["one number as reward, and gives a str"]),
    "nan as reward": ({"what": "nan as reward"}, ["gives a reward of nan"]),
    "None as an end": ({"what": "None as end"}, ["True or False as terminated, and gives None"]),
    "an array as an end": ({"what": "an array as end"}, ["True or False as terminated", "shape (1,)"]),
    "a list as info": ({"what": "a list as info"}, ["a dict as info, and gives a list"]),
    **{f"a constructor's {name}": ({"what": name}, ["cannot be made", "what", said]) for name, said in {
        "KeyError": "KeyError: 'map' (oddities.py, line ",
        "RuntimeError": "RuntimeError: no licence server (oddities.py, line ",
        "OSError": "FileNotFoundError: [Errno 2] No such file or directory: 'prices.csv'",
        "ValueError": "ValueError: the map is too small",
        "AssertionError": "AssertionError (oddities.py, line ",
        "exits": "SystemExit: set SIMULATOR_HOME",
    }.items()},
    "a constructor's ImportError": ({"what": "ImportError"}, ["no simulator"]),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused_in_one_line(case: str) -> None:
    kwargs, expected = REFUSED[case]
    for wrappers in ([], [f"{HERE}:Halved"]):  # which unpacks what it wraps, and fails in its own words
        with pytest.raises(BadInput) as caught:
            inspect_environment(settings(kwargs=kwargs, wrappers=wrappers))
        line = str(caught.value)
        assert "\n" not in line and f"env.id = '{HERE}:Odd-v0'" in line
        if not wrappers or "gym 0.26" in expected[-1]:
            assert not [words for words in expected if words not in line], line
    assert KEPT["closed"] == KEPT["made"], "nothing stays open"


@pytest.mark.parametrize(
    ("name", "expected"),
    {
        "NoSeed": ["its reset takes no seed", "before gym 0.26", "unexpected keyword argument 'seed'"],
        "NoOptions": ["unexpected keyword argument 'options'"],
        "NotGymnasium": ["gymnasium.Env"],
        "SpacesOfAnother": ["action_space of gymnasium.spaces", "builtins.object"],
    }.items(),
)
def test_other_interfaces_are_refused_in_one_line(name: str, expected: list[str]) -> None:
    with pytest.raises(BadInput) as caught:
        inspect_environment(settings(name))
    line = str(caught.value)
    assert "\n" not in line and not [words for words in expected if words not in line], line


SAME = ["nothing", "float64", "a list", "an int as reward", "a bool as reward", "an int as end"]


@pytest.mark.parametrize("what", SAME)
def test_what_means_the_same_is_taken(what: str) -> None:
    found = inspect_environment(settings(kwargs={"what": what}))
    assert [line for line in found.notices if "no time limit" not in line] == []
    envs = make_environments(settings(kwargs={"what": what}), 0, 1)
    assert envs.reset(seed=0).dtype == np.float32
    assert envs.step(np.zeros(2, np.int64)).rewards.tolist() == [1.0, 1.0]
    envs.close()


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"what": "far"}, "observations outside the bounds of its observation_space"),
        ({"what": "an array as reward"}, "rewards in arrays"),
        ({}, "has no time limit"),
    ],
)
def test_what_is_worth_knowing_is_told(kwargs: dict[str, Any], words: str) -> None:
    (line,) = [line for line in inspect_environment(settings(kwargs=kwargs)).notices if words in line]
    assert "\n" not in line and "Odd-v0" in line


def test_a_time_limit_of_any_kind_is_one() -> None:
    limit = {"class": "gymnasium.wrappers:TimeLimit", "kwargs": {"max_episode_steps": 50}}
    for limited in (settings("Limited"), settings(wrappers=[limit]), settings(kwargs={"max_episode_steps": 9})):
        assert inspect_environment(limited).notices == ()
    assert not [line for line in inspect_environment(EnvSettings(id="CartPole-v1")).notices]


def test_a_reward_in_an_array_is_its_number_in_training_and_evaluation() -> None:
    odd = settings(kwargs={"what": "an array as reward"})
    for backend in ("sync", "workers"):
        envs = make_environments(odd.model_copy(update={"backend": backend}), 0, 1)
        envs.reset(seed=0)
        assert envs.step(np.zeros(2, np.int64)).rewards.tolist() == [1.0, 1.0]
        envs.close()
    returns = play_episodes(odd, lambda seen: np.zeros(len(seen), np.int64), [1, 2, 3], Alone())
    assert returns.tolist() == [10.0, 10.0, 10.0]


# -- what it leaves ----------------------------------------------------------------------------------------------------


def test_the_environment_is_made_once_and_becomes_one_of_the_runs() -> None:
    inspect_environment(settings())
    inspect_environment(settings(count=5))  # of the same environments
    assert KEPT["made"] == 1
    envs = make_environments(settings(), 0, 1)
    assert KEPT["made"] == 2
    envs.close()
    assert KEPT["closed"] == 2
    other = inspect_environment(settings(kwargs={"what": "far"}))
    assert KEPT["made"] == 3 and other.env is not None


def test_what_can_be_open_only_once_is_trained() -> None:
    single = settings(kwargs={"most": 1}, count=1)
    inspect_environment(single)
    envs = make_environments(single.model_copy(update={"backend": "auto"}), 0, 1, cores=4)
    envs.reset(seed=0)
    envs.step(np.zeros(1, np.int64))
    assert KEPT["made"] == 1
    envs.close()
    with pytest.raises(BadInput, match="cannot be made.*the port is in use"):
        make_environments(single.model_copy(update={"count": 2}), 0, 1)


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1", "tests.environments:Line-v0"])
def test_the_episodes_are_those_of_an_environment_that_nobody_looked_at(env_id: str) -> None:
    asked, found = EnvSettings(id=env_id, count=2, backend="sync"), []
    for looks in (True, False):
        if looks:
            inspect_environment(asked)
        envs = make_environments(asked, 0, 1)
        assert looks == (inspection.latest is not None)
        action = np.zeros((2, *(envs.action_space.shape or ())), envs.action_space.dtype)
        found.append([envs.reset(seed=4), *(envs.step(action).observations for _ in range(60))])
        envs.close()
        inspection.latest = None
    np.testing.assert_array_equal(found[0], found[1])


def test_it_leaves_no_trace_in_an_environment_that_counts() -> None:
    counting = EnvSettings(id="tests.environments:Count-v0", count=2, backend="sync")
    inspect_environment(counting)
    envs = make_environments(counting, 0, 1)
    assert envs.reset(seed=0).tolist() == [[1.0, 0.0], [1.0, 0.0]], "the first episode of both"
    envs.close()


def test_it_costs_next_to_nothing() -> None:
    inspect_environment(EnvSettings(id="CartPole-v1"))  # imports
    inspection.latest = None
    began = time.process_time()
    inspect_environment(EnvSettings(id="CartPole-v1"))
    assert time.process_time() - began < 0.5
    assert STEPS <= 10


# -- wrappers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["NormalizeObservation", "NormalizeReward"])
def test_wrappers_that_learn_are_refused_with_what_does_it_for_all(name: str) -> None:
    with pytest.raises(BadInput, match=f"wrapped in {name}.*env.normalize_{name[9:].lower()}s = true"):
        inspect_environment(settings(wrappers=[f"gymnasium.wrappers:{name}"]))


def test_what_a_wrapper_of_ones_own_seems_to_learn_is_told() -> None:
    found = inspect_environment(settings(wrappers=[f"{HERE}:Learns"]))
    assert [line for line in found.notices if "wrapper Learns keeps statistics (obs_rms)" in line]
    assert not is_statistics(np.zeros(3)) and is_statistics(Learns.Statistics())


def test_wrappers_take_arguments_or_none() -> None:
    limit = {"class": "gymnasium.wrappers:TimeLimit", "kwargs": {"max_episode_steps": 3}}
    by = {"class": f"{HERE}:Halved", "kwargs": {"by": 4.0}}
    asked = settings(wrappers=[limit, f"{HERE}:Halved", by, {"class": "gymnasium.wrappers:FlattenObservation"}])
    assert EnvSettings(**asked.model_dump(mode="json", by_alias=True)) == asked, "as the resolved config has it"
    returns = play_episodes(asked, lambda seen: np.zeros(len(seen), np.int64), [1], Alone())
    assert returns.tolist() == [3 / 8]
    env = make_environment(asked)
    assert isinstance(env.env, Halved) and env.env.by == 4.0  # type: ignore[attr-defined]
    env.close()


@pytest.mark.parametrize(
    ("wrapper", "words"),
    [
        (f"{HERE}:forgets_to_return", "must give a gymnasium environment, got NoneType"),
        ({"class": f"{HERE}:Halved", "kwargs": {"bye": 1}}, "with kwargs = {'bye': 1} cannot wrap.*unexpected keyword"),
        ("gymnasium.wrappers:TimeLimit", "cannot wrap.*TypeError.*max_episode_steps"),
        ("gymnasium.wrappers:NoSuch", "has no 'NoSuch'"),
    ],
)
def test_wrappers_that_do_not_wrap_are_refused_in_one_line(wrapper: Any, words: str) -> None:
    with pytest.raises(BadInput, match=words) as caught:
        make_environment(settings(wrappers=[wrapper]))
    assert "env.wrappers" in str(caught.value) and "\n" not in str(caught.value)
    assert KEPT["made"] == KEPT["closed"]


@pytest.mark.parametrize("wrong", ["one", [1], [{"class": 3}], [{"klass": "a:b"}], [{"class": "a:b", "args": []}]])
def test_wrappers_that_are_none_are_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="module:callable|must be a list of wrappers"):
        settings(wrappers=wrong)


@pytest.mark.parametrize("backend", ["sync", "workers"])
def test_each_reset_is_given_the_options(backend: str) -> None:
    given = settings("Told", reset_options={"points": 3.0}, backend=backend)
    envs = make_environments(given, 0, 1)
    envs.reset(seed=0)
    rewards = [envs.step(np.zeros(2, np.int64)).rewards.tolist() for _ in range(25)]
    envs.close()
    assert rewards == [[3.0, 3.0]] * 25, "after the resets between episodes too"
    returns = play_episodes(given, lambda seen: np.zeros(len(seen), np.int64), [1, 2], Alone())
    assert returns.tolist() == [30.0, 30.0]


def test_options_are_for_single_environments() -> None:
    cartpole = EnvSettings(id="CartPole-v1", count=1, reset_options={"low": -0.01, "high": 0.01})
    envs = make_environments(cartpole, 0, 1)
    assert envs.backend == "sync" and np.abs(envs.reset(seed=0)).max() <= 0.01
    envs.close()
    for backend in ("native", "envpool"):
        with pytest.raises(BadInput, match="env.reset_options"):
            make_environments(cartpole.model_copy(update={"backend": backend}), 0, 1)


# -- info --------------------------------------------------------------------------------------------------------------


class Lives(gym.Wrapper):
    def __init__(self, env: gym.Env, key: str) -> None:
        super().__init__(env)
        self.key = key

    def step(self, action: Any) -> Any:
        *rest, _ = super().step(action)
        return *rest, {self.key: True}


KEYS = ["life_lost", "harness: life lost", "final_obs", "TimeLimit.truncated"]


@pytest.mark.parametrize(("backend", "key"), [("workers", "life_lost"), *(("sync", key) for key in KEYS)])
def test_the_keys_of_a_users_info_mean_nothing(key: str, backend: str) -> None:
    wrapped = settings(
        wrappers=[{"class": "tests.harness.envs.test_inspection:Lives", "kwargs": {"key": key}}], backend=backend
    )
    envs = make_environments(wrapped, 0, 1)
    envs.reset(seed=0)
    results = [envs.step(np.zeros(2, np.int64)) for _ in range(10)]
    envs.close()
    assert results[-1].terminated.all() and not np.any(results[-1].lives_lost)
    if backend == "sync":
        returns = play_episodes(wrapped, lambda seen: np.zeros(len(seen), np.int64), [1, 2], Alone())
        assert returns.tolist() == [10.0, 10.0]


def test_the_harnesss_own_mark_equals_no_other_and_lives_in_copies() -> None:
    assert LIFE_LOST != "harness: life lost" and "harness: life lost" != LIFE_LOST
    for copied in (copy.copy(LIFE_LOST), copy.deepcopy({LIFE_LOST: 1}), pickle.loads(pickle.dumps({LIFE_LOST: 1}))):
        assert copied is LIFE_LOST or LIFE_LOST in copied


# -- what keeps its value ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said", "keeps"),
    [
        ("float64", "float32", True),
        ("float32", "float64", True),
        ("int64", "float32", True),
        ("bool", "float32", True),
        ("uint8", "float32", True),
        ("int64", "int32", True),
        ("bool", "uint8", True),
        ("float32", "uint8", False),
        ("float32", "int64", False),
        ("int64", "uint8", False),
        ("uint16", "uint8", False),
        ("float32", "bool", False),
        ("int8", "uint16", False),
    ],
)
def test_what_stays_what_it_is(given: str, said: str, keeps: bool) -> None:
    assert keeps_values(np.dtype(given), np.dtype(said)) == keeps


def test_what_cannot_be_flattened_is_told_so() -> None:
    cases: list[tuple[spaces.Space, str]] = [
        (spaces.Discrete(3), "FlattenObservation"),
        (spaces.Dict({"x": Odd.observation_space}), "FlattenObservation"),
        (spaces.Text(5), "FlattenObservation"),
        (spaces.Sequence(spaces.Discrete(2)), "a wrapper of your own"),
        (spaces.Box(-1, 1, (0,)), "with nothing in them"),
    ]
    for space, words in cases:
        gym.register("Given-v0", "tests.harness.envs.oddities:Plain")
        kwargs = {"observation_space": space, "action_space": spaces.Discrete(2)}
        with pytest.raises(BadInput, match=words):
            inspect_environment(EnvSettings(id="Given-v0", kwargs=kwargs))
        del gym.registry["Given-v0"]
