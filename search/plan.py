"""How many trials are still to be asked for: each run adds some, and an interrupted run is gone on with first."""

from __future__ import annotations

import optuna

from search.study import is_finished

PLAN = "plan"


class Plan:
    """Kept in the study as `{"trials": how many there are to be in all, "done": whether all is, confirmation too}`."""

    def __init__(self, study: optuna.Study, more: int) -> None:
        self.study = study
        kept = study.user_attrs.get(PLAN)
        self.goes_on = kept is not None and not kept["done"]
        self.trials = kept["trials"] if self.goes_on and kept else self._finished() + more
        self.study.set_user_attr(PLAN, {"trials": self.trials, "done": False})

    def left(self, running: int) -> int:
        """Trials to be asked for beside those that run already."""
        return max(0, self.trials - self._finished() - running)

    def done(self) -> None:
        """All trials have ended and the best was confirmed: the next run adds trials."""
        self.study.set_user_attr(PLAN, {"trials": self.trials, "done": True})

    def _finished(self) -> int:
        return sum(map(is_finished, self.study.get_trials(deepcopy=False)))
