"""A run's evaluations: when one is due, what plays it, what the run learns from it, and when it is good enough."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import numpy as np

from harness.algorithms.base import Act, Algorithm, Evaluation
from harness.envs import Environments
from harness.envs.evaluation import Played, Players, episode_seeds
from harness.envs.limits import longest_episode
from harness.envs.players import TrainingEnvironments, separate_environments
from harness.errors import BadInput, StopHere
from harness.models.probing import kept_buffers
from harness.reporting import PhaseTimer
from harness.run.attempt import Attempt
from harness.run.counters import Counters
from harness.run.stopping import StopAgreement
from harness.text import one_line


class Evaluations:
    """Evaluation k of K is due after the iteration that reaches k/K of the budget; every method but `close` is
    collective."""

    algorithm: Algorithm
    """Whose policy is evaluated; it is built after this, on `play`."""

    def __init__(
        self,
        attempt: Attempt,
        environments: Environments | None,
        counters: Counters,
        agreement: StopAgreement,
        phases: PhaseTimer,
        say: Callable[[str], None],
        settled: Callable[[], AbstractContextManager[object]],
    ) -> None:
        """`environments`: those of training. `say` tells the user a line; while `settled` lasts, all ranks have one
        policy."""
        self.seed, self.settings = attempt.config.seed, attempt.config.evaluation
        self.communicator, self.environments = attempt.communicator, environments
        self.counters, self.agreement, self.phases, self.say = counters, agreement, phases, say
        self.settled = settled
        self.players = None if environments is None else make_players(attempt, environments)
        self.latest: Evaluation | None = None
        self.under_way = False
        self.final_metrics: dict[str, float] = {}
        """Of the infos of the final evaluation's episodes."""
        self._played: Played | None = None
        self._told: set[str] = set()
        """What was told that is told once."""

    def notices(self) -> list[str]:
        """What a person should know before the first one."""
        players, found = self.players, []
        if players is None:
            return []
        if self.settings.max_steps is None and players.max_steps is not None:
            found.append(
                f"{players.settings.id} has no time limit: episodes of evaluations are cut after {players.max_steps:,} "
                "steps (evaluation.max_steps)"
            )
        if not self.settings.deterministic:
            found.append("evaluations draw their actions (evaluation.deterministic = false)")
        return found

    # -- the schedule --------------------------------------------------------------------------------------------------

    def due(self) -> int:
        """The number of the evaluation that the budget has reached and that was not made yet; 0 where there is none."""
        counters = self.counters
        reached = counters.iteration * self.settings.count // self.algorithm.iterations
        return reached if reached > counters.evaluations else 0

    def make(self, number: int, report: Callable[[int, float, int], None]) -> tuple[dict[str, float], bool]:
        """Evaluation `number` and all that follows from it: its metrics, and whether it is the best so far. Numbers
        that a short run skips are reported with its value too."""
        counters = self.counters
        self.latest = found = self._evaluate(self.settings.episodes)
        metrics = {"eval_return_mean": found.mean, "eval_return_std": found.std}
        metrics |= {f"eval_{name}": value for name, value in self._look_at_episodes().items()}
        counters.evaluated += 1
        better = counters.best is None or found.mean > counters.best
        if better:
            counters.best, counters.best_at = found.mean, counters.evaluated
        self.algorithm.on_evaluation(found)
        for each in range(counters.evaluations + 1, number + 1):
            report(each, found.mean, counters.env_steps)
        counters.evaluations, counters.last = number, found.mean
        return metrics, better

    def make_final(self) -> Evaluation:
        """That of the final policy, whose mean is the run's value."""
        self.latest = self._evaluate(self.settings.final_episodes, final=True)
        self.final_metrics = self._look_at_episodes()
        return self.latest

    def good_enough(self) -> bool:
        """Early stopping, by numbers that are equal on all ranks."""
        stop_at, patience, counters = self.settings.stop_at, self.settings.patience, self.counters
        if stop_at is not None and counters.last is not None and counters.last >= stop_at:
            return True
        return patience is not None and counters.best is not None and counters.evaluated - counters.best_at >= patience

    def why_early(self) -> str:
        """Which setting has ended the run early."""
        stop_at, best = self.settings.stop_at, self.counters.best
        return f"evaluation.{'stop_at' if stop_at is not None and best is not None and best >= stop_at else 'patience'}"

    def _evaluate(self, episodes: int, final: bool = False) -> Evaluation:
        self.phases.start("evaluate")
        self.under_way = True
        with ExitStack() as stack:  # what networks change when they are called stays as training has left it
            stack.enter_context(self.settled())
            for module in self.algorithm.restless:
                stack.enter_context(kept_buffers(module))
            evaluation = self.algorithm.evaluate(episodes, final)
        self.under_way = False
        return evaluation

    def _look_at_episodes(self) -> dict[str, float]:
        """The metrics of the last evaluation's infos; tells, once, what a person should know of its episodes."""
        played, players = self._played, self.players
        if played is None or players is None:
            return {}
        if played.cut and self._first_time("cut"):
            of = f"{played.cut} of {len(played.returns)} episodes"
            self.say(f"{of} of an evaluation were cut after {players.max_steps:,} steps (evaluation.max_steps)")
        for name in players.settings.info_metrics:
            if name not in played.metrics and self._first_time(name):
                self.say(f"env.info_metrics: no episode of an evaluation had {name!r} in its last info")
        return {f"{name}_mean": value for name, value in played.metrics.items()}

    def _first_time(self, what: str) -> bool:
        """Whether it is the first time; the same on all ranks."""
        first = what not in self._told
        self._told.add(what)
        return first

    # -- playing -------------------------------------------------------------------------------------------------------

    def play(self, act: Act, episodes: int, final: bool) -> np.ndarray:
        """As `Context.play`."""
        environments, players, phases = self.environments, self.players, self.phases
        assert environments is not None and players is not None
        normalize = environments.normalize
        noise = None if self.settings.deterministic else self.algorithm.drawn_from
        draws = self.algorithm.act_sampled

        def act_on(observations: np.ndarray, drawn: np.ndarray | None) -> np.ndarray:
            phases.start("evaluate")  # once more: it shows that a long evaluation goes on
            seen = normalize(observations)
            return act(seen) if drawn is None else draws(seen, drawn)

        seeds = episode_seeds(self.seed, "final" if final else "evaluation", episodes)
        lent = environments.vector.state() if isinstance(players, TrainingEnvironments) else None
        try:
            self._played = players.play(act_on, seeds, self.agreement.listen_playing, noise)
        except StopHere:
            self._restore_training(lent)
            raise
        self._restore_training(lent)
        return self._played.returns

    def _restore_training(self, lent: dict[str, Any] | None) -> None:
        """After an evaluation in the environments of training, whose state was `lent`: it is put back."""
        if isinstance(self.players, TrainingEnvironments):
            assert self.environments is not None
            goes_on, begun = self.environments.restart_episodes(self.seed, self.counters.iteration, lent)
            self.algorithm.restart_episodes(goes_on, begun)
            if self._first_time("lent") and self.communicator.agree({"begun": float((~goes_on).sum())})["begun"]:
                self.say("after each evaluation training begins new episodes: the environments' state cannot be had")

    def close(self) -> None:
        if self.players is not None:
            self.players.close()


def make_players(attempt: Attempt, environments: Environments) -> Players:
    """What plays the evaluations; in environments of their own the first is made now: where none can be had beside
    those of training, that is told before anything is trained."""
    settings, evaluation = attempt.config.env, attempt.config.evaluation
    assert settings is not None
    if evaluation.environments == "training":
        limit = longest_episode(settings, evaluation.max_steps)
        return TrainingEnvironments(settings, attempt.communicator, environments.vector, limit)
    players = separate_environments(settings, attempt.communicator, evaluation.at_once)
    try:
        first = players.make()
    except Exception as error:  # whatever a simulator raises that is open already
        environments.close()
        raise BadInput(
            "evaluation.environments = 'own' needs environments beside those of training, but no other "
            f"{settings.id!r} can be made ({one_line(error)}); it may be 'training', to evaluate in these"
        ) from error
    players.max_steps = longest_episode(settings, evaluation.max_steps, first)
    return players
