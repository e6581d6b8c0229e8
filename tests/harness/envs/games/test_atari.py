"""Atari games: their screens against a reference of its own, starts, lives, returns, and EnvPool's against ours."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

from harness.buffers import EpisodeAccount
from harness.distributed.transports.base import Alone
from harness.envs import Environments, EnvSettings, make_environment, make_environments, play_episodes
from harness.envs.settings import LIFE_LOST
from harness.errors import BadInput
from tests.conftest import need

PONG, BREAKOUT, SEAQUEST = (f"{game}NoFrameskip-v4" for game in ("Pong", "Breakout", "Seaquest"))


def settings(env_id: str, backend: str = "sync", count: int = 2, **game: Any) -> EnvSettings:
    need(find_spec("ale_py"), "the extra atari")
    need(backend != "envpool" or find_spec("envpool"), "the extra envpool")
    return EnvSettings(id=env_id, count=count, backend=backend, atari=game)  # type: ignore[arg-type]


def random_actions(env_id: str, steps: int, envs: int = 2) -> np.ndarray:
    return np.random.default_rng(7).integers(0, {PONG: 6, BREAKOUT: 4, SEAQUEST: 18}[env_id], (steps, envs))


def plain_game(env_id: str) -> Any:
    """The emulator alone, at the first frame of a game."""
    need(find_spec("ale_py"), "the extra atari")
    import ale_py
    from ale_py.roms import get_rom_path

    ale = ale_py.ALEInterface()
    ale.setFloat("repeat_action_probability", 0.0)
    rom = get_rom_path(env_id.removesuffix("NoFrameskip-v4").lower())
    assert rom is not None
    ale.loadROM(rom)
    ale.reset_game()
    return ale


def screen_of(colours: np.ndarray) -> np.ndarray:
    """uint8 (210, 160, 3), one or more frames of it, to (84, 84): brightness, brightest frame, means of areas.

    Every pixel is cut into parts of which a whole number makes a new one; sums are those of whole numbers.
    """
    weights = np.array([0.2989, 0.5870, 0.1140])
    grey = np.floor(colours.astype(np.float64) @ weights + 0.5).astype(np.int64).max(0)
    parts = grey.repeat(2, axis=0).repeat(21, axis=1)  # 420 x 3360
    sums = parts.reshape(84, 5, 84, 40).sum((1, 3))
    low, rest = np.divmod(sums, 200)
    return (low + ((rest > 100) | ((rest == 100) & (low % 2 == 1)))).astype(np.uint8)


def test_a_whole_recorded_game_of_pong_is_the_references_frame_by_frame() -> None:
    env = make_environment(settings(PONG, noop_max=0))
    observation, _ = env.reset(seed=0)
    ale = plain_game(PONG)
    known = ale.getMinimalActionSet()
    ale.act(1)  # FIRE
    stack = [screen_of(ale.getScreenRGB()[None])] * 4
    assert np.array_equal(observation, stack)
    total = 0.0
    for step, action in enumerate(random_actions(PONG, 2000)[:, 0]):
        reward, frames = 0.0, []
        for _ in range(4):
            reward += ale.act(known[action])
            frames.append(ale.getScreenRGB())
            if ale.game_over():
                break
        stack = [*stack[1:], screen_of(np.stack(frames[-2:] if len(frames) == 4 else frames[-1:]))]
        observation, given, terminated, truncated, _ = env.step(action)
        assert observation.dtype == np.uint8 and np.array_equal(observation, stack), step
        assert given == reward and terminated == ale.game_over() and not truncated, step
        total += reward
        if terminated:
            break
    assert terminated and step > 500 and -21 <= total < 0


def test_settings_change_what_they_say() -> None:
    ale = plain_game(PONG)
    ale.act(1)
    colours = make_environment(settings(PONG, noop_max=0, grey=False, screen_size=105, stack=2, fire_on_reset=False))
    assert colours.observation_space.shape == (6, 105, 105)
    observation, _ = colours.reset(seed=0)
    first = plain_game(PONG).getScreenRGB()
    halves = first.repeat(21, axis=1).reshape(105, 2, 105, 32, 3).mean((1, 3))  # 210 / 2, 160 * 21 / 32
    assert np.abs(observation[:3].transpose(1, 2, 0) - halves).max() <= 0.5
    skipping = make_environment(settings(PONG, noop_max=0, frame_skip=1, max_pool=False))
    skipping.reset(seed=0)
    observation, *_ = skipping.step(0)
    ale.act(0)
    assert np.array_equal(observation[-1], screen_of(ale.getScreenRGB()[None]))
    assert make_environment(settings(PONG, full_action_space=True)).action_space.n == 18  # type: ignore[attr-defined]


def test_games_begin_after_1_to_30_frames_that_follow_from_the_seed() -> None:
    env: Any = make_environment(settings(PONG))
    waits = []
    for seed in [*range(12), *range(3)]:
        first, _ = env.reset(seed=seed)
        waits.append(env.ale.getEpisodeFrameNumber())
        assert np.array_equal(first, [first[0]] * 4)
    assert waits[:3] == waits[12:], "by the seed"
    assert 1 <= min(waits) < 10 and 20 < max(waits) <= 30 and len(set(waits)) >= 8
    env.reset()
    env.reset()
    assert 1 <= env.ale.getEpisodeFrameNumber() <= 30


def test_sticky_actions_are_those_of_the_id_unless_they_are_set() -> None:
    def last(env_id: str, **game: Any) -> np.ndarray:
        env = make_environment(settings(env_id, noop_max=0, **game))
        env.reset(seed=3)
        return np.stack([env.step(action)[0][-1] for action in random_actions(PONG, 60)[:, 0]])

    plain, sticky = last(PONG), last("ALE/Pong-v5")
    assert not np.array_equal(plain, sticky)
    assert np.array_equal(plain, last("ALE/Pong-v5", repeat_action_probability=0.0))
    assert np.array_equal(sticky, last("ALE/Pong-v5")), "by the seed"


def test_a_lost_life_ends_an_episode_and_the_next_goes_on_with_the_game() -> None:
    env: Any = make_environment(settings(BREAKOUT))
    env.reset(seed=1)
    lives, frames, ends = [], [], []
    for action in random_actions(BREAKOUT, 2000)[:, 0]:
        _, _, terminated, truncated, info = env.step(action)
        assert not truncated
        if terminated:
            ends.append(LIFE_LOST in info)
            lives.append(env.ale.lives())
            if not ends[-1]:
                break
            observation, _ = env.reset()
            frames.append(env.ale.getEpisodeFrameNumber())
            assert np.array_equal(observation, [observation[-1]] * 4), "no screen of the life before"
    assert ends == [True] * 4 + [False] and lives == [4, 3, 2, 1, 0]
    assert frames == sorted(frames) and len(set(frames)) == 4, "the game's clock runs on"
    env.reset()
    assert env.ale.lives() == 5, "a new game"
    whole: Any = make_environment(settings(BREAKOUT, episodic_life=False))
    whole.reset(seed=1)
    over = [whole.step(action)[2] for action in random_actions(BREAKOUT, 300)[:, 0]]
    assert whole.ale.lives() < 5 and not any(over[: over.index(True)] if any(over) else over)


@pytest.mark.parametrize("backend", ["sync", "workers", "envpool"])
def test_rewards_are_learned_from_by_their_sign_and_games_are_reported_whole(backend: str) -> None:
    envs = make_environments(settings(SEAQUEST, backend), 0, 1, cores=2)
    envs.reset(seed=0)
    account, reported, counted, running = EpisodeAccount(2), [], [], np.zeros(2)
    lost = 0
    for actions in random_actions(SEAQUEST, 700):
        result = envs.step(actions)
        assert np.array_equal(result.rewards, np.sign(result.true_rewards))
        done = result.terminated | result.truncated
        lives = np.zeros(2, dtype=bool) if result.lives_lost is None else result.lives_lost
        assert not (lives & ~done).any()
        lost += int(lives.sum())
        where = [(0, int(env)) for env in np.flatnonzero(lives)]
        sums = account.merge(result.true_rewards[None], done[None], where)
        running += result.true_rewards
        over = done & ~lives
        counted += running[over].tolist()
        running[over] = 0.0
        if sums["episodes"]:
            reported.append(sums["returns"])
    envs.close()
    assert sum(counted) == sum(reported) and len(counted) >= 2 and max(counted) >= 20
    assert lost >= 2 * len(counted), "four lives in a game"


def test_evaluations_play_whole_games() -> None:
    def act(seen: np.ndarray) -> np.ndarray:
        return np.full(len(seen), 1)  # FIRE, where the paddle stands

    returns = play_episodes(settings(BREAKOUT), act, [11, 12], Alone())
    expected = []
    for seed in (11, 12):
        env = make_environment(settings(BREAKOUT))
        env.reset(seed=seed)
        total, games = 0.0, 0
        while not games:
            _, reward, terminated, _, info = env.step(1)
            total += float(reward)
            if LIFE_LOST in info:
                env.reset()
            games += terminated and LIFE_LOST not in info
        expected.append(total)
    assert returns.tolist() == expected


def test_a_game_is_cut_by_its_limit() -> None:
    env = make_environment(settings(PONG).model_copy(update={"kwargs": {"max_episode_steps": 5}}))
    env.reset(seed=0)
    assert [env.step(0)[2:4] for _ in range(5)] == [(False, False)] * 4 + [(False, True)]


@pytest.mark.parametrize("env_id", [PONG, BREAKOUT])
@pytest.mark.parametrize("backend", ["envpool", "workers"])
def test_every_backend_shows_the_same_screens(env_id: str, backend: str) -> None:
    """With one frame of waiting, so that EnvPool's own random numbers decide nothing."""
    ours, others = (make_environments(settings(env_id, kind, noop_max=1), 0, 1) for kind in ("sync", backend))
    assert np.array_equal(ours.reset(seed=0), others.reset(seed=0))
    ends = 0
    for step, actions in enumerate(random_actions(env_id, 150)):
        one, other = ours.step(actions), others.step(actions)
        for name in ("observations", "rewards", "true_rewards", "terminated", "truncated"):
            assert np.array_equal(getattr(one, name), getattr(other, name)), (step, name)
        done = one.terminated | one.truncated
        if done.any():
            assert one.final_observations is not None and other.final_observations is not None
            assert one.lives_lost is not None and np.array_equal(one.lives_lost, other.lives_lost)
            assert np.array_equal(one.final_observations[done], other.final_observations[done])
            ends += int(done.sum())
    ours.close()
    others.close()
    assert ends > 3 or env_id == PONG


