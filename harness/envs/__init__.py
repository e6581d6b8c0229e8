"""Where it acts: vectors of environments that are the same experiment on any number of ranks."""

from harness.envs.making import check_environment, make_environment
from harness.envs.normalization import RunningMoments
from harness.envs.playing import play_episodes
from harness.envs.settings import EnvSettings
from harness.envs.vectors import Environments, Share, StepResult, make_environments, share_of

__all__ = [
    "EnvSettings",
    "Environments",
    "RunningMoments",
    "Share",
    "StepResult",
    "check_environment",
    "make_environment",
    "make_environments",
    "play_episodes",
    "share_of",
]
