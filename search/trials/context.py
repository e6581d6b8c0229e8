"""What a search works with, from its first trial to its confirmation."""

from __future__ import annotations

from dataclasses import dataclass

import optuna

from search.config import StudyConfig
from search.display import Display
from search.launchers.slots import Slots
from search.space.space import Space
from search.stop_requests import StopRequests
from search.strategies.proposals import Drawer
from search.study.objective import Objective
from search.study.study_dir import StudyDir
from search.trials.runner import Runner


@dataclass(frozen=True)
class StudyContext:
    config: StudyConfig
    study: optuna.Study
    space: Space
    drawer: Drawer
    objective: Objective
    runner: Runner
    slots: Slots
    directory: StudyDir
    display: Display
    stop: StopRequests
