"""How many trials are still to be asked for: each run adds some, and an interrupted run is resumed first."""

from __future__ import annotations

import optuna

from search.study.study import is_finished

BUDGET = "plan"
"""User attribute of the study, under the name that it has always had."""


class TrialBudget:
    """Kept in the study as `{"trials": how many there are to be in all, "done": whether all is, confirmation too}`."""

    def __init__(self, study: optuna.Study, more: int) -> None:
        self.study = study
        kept = study.user_attrs.get(BUDGET)
        # asked for another number of trials, an interrupted run is not what is wanted any more
        self.resumes = kept is not None and not kept["done"] and kept.get("more", more) == more
        self.trials = kept["trials"] if self.resumes and kept else self._finished() + more
        self.more = more
        self._keep(done=False)

    def left(self, running: int) -> int:
        """Trials to be asked for beside those that run already."""
        return max(0, self.trials - self._finished() - running)

    def done(self) -> None:
        """All trials have ended and the best was confirmed: the next run adds trials."""
        self._keep(done=True)

    def _keep(self, done: bool) -> None:
        self.study.set_user_attr(BUDGET, {"trials": self.trials, "more": self.more, "done": done})

    def _finished(self) -> int:
        return sum(map(is_finished, self.study.get_trials(deepcopy=False)))
