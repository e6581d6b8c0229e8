"""What a search works with, from its first trial to its confirmation."""

from __future__ import annotations

from dataclasses import dataclass

import optuna

from search.config import StudyConfig
from search.display import Display
from search.drawing import Drawer
from search.objective import Objective
from search.seed_run import Runner
from search.signals import StopRequests
from search.slots import Slots
from search.space import Space
from search.study_dir import StudyDir


@dataclass(frozen=True)
class Tools:
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
