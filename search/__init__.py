"""Studies whose every trial is a multi-rank job: `run_study("ppo-cartpole")` does what `python -m search run` does."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from search.config import StudyConfig, load_study
    from search.result import StudyResult
    from search.run import run_study

__all__ = ["StudyConfig", "StudyResult", "load_study", "run_study"]

HOMES = {
    "StudyConfig": "search.config",
    "StudyResult": "search.result",
    "load_study": "search.config",
    "run_study": "search.run",
}


def __getattr__(name: str) -> Any:
    """The public names, imported when they are asked for: `search status` need not load what trains."""
    if name not in HOMES:
        raise AttributeError(f"module 'search' has no attribute {name!r}")
    return getattr(import_module(HOMES[name]), name)