@pytest.mark.parametrize("backend", ["sync", "envpool"])
def test_games_are_the_same_wherever_they_are_played(backend: str) -> None:
    def trace(envs: Environments, part: slice) -> np.ndarray:
        seen = [envs.reset(seed=3)]
        seen += [envs.step(actions[part]).observations for actions in random_actions(PONG, 30, 3)]
        envs.close()
        return np.stack(seen)

    made = settings("ALE/Pong-v5", backend, count=3)
    whole = trace(make_environments(made, 0, 1), slice(0, 3))
    parts = [trace(make_environments(made, rank, 2), part) for rank, part in enumerate((slice(0, 2), slice(2, 3)))]
    assert np.array_equal(np.concatenate(parts, axis=1), whole)
    assert not np.array_equal(whole[:, 0], whole[:, 1])


def test_what_cannot_be_preprocessed_so_is_refused() -> None:
    with pytest.raises(ValueError, match="env.atari is for Atari games.*got env.id = 'CartPole-v1'"):
        EnvSettings(id="CartPole-v1", atari={"stack": 2})  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="env.backend = 'envpool' preprocesses games with env.atari.max_pool"):
        make_environments(settings(PONG, "envpool", max_pool=False), 0, 1)
    with pytest.raises(BadInput, match="ALE/Pogn-v5' does not exist; did you mean ALE/Pong-v5"):
        make_environment(settings("ALE/Pogn-v5"))
    with pytest.raises(BadInput, match="env.kwargs = {'sound': 1}.*unexpected keyword argument 'sound'"):
        make_environment(settings(PONG).model_copy(update={"kwargs": {"sound": 1}}))


def test_the_raw_game_can_be_had() -> None:
    env = make_environment(settings("ALE/Pong-v5", preprocess=False))
    assert env.observation_space.shape == (210, 160, 3)
