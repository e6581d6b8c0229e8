"""A run's loop: collect, update, evaluate, report, until done or told to stop.

Every rank walks through here side by side. What only one of them can know (a signal, a verdict, the clock) is agreed
once an iteration, by one collective, and acted on by all at the same boundary.
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from harness.algorithms import Algorithm, Context, Evaluation, algorithm_class
from harness.algorithms.base import Act
from harness.distributed.agreement import check_equal
from harness.distributed.sync import make_synchronizer
from harness.distributed.transports.base import Communicator
from harness.distributed.world import World
from harness.envs import Environments, make_environments
from harness.envs.backends.selection import agree_on_backend
from harness.envs.evaluation import (
    Played,
    Players,
    SeparateEnvironments,
    TrainingEnvironments,
    episode_seeds,
    longest_episode,
)
from harness.envs.factory import one_line
from harness.errors import BadInput, Diverged, EnvironmentFault, RanksDisagree, StopHere
from harness.files import write_text
from harness.lifecycle.elastic import Membership, RanksChange
from harness.lifecycle.result import Made, Result, git_commit, versions
from harness.lifecycle.run_directory import Start, prepare
from harness.lifecycle.signals import StopRequests
from harness.models.probing import kept_buffers
from harness.reporting import PhaseTimer, Reporter, Status, open_metrics, open_progress
from harness.run.checkpointer import Checkpointer
from harness.run.counters import Counters, counters_from
from harness.run.stopping import GO_ON, PRUNED, RANKS_CHANGE, STOP_REQUEST, STOP_VERDICT, SUPERSEDED, TIME_IS_UP
from harness.run.summary import with_problem
from harness.schema import RunConfig
from harness.training.batchnorm import agree_on_buffers
from harness.training.process import flushed_denormals, keep_freed_memory, set_threads

SMALL_NETWORK = 500_000
"""Parameters below which more than one thread a rank costs more than it brings."""


class Run:
    def __init__(
        self,
        config: RunConfig,
        run_dir: Path,
        world: World,
        communicator: Communicator,
        requests: StopRequests,
        spent: float = 0.0,
        membership: Membership | None = None,
    ) -> None:
        """`spent`: seconds of `run.max_minutes` that are over already, in attempts since the user's start."""
        self.config, self.run_dir, self.world, self.communicator = config, run_dir, world, communicator
        self.requests, self.membership = requests, membership
        self.rank = world.place.rank
        self.reporter = Reporter.from_environment(communicator)
        self.notices: list[str] = []
        """Lines for the user that are older than the run itself."""
        self.counters = Counters()
        self.phases = PhaseTimer()
        self.return_mean: float | None = None
        self.eval: Evaluation | None = None
        self.evaluating = False
        self.played: Played | None = None
        """The last evaluation's episodes, where it had any."""
        self.eval_metrics: dict[str, float] = {}
        """Of the infos of the final evaluation's episodes."""
        self.already: set[str] = set()
        """What was told that is told once."""
        self.began = time.monotonic()
        self.resumed_seconds = 0.0
        """Those of the attempts before this one."""
        self.spent = spent
        self.checkpointer: Checkpointer | None = None
        """None where nothing is kept."""
        self.host_of: list[str] = communicator.gather_objects(world.place.host)
        """By rank."""
        self.hosts = sorted(set(self.host_of))
        set_threads(config.run.threads or 1)
        keep_freed_memory()
        self.algorithm = self._build()
        self._settle_threads(self.algorithm.module)
        self.total_steps = self.algorithm.iterations * self.algorithm.env_steps_per_iteration

    def _build(self) -> Algorithm:
        config, environments = self.config, None
        self.synchronizer = make_synchronizer(config.sync, config.compression, self.world.mesh)
        if config.env is not None:
            gamma = float(getattr(config.algorithm, "gamma", 0.99))
            chosen = agree_on_backend(config.env, self.communicator, self.world.cores, self.world.device.type)
            rank, size = self.communicator.rank, self.communicator.size
            environments = make_environments(chosen, rank, size, gamma, self.world.cores)
        self.environments = environments
        self.players = None if environments is None else self._make_players(environments)
        own = config, self.communicator, self.world.device, self.phases, environments, self._play, self._settle_threads
        return algorithm_class(config.algorithm.name)(Context(*own, self._listen, self.world.mesh, self.synchronizer))

    def _make_players(self, environments: Environments) -> Players:
        """What plays the evaluations; in environments of their own the first is made now: where none can be had beside
        those of training, that is told before anything is trained."""
        settings, evaluation = self.config.env, self.config.evaluation
        assert settings is not None
        players: Players
        if evaluation.environments == "training":
            players = TrainingEnvironments(settings, self.communicator, environments.vector)
            players.max_steps = longest_episode(settings, evaluation.max_steps)
        else:
            players = SeparateEnvironments(settings, self.communicator, evaluation.at_once)
            try:
                first = players.make()
            except Exception as error:  # whatever a simulator raises that is open already
                environments.close()
                raise BadInput(
                    "evaluation.environments = 'own' needs environments beside those of training, but no other "
                    f"{settings.id!r} can be made ({one_line(error)}); it may be 'training', to evaluate in these"
                ) from error
            players.max_steps = longest_episode(settings, evaluation.max_steps, first)
        if evaluation.max_steps is None and players.max_steps is not None:
            self.notices.append(
                f"{settings.id} has no time limit: episodes of evaluations are cut after {players.max_steps:,} steps "
                "(evaluation.max_steps)"
            )
        if not evaluation.deterministic:
            self.notices.append("evaluations draw their actions (evaluation.deterministic = false)")
        return players

    def _settle_threads(self, module: nn.Module) -> None:
        if self.config.run.threads is None:
            small = sum(parameter.numel() for parameter in module.parameters()) < SMALL_NETWORK
            set_threads(1 if small else self.world.cores)

    def _play(self, act: Act, episodes: int, final: bool) -> np.ndarray:
        environments, players, phases = self.environments, self.players, self.phases
        assert environments is not None and players is not None
        normalize = environments.normalize
        noise = None if self.config.evaluation.deterministic else self.algorithm.drawn_from
        draws = self.algorithm.act_sampled

        def act_on(observations: np.ndarray, drawn: np.ndarray | None) -> np.ndarray:
            phases.start("evaluate")  # once more: it shows that a long evaluation goes on
            seen = normalize(observations)
            return act(seen) if drawn is None else draws(seen, drawn)

        seeds = episode_seeds(self.config.seed, "final" if final else "evaluation", episodes)
        lent = environments.vector.state() if isinstance(players, TrainingEnvironments) else None
        try:
            self.played = players.play(act_on, seeds, self._listen_playing, noise)
        except StopHere:
            self._restore_training(lent)
            raise
        self._restore_training(lent)
        return self.played.returns

    def _restore_training(self, lent: dict[str, Any] | None) -> None:
        """After an evaluation in the environments of training, whose state was `lent`: they go on from it."""
        if isinstance(self.players, TrainingEnvironments):
            assert self.environments is not None
            goes_on, begun = self.environments.restart_episodes(self.config.seed, self.counters.iteration, lent)
            self.algorithm.restart_episodes(goes_on, begun)
            if self._first_time("lent") and self.communicator.agree({"begun": float((~goes_on).sum())})["begun"]:
                self._say("after each evaluation training begins new episodes: the environments' state cannot be had")

    def _listen_playing(self, busy: bool) -> bool:
        """Whether any rank still plays; StopHere where the ranks agree to break off, unless all have played."""
        agreed = self._agree(playing=float(busy))
        if agreed["playing"] and agreed["reason"] != GO_ON:
            raise StopHere(int(agreed["reason"]))
        return bool(agreed["playing"])

    def _listen(self, most: float) -> float:
        """As `Context.listen`."""
        agreed = self._agree(most=most)
        if agreed["reason"] != GO_ON:
            raise StopHere(int(agreed["reason"]))
        return agreed["most"]

    def _first_time(self, what: str) -> bool:
        """Whether it is the first time; the same on all ranks."""
        first = what not in self.already
        self.already.add(what)
        return first

    # -- from start to end ---------------------------------------------------------------------------------------------

    def go(self, resume: str) -> Result:
        self._open(resume)
        self.requests.starting = False  # from here on there is something to keep
        try:
            result = self._train()
        except BadInput as error:  # it was good when the run began
            raise RuntimeError(str(error)) from error
        except (Diverged, RanksDisagree, EnvironmentFault) as error:  # raised by all ranks alike
            diverged = isinstance(error, Diverged)
            if self.checkpointer is not None:
                self.checkpointer.settle()
            result = self.result("failed", str(error), self.reporter.last_value if diverged else None, diverged)
            if isinstance(error, (RanksDisagree, EnvironmentFault)):
                result = replace(result, failed_rank=error.rank, failed_host=self.host_of[error.rank])
        finally:
            if self.checkpointer is not None:
                self.checkpointer.close()
            self.metrics.close()
            self.progress.close()
            if self.players is not None:
                self.players.close()
            self.algorithm.close()
        self.write(result)
        return result

    def _train(self) -> Result:
        """Iterations until the budget is used up, or the ranks agree to end before; then what is done at the end."""
        counters = self.counters
        reason = GO_ON
        try:
            while reason == GO_ON and self._goes_on():
                if counters.pending is None:
                    counters.pending = self.iterate()
                self.stop_clock()
                reason = self.account(self._evaluate_where_due(counters.pending))
            self._settle_policy()
            return self._conclude(reason)
        except StopHere as stop:  # raised by all ranks alike
            self.stop_clock()
            where = "in an evaluation, which is made again when the run goes on" if self.evaluating else None
            return self._conclude(stop.reason, where)

    def stop_clock(self) -> None:
        """The run has taken so many seconds up to now, of all its attempts together."""
        self.counters.seconds = self.resumed_seconds + time.monotonic() - self.began

    def iterate(self) -> dict[str, float]:
        """The next iteration, counted; its metrics."""
        counters = self.counters
        self.phases.start("rest")
        with flushed_denormals():
            done = self.algorithm.iterate(counters.iteration)
        for module in self.algorithm.restless:
            agree_on_buffers(module, self.communicator, samples=1)
        counters.env_steps += done.env_steps
        counters.gradient_steps += done.gradient_steps
        if done.cut is not None:
            if self.checkpointer is not None:
                self.checkpointer.iteration = -1  # what there is of this iteration has no checkpoint yet
            raise StopHere(done.cut)
        counters.iteration += 1
        self.return_mean = done.metrics.get("return_mean", self.return_mean)
        self.phases.start("rest")
        return done.metrics

    def account(self, metrics: dict[str, float]) -> int:
        """What follows every iteration: its metrics are written, progress is shown, and the ranks agree whether to go
        on."""
        counters = self.counters
        metrics = {**metrics, "seconds": counters.seconds}
        if self.membership is not None:
            metrics["ranks"] = self.communicator.size
        problem = self.metrics.log(counters.iteration, metrics, counters.env_steps)
        if problem is not None:
            self._say(problem)
        counters.pending = None
        if counters.iteration % self.config.sync.check_every == 0:
            self.synchronizer.check(self._parameters())
        self._show()
        reason = int(self._agree()["reason"])
        if self.checkpointer is not None and self.checkpointer.ready:
            self._save()
        return reason

    def write(self, result: Result) -> None:
        """On rank 0: result.json, unless a newer attempt of this trial writes its own."""
        if self.rank == 0 and not self.reporter.superseded():
            result.write(self.run_dir)

    def _open(self, resume: str) -> None:
        """Rank 0 prepares the directory; all ranks load the checkpoint that it names."""
        start = Start(None, [])
        if self.rank == 0:
            start = prepare(self.run_dir, resume)
            write_text(self.run_dir / "config.toml", self.resolved().to_toml())
        start = self.communicator.broadcast_object(start)
        self.progress = open_progress(
            self.config.run.name,
            self.world.place,
            self.run_dir,
            has_parent=bool(os.environ.get("HARNESS_HAS_PARENT")),
            every=self.config.logging.every_seconds,
        )
        if self.rank == 0:
            self.progress.say(self.first_line())
            if self.environments is not None and self.environments.vector.notice is not None:
                self.progress.say(self.environments.vector.notice)
            for notice in (*self.algorithm.notices(), *self.notices, *start.notices):
                self.progress.say(notice)
        self.checkpointer = Checkpointer(
            self.resolved(),
            self.run_dir / "checkpoints",
            self.algorithm,
            self.environments,
            self.communicator,
            self._say,
            lambda: self.metrics.sync(),
        )
        if start.checkpoint is not None:
            self.counters = counters_from(self.checkpointer.restore(start.checkpoint, start.state_alone))
            # how many there were by now, had the budget always been the present one
            done = self.counters.iteration - (self.counters.pending is not None)
            self.counters.evaluations = done * self.config.evaluation.count // self.algorithm.iterations
        counters = self.counters
        self.resumed_seconds = counters.seconds
        written = counters.pending is None  # else the last iteration's metrics come with its evaluation
        last = (counters.iteration, counters.env_steps) if written else (counters.iteration - 1, counters.env_steps - 1)
        self.metrics = open_metrics(self.run_dir, self.rank, self.config.logging.tensorboard, *last)

    def resolved(self) -> RunConfig:
        """The config with all that `auto` came to be, so that a repeat takes the same."""
        config = self.config
        compiled, products = self.algorithm.compiled, config.compile.products
        if compiled is not None and products == "auto":
            products = compiled.products
        mode = "off" if compiled is None else "on"
        changes: dict[str, object] = {
            "run": config.run.model_copy(update={"threads": torch.get_num_threads()}),
            "compile": config.compile.model_copy(update={"mode": mode, "products": products}),
        }
        if self.communicator.size > 1:
            changes["sync"] = config.sync.model_copy(update={"path": self.communicator.path})
        if config.env is not None and self.environments is not None:
            changes["env"] = self.environments.settings
        return config.model_copy(update=changes)

    def first_line(self) -> str:
        """The run in a line: its ranks, their path and why, device, threads, precision."""
        config, place = self.config, self.world.place
        ranks = f"{place.size} rank{'s' if place.size > 1 else ''} on {', '.join(self.hosts)}"
        sync = f"sync {self.communicator.path} ({self.world.reason})"
        if not self.synchronizer.same_experiment:
            sync += ", which makes N ranks another experiment than one"
        share = f"{torch.get_num_threads()} thread{'s' if torch.get_num_threads() > 1 else ''} a rank"
        return f"{config.run.name}: {ranks}, {sync}, {self.world.device}, {share}, {config.precision.kind}"

    # -- in the loop ---------------------------------------------------------------------------------------------------

    def _evaluate_where_due(self, metrics: dict[str, float]) -> dict[str, float]:
        """Evaluation k of K is due after the iteration that reaches k/K of the budget; the metrics with its own."""
        counters, count = self.counters, self.config.evaluation.count
        reached = counters.iteration * count // self.algorithm.iterations
        if reached > counters.evaluations:
            self.phases.start("evaluate")
            self.eval = self._evaluate(self.config.evaluation.episodes)
            metrics = {**metrics, "eval_return_mean": self.eval.mean, "eval_return_std": self.eval.std}
            metrics |= {f"eval_{name}": value for name, value in self._look_at_episodes().items()}
            counters.evaluated += 1
            better = counters.best is None or self.eval.mean > counters.best
            if better:
                counters.best, counters.best_at = self.eval.mean, counters.evaluated
            self.algorithm.on_evaluation(self.eval)
            for number in range(counters.evaluations + 1, reached + 1):
                self.reporter.report(number, self.eval.mean, counters.env_steps)
            counters.evaluations = reached
            counters.last = self.eval.mean
            if self.checkpointer is not None:
                self.checkpointer.due, self.checkpointer.best = True, better
            self.phases.start("rest")
        return metrics

    def _evaluate(self, episodes: int, final: bool = False) -> Evaluation:
        self.evaluating = True
        self.synchronizer.settle()
        with ExitStack() as stack:  # what networks change when they are called stays as training has left it
            for module in self.algorithm.restless:
                stack.enter_context(kept_buffers(module))
            evaluation = self.algorithm.evaluate(episodes, final)
        self.evaluating = False
        return evaluation

    def _look_at_episodes(self) -> dict[str, float]:
        """The metrics of the last evaluation's infos; tells, once, what a person should know of its episodes."""
        played, players = self.played, self.players
        if played is None or players is None:
            return {}
        if played.cut and self._first_time("cut"):
            of = f"{played.cut} of {len(played.returns)} episodes"
            self._say(f"{of} of an evaluation were cut after {players.max_steps:,} steps (evaluation.max_steps)")
        for name in players.settings.info_metrics:
            if name not in played.metrics and self._first_time(name):
                self._say(f"env.info_metrics: no episode of an evaluation had {name!r} in its last info")
        return {f"{name}_mean": value for name, value in played.metrics.items()}

    def _save(self) -> None:
        """A checkpoint, unless the ranks disagree: a later start would trust it."""
        assert self.checkpointer is not None
        self.phases.start("checkpoint")
        self._settle_policy()
        self.checkpointer.save(self.counters.iteration, self.counters.env_steps, asdict(self.counters))
        self.phases.start("rest")

    def _settle_policy(self) -> None:
        """One policy on all ranks, to the bit; collective."""
        self.synchronizer.settle()
        check_equal(self.communicator, self._parameters())

    def _say(self, line: str) -> None:
        if self.rank == 0:
            self.progress.say(line)

    def _goes_on(self) -> bool:
        """Whether the budget and early stopping leave an iteration to make, or one to be evaluated and accounted."""
        counters = self.counters
        more = counters.iteration < self.algorithm.iterations and not self._good_enough()
        return counters.pending is not None or more

    def _good_enough(self) -> bool:
        """Early stopping, by numbers that are equal on all ranks."""
        settings, counters = self.config.evaluation, self.counters
        if settings.stop_at is not None and counters.last is not None and counters.last >= settings.stop_at:
            return True
        waited = counters.evaluated - counters.best_at
        return settings.patience is not None and counters.best is not None and waited >= settings.patience

    def _agree(self, **others: float) -> dict[str, float]:
        """`reason`, why to end now, as the ranks agree: any rank's signal, rank 0's clock, rank 0's look at the
        verdict; and the largest of each of `others`."""
        mine = STOP_REQUEST if self.requests.received else GO_ON
        if self.membership is not None and self.membership.changed:
            mine = max(mine, RANKS_CHANGE)
        limit = self.config.run.max_minutes
        if self.rank == 0 and limit is not None and time.monotonic() - self.began + self.spent > 60 * limit:
            mine = max(mine, TIME_IS_UP)
        verdict = self.reporter.poll()
        if verdict is not None:
            mine = max(mine, {"pruned": PRUNED, "superseded": SUPERSEDED}.get(verdict, STOP_VERDICT))
        agenda = {} if self.checkpointer is None else self.checkpointer.agenda()
        agreed = self.world.mesh.control.agree({"reason": mine, **others, **agenda}, "max")
        if self.checkpointer is not None:
            self.checkpointer.on_agreement(agreed)
        return agreed

    def _show(self) -> None:
        counters = self.counters
        if self.rank != 0:
            return
        left = self.total_steps - counters.env_steps
        self.progress.update(
            Status(
                env_steps=counters.env_steps,
                total_steps=self.total_steps,
                env_steps_per_second=counters.env_steps / counters.seconds if counters.seconds else 0.0,
                seconds=counters.seconds,
                ranks=self.communicator.size,
                sync_path=self.communicator.path,
                eta_seconds=counters.seconds * left / counters.env_steps,
                return_mean=self.return_mean,
                eval_mean=None if self.eval is None else self.eval.mean,
                best=counters.best,
                phase_shares=self.phases.shares(),
            )
        )

    # -- the end -------------------------------------------------------------------------------------------------------

    def _conclude(self, reason: int, where: str | None = None) -> Result:
        """`where`: in the middle of what the run ended."""
        assert self.checkpointer is not None
        if reason == RANKS_CHANGE:
            self._save()
            self.checkpointer.settle()
            raise RanksChange
        if reason in (PRUNED, SUPERSEDED):
            self.checkpointer.settle()
        if reason == PRUNED:
            return self.result("pruned", "pruned by the study", self.reporter.last_value)
        if reason == SUPERSEDED:
            return self.result("stopped", "a newer attempt of this trial runs")
        if reason != GO_ON:
            self._save()
            problem = self.checkpointer.settle()
            if problem is not None:  # of a save that was in flight, perhaps
                self._save()
                problem = self.checkpointer.settle()
            received = self.communicator.gather_objects(self.requests.received)
            names = ", ".join(sorted({name for name in received if name})) or "signal"
            why = {STOP_REQUEST: f"stop requested ({names})", TIME_IS_UP: "run.max_minutes is over"}
            notices = why.get(reason, "stopped by the study") + (f" {where}" if where else "")
            return self.result("stopped", with_problem(notices, problem))
        self._save()
        self.phases.start("evaluate")
        self.eval = self._evaluate(self.config.evaluation.final_episodes, final=True)
        self.eval_metrics = self._look_at_episodes()
        problem = self.checkpointer.settle()
        self.phases.stop()
        early = self.counters.iteration < self.algorithm.iterations
        why_early = f"evaluation.{'stop_at' if self._reached_stop_at() else 'patience'}"
        return self.result("done", with_problem(why_early if early else None, problem), self.eval.mean)

    def _reached_stop_at(self) -> bool:
        stop_at, best = self.config.evaluation.stop_at, self.counters.best
        return stop_at is not None and best is not None and best >= stop_at

    def _parameters(self) -> torch.Tensor:
        return torch.nn.utils.parameters_to_vector(self.algorithm.module.parameters())

    def made(self) -> Made:
        """How far it has come by now."""
        self.stop_clock()
        return Made(self.counters.env_steps, self.counters.gradient_steps, self.counters.seconds)

    def result(self, status: str, reason: str | None, value: float | None = None, divergence: bool = False) -> Result:
        counters = self.counters
        return Result(
            status=status,
            reason=reason,
            value=value,
            attempt=self.reporter.trial.attempt if self.reporter.trial is not None else 1,
            hosts=self.hosts,
            env_steps=counters.env_steps,
            gradient_steps=counters.gradient_steps,
            wall_seconds=counters.seconds,
            env_steps_per_second=counters.env_steps / counters.seconds if counters.seconds else 0.0,
            ranks=self.communicator.size,
            sync_path=self.communicator.path,
            sync_reason=self.world.reason,
            eval_return_mean=None if self.eval is None else self.eval.mean,
            eval_return_std=None if self.eval is None else self.eval.std,
            eval_episodes=0 if self.eval is None else len(self.eval.returns),
            eval_metrics=self.eval_metrics,
            best_return_mean=counters.best,
            seed=self.config.seed,
            divergence=divergence,
            versions=versions(),
            git_commit=git_commit(),
        )
