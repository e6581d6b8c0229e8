"""Vector classes of users, in each of gymnasium's ways to begin a new episode."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from harness.envs import EnvSettings, make_environments
from harness.envs.backends.selection import choose_backend
from harness.errors import BadInput

MODES = [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED]


def settings(mode: AutoresetMode, independent: bool = True, backend: str = "native", **more: object) -> EnvSettings:
    name = f"tests.environments:Count{mode.value}{'' if independent else 'Shared'}-v0"
    return EnvSettings(id=name, count=3, backend=backend, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", MODES)
def test_no_transition_mixes_two_episodes(mode: AutoresetMode) -> None:
    envs = make_environments(settings(mode), 0, 1)
    before = envs.reset(seed=0)
    episodes = np.zeros(3)
    for _ in range(40):
        result = envs.step(np.zeros(3, dtype=np.int64))
        done = result.terminated | result.truncated
        after = result.observations
        if done.any():
            assert result.final_observations is not None
            after = np.where(done[:, None], result.final_observations, after)
        valid = np.ones(3, dtype=bool) if result.valid is None else result.valid
        np.testing.assert_array_equal(after[valid, 0], before[valid, 0], "one episode from before to after")
        np.testing.assert_array_equal(after[valid, 1], before[valid, 1] + 1, "one step of it")
        np.testing.assert_array_equal(result.true_rewards[valid], after[valid, 1])
        assert not done[~valid].any() and not result.true_rewards[~valid].any()
        episodes += done
        before = result.observations
    # lengths are 3, 4 and 5 steps, one more with a step that only begins an episode
    lengths = np.array([3, 4, 5]) + (mode == AutoresetMode.NEXT_STEP)
    np.testing.assert_array_equal(episodes, (40 + (mode == AutoresetMode.NEXT_STEP)) // lengths)
    assert not result.truncated[0]
    assert (envs.vector.notice or "").endswith("from which nothing is learned") == (mode == AutoresetMode.NEXT_STEP)
    envs.close()


@pytest.mark.parametrize("mode", MODES)
def test_auto_takes_a_class_that_is_the_same_experiment_on_any_number_of_ranks(mode: AutoresetMode) -> None:
    chosen = {each: choose_backend(settings(mode, each, "auto"), 3, 1).backend for each in (True, False)}
    same_step = mode != AutoresetMode.NEXT_STEP
    assert chosen == {True: "native" if same_step else "sync", False: "sync"}


def test_a_class_with_one_stream_can_be_forced_and_it_is_told() -> None:
    envs = make_environments(settings(AutoresetMode.SAME_STEP, False), 0, 1)
    assert envs.vector.notice is not None and "other numbers of ranks see other episodes" in envs.vector.notice
    envs.close()


def test_wrappers_need_single_environments() -> None:
    wrapped = settings(AutoresetMode.SAME_STEP, wrappers=["gymnasium.wrappers:FlattenObservation"])
    with pytest.raises(BadInput, match="env.backend = 'native'.*or env.wrappers, env.reset_options"):
        make_environments(wrapped, 0, 1)


def test_an_environment_without_a_vector_class_cannot_be_native() -> None:
    with pytest.raises(BadInput, match="Acrobot-v1 has no vector class.*'sync' or 'workers'"):
        make_environments(EnvSettings(id="Acrobot-v1", count=2, backend="native"), 0, 1)
