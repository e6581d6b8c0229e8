"""`harness evaluate --video`: an episode as a film that a player can open."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from harness import evaluate, load_policy
from harness.config import load_run_config
from harness.errors import BadInput
from harness.run import train
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


def test_an_environment_that_draws_nothing_cannot_be_filmed(tmp_path: Path) -> None:
    from harness.policy import film

    settings = [*SHORT, "env.id=tests.environments:Constant-v0", "logging.tensorboard=false"]
    train(load_run_config("ppo-cartpole", settings), tmp_path / "run")
    with pytest.raises(BadInput, match="rgb_array; those of tests.environments:Constant-v0: none"):
        film(load_policy(tmp_path / "run"), 0, tmp_path / "video.mp4")
    assert not (tmp_path / "video.mp4").exists()
