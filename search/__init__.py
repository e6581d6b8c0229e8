"""Studies whose every trial is a multi-rank job: `run_study("ppo-cartpole")` does what `python -m search run` does."""

from search.config import StudyConfig, load_study
from search.result import StudyResult
from search.run import run_study

__all__ = ["StudyConfig", "StudyResult", "load_study", "run_study"]
