"""`harness evaluate --video`: an episode as a film that a player can open."""

from __future__ import annotations

from ctypes.util import find_library
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from harness import evaluate, load_policy
from harness.config import load_run_config
from harness.envs import make_environment
from harness.envs.evaluation import episode_seeds
from harness.envs.settings import LIFE_LOST
from harness.errors import BadInput
from harness.policy.video import film
from harness.run.train import train
from tests.command import harness
from tests.conftest import need

SHORT = ["run.steps=512", "evaluation.count=1", "evaluation.episodes=1", "evaluation.final_episodes=1"]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("video") / "run"
    train(load_run_config("ppo-cartpole", [*SHORT, "logging.tensorboard=false"]), folder)
    return folder


def test_an_episode_is_filmed_frame_by_frame(run_dir: Path) -> None:
    need(find_spec("moviepy"), "the extra 'video'")
    from moviepy import VideoFileClip

    found = evaluate(run_dir, episodes=1, video=True)

    with VideoFileClip(str(run_dir / "video.mp4")) as clip:
        frames = list(clip.iter_frames())
    assert len(frames) == pytest.approx(found.mean + 1, abs=1)  # a frame a step and the first; CartPole gives 1 a step
    assert clip.fps == 50 and clip.size == [600, 400]
    assert (frames[0] != frames[-1]).any()


def test_a_game_is_filmed_to_its_end_and_not_to_that_of_its_first_life(tmp_path: Path) -> None:
    need(find_spec("moviepy"), "the extra 'video'")
    need(find_spec("ale_py"), "the extra 'atari'")
    from moviepy import VideoFileClip

    settings = ["env.id=BreakoutNoFrameskip-v4", "env.count=2", "env.backend=sync", "env.kwargs.max_episode_steps=400"]
    settings += ["algorithm.rollout_steps=4", "algorithm.minibatch_size=8", "network.cnn_hidden=[16]", "run.steps=16"]
    train(load_run_config("ppo-pong", [*settings, *SHORT[1:], "logging.tensorboard=false"]), tmp_path / "run")
    evaluate(tmp_path / "run", episodes=1, video=True)

    policy = load_policy(tmp_path / "run")
    assert policy.config.env is not None
    game = make_environment(policy.config.env)
    observation, _ = game.reset(seed=episode_seeds(policy.config.seed, "command", 1)[0])
    steps, lives_lost, over = 0, 0, False
    while not over:
        observation, _, terminated, truncated, info = game.step(policy(np.asarray(observation)[None])[0])
        steps += 1
        if LIFE_LOST in info:
            lives_lost += 1
            observation, _ = game.reset()
        else:
            over = terminated or truncated
    assert lives_lost >= 1
    with VideoFileClip(str(tmp_path / "run" / "video.mp4")) as clip:
        assert len(list(clip.iter_frames())) == pytest.approx(steps + 1, abs=1)


@pytest.fixture(scope="module")
def cheetah(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need(find_spec("moviepy"), "the extra 'video'")
    need(find_spec("mujoco"), "the extra 'mujoco'")
    folder = tmp_path_factory.mktemp("cheetah") / "run"
    settings = ["env.id=HalfCheetah-v5", "env.kwargs.max_episode_steps=20", "env.backend=sync"]
    train(load_run_config("ppo-cartpole", [*SHORT, *settings, "logging.tensorboard=false"]), folder)
    return folder


@pytest.mark.fresh_start
def test_mujoco_is_filmed_without_a_display(cheetah: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of its own: what else has drawn in this one decides by what MuJoCo can."""
    need(find_library("EGL"), "libEGL")
    from moviepy import VideoFileClip

    for name in ("DISPLAY", "MUJOCO_GL"):
        monkeypatch.delenv(name, raising=False)
    ran = harness("evaluate", str(cheetah), "--episodes", "1", "--video", cwd=cheetah)
    assert ran.code == 0, ran.err
    with VideoFileClip(str(cheetah / "video.mp4")) as clip:
        assert len(list(clip.iter_frames())) == pytest.approx(21, abs=1)


def test_what_cannot_be_drawn_on_this_machine_is_told_in_one_line(
    cheetah: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.setenv("MUJOCO_GL", "glfw")  # which needs one
    with pytest.raises(BadInput, match=r"HalfCheetah-v5 cannot be drawn.*MUJOCO_GL may be egl.* is glfw$") as refused:
        film(load_policy(cheetah), 0, tmp_path / "video.mp4")
    assert "\n" not in str(refused.value) and not (tmp_path / "video.mp4").exists()


def test_an_environment_that_draws_nothing_cannot_be_filmed(tmp_path: Path) -> None:
    need(find_spec("moviepy"), "the extra 'video'")
    settings = [*SHORT, "env.id=tests.environments:Constant-v0", "logging.tensorboard=false"]
    train(load_run_config("ppo-cartpole", settings), tmp_path / "run")
    with pytest.raises(BadInput, match="rgb_array; those of tests.environments:Constant-v0: none"):
        film(load_policy(tmp_path / "run"), 0, tmp_path / "video.mp4")
    assert not (tmp_path / "video.mp4").exists()
