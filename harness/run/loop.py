"""A run's loop: collect, update, evaluate, report, until done or told to stop.

Every rank walks through here side by side; what only one of them can know is agreed by all, see `stopping`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace

import torch

from harness.algorithms import Algorithm, Context, algorithm_class
from harness.cluster.load import busy_notice
from harness.distributed.agreement import check_equal
from harness.distributed.sync import make_synchronizer
from harness.envs import Environments, make_environments
from harness.envs.backends.selection import agree_on_backend
from harness.errors import BadInput, Diverged, EnvironmentFault, RanksDisagree, StopHere
from harness.files import write_text
from harness.lifecycle.result import Made, Result
from harness.lifecycle.run_directory import Start, prepare
from harness.reporting import PhaseTimer, Reporter, Trial, open_metrics, open_progress
from harness.run.attempt import Attempt
from harness.run.checkpointer import Checkpointer
from harness.run.counters import Counters
from harness.run.ending import conclude
from harness.run.evaluation import Evaluations
from harness.run.stopping import StopAgreement, StopReason
from harness.run.summary import first_line, resolved, result, status
from harness.training.batchnorm import agree_on_buffers
from harness.training.process import flushed_denormals, keep_freed_memory, set_threads, settle_threads


class Run:
    def __init__(self, attempt: Attempt) -> None:
        self.attempt, self.config, self.run_dir = attempt, attempt.config, attempt.run_dir
        self.world, self.communicator, self.rank = attempt.world, attempt.communicator, attempt.rank
        self.mesh = self.world.mesh
        self.reporter = Reporter(Trial.of(attempt.handshake), self.communicator)
        self.agreement = StopAgreement(attempt, self.reporter)
        self.counters, self.phases = Counters(), PhaseTimer()
        self.return_mean: float | None = None
        self.began = time.monotonic()
        self.resumed_seconds = 0.0
        """Those of the attempts before this one."""
        self.checkpointer: Checkpointer | None = None
        """None where nothing is kept."""
        self.notices: list[str] = []
        """Lines for the user that are older than the run itself."""
        self.host_of: list[str] = self.communicator.gather_objects(self.world.place.host)
        """By rank."""
        self.hosts = sorted(set(self.host_of))
        self.synchronizer = make_synchronizer(
            self.config.sync, self.config.compression, self.world.mesh, self.config.seed
        )
        set_threads(self.config.run.threads or 1)
        keep_freed_memory()
        self.notices += self._busy_notice()  # before there are workers, whose start is our own
        self.environments = self._make_environments()
        own = attempt, self.environments, self.counters, self.agreement, self.phases
        self.evaluations = Evaluations(*own, self.say, self.settled_policy)
        self.notices += self.evaluations.notices()
        self.algorithm = self.evaluations.algorithm = self._build()
        self._settle_threads(self.algorithm.module)
        self.total_steps = self.algorithm.iterations * self.algorithm.env_steps_per_iteration

    def _make_environments(self) -> Environments | None:
        config, data, world = self.config, self.mesh.data, self.world
        if config.env is None:
            return None
        gamma = float(getattr(config.algorithm, "gamma", 0.99))
        chosen = agree_on_backend(config.env, self.communicator, world.cores, world.device.type)
        return make_environments(chosen, data.rank, data.size, gamma, world.cores)

    def _build(self) -> Algorithm:
        parts = self.config, self.communicator, self.world.device, self.phases, self.environments
        calls = self.evaluations.play, self._settle_threads, self.agreement.listen
        context = Context(*parts, *calls, self.mesh, self.synchronizer)
        return algorithm_class(self.config.algorithm.name)(context)

    def _settle_threads(self, module: torch.nn.Module) -> None:
        if self.config.run.threads is None:
            settle_threads(module, self.world.cores)

    def _busy_notice(self) -> list[str]:
        usages = self.communicator.gather_objects(self.world.load.usage(self.world.place.host))
        notice = busy_notice(usages, torch.get_num_threads())
        return [] if notice is None else [notice]

    # -- from start to end ---------------------------------------------------------------------------------------------

    def go(self) -> Result:
        self._open()
        self.attempt.requests.starting = False  # from here on there is something to keep
        try:
            ended = self._train()
        except BadInput as error:  # it was good when the run began
            raise RuntimeError(str(error)) from error
        except (Diverged, RanksDisagree, EnvironmentFault) as error:  # raised by all ranks alike
            ended = self._failed(error)
        finally:
            self._close()
        self.write(ended)
        return ended

    def _train(self) -> Result:
        """Iterations until the budget is used up, or the ranks agree to end before; then what is done at the end."""
        counters, reason = self.counters, StopReason.GO_ON
        try:
            while reason == StopReason.GO_ON and self._goes_on():
                if counters.pending is None:
                    counters.pending = self.iterate()
                self.stop_clock()
                reason = self.account(self._evaluate_where_due(counters.pending))
            return conclude(self, reason)
        except StopHere as stop:  # raised by all ranks alike
            self.stop_clock()
            under_way = self.evaluations.under_way
            where = "in an evaluation, which is made again when the run goes on" if under_way else None
            return conclude(self, stop.reason, where)

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

    def account(self, metrics: dict[str, float]) -> StopReason:
        """What follows every iteration: its metrics are written, progress is shown, and the ranks agree whether to go
        on."""
        counters = self.counters
        metrics = {**metrics, "seconds": counters.seconds}
        if self.attempt.membership is not None:
            metrics["ranks"] = self.communicator.size
        problem = self.metrics.log(counters.iteration, metrics, counters.env_steps)
        if problem is not None:
            self.say(problem)
        counters.pending = None
        if counters.iteration % self.config.sync.check_every == 0:
            self.synchronizer.check(self._parameters())
        if self.mesh.speaks:
            self.progress.update(status(self))
        reason = self.agreement.reason()
        if self.checkpointer is not None and self.checkpointer.ready:
            self.save()
        return reason

    def _goes_on(self) -> bool:
        """Whether the budget and early stopping leave an iteration to make, or one to be evaluated and accounted."""
        counters = self.counters
        more = counters.iteration < self.algorithm.iterations and not self.evaluations.good_enough()
        return counters.pending is not None or more

    def _evaluate_where_due(self, metrics: dict[str, float]) -> dict[str, float]:
        """An iteration's metrics, with those of the evaluation that follows it."""
        number = self.evaluations.due()
        if not number:
            return metrics
        found, best = self.evaluations.make(number, self.reporter.report)
        if self.checkpointer is not None:
            self.checkpointer.due, self.checkpointer.best = True, best
        self.phases.start("rest")
        return {**metrics, **found}

    def save(self) -> None:
        """A checkpoint, unless the ranks disagree: a later start would trust it."""
        assert self.checkpointer is not None
        self.phases.start("checkpoint")
        self.synchronizer.check(self._parameters())
        self.checkpointer.save(self.counters.iteration, self.counters.env_steps, asdict(self.counters))
        self.phases.start("rest")

    @contextmanager
    def settled_policy(self) -> Iterator[None]:
        """Collective: meanwhile there is one policy on all ranks, to the bit."""
        with self.synchronizer.settled():
            check_equal(self.mesh.data, self._parameters())
            yield

    def _parameters(self) -> torch.Tensor:
        return torch.nn.utils.parameters_to_vector(self.algorithm.module.parameters())

    def stop_clock(self) -> None:
        """The run has taken so many seconds up to now, of all its attempts together."""
        self.counters.seconds = self.resumed_seconds + time.monotonic() - self.began

    def say(self, line: str) -> None:
        if self.mesh.speaks:
            self.progress.say(line)

    # -- its start and its end -----------------------------------------------------------------------------------------

    def _open(self) -> None:
        """The rank that speaks prepares the directory; all ranks load the checkpoint that it names."""
        start, config = Start(None, []), resolved(self)
        if self.mesh.speaks:
            start = prepare(self.run_dir, self.attempt.resume)
            write_text(self.run_dir / "config.toml", config.to_toml())
        start = self.communicator.broadcast_object(start)
        shown = self.config.run.name, self.world.place, self.run_dir, self.attempt.handshake.has_parent
        self.progress = open_progress(*shown, every=self.config.logging.every_seconds)
        if self.mesh.speaks:
            stepped_by = None if self.environments is None else self.environments.vector.notice
            first = [first_line(self)] + ([] if stepped_by is None else [stepped_by])
            for line in (*first, *self.algorithm.notices(), *self.notices, *start.notices):
                self.progress.say(line)
        kept = self.run_dir / "checkpoints", self.algorithm, self.environments, self.communicator, self.synchronizer
        self.checkpointer = Checkpointer(config, *kept, self.say, lambda: self.metrics.sync())
        self.agreement.checkpointer = self.checkpointer
        if start.checkpoint is not None:
            progress = self.checkpointer.restore(start.checkpoint, start.state_alone)
            self.counters.restore(progress, self.config.evaluation.count, self.algorithm.iterations)
        self.resumed_seconds = self.counters.seconds
        self.metrics = open_metrics(self.run_dir, self.rank, self.config.logging.tensorboard, *self.counters.written)

    def _failed(self, error: Diverged | RanksDisagree | EnvironmentFault) -> Result:
        """The result of what all ranks have agreed to fail of."""
        if self.checkpointer is not None:
            self.checkpointer.settle()
        if isinstance(error, Diverged):
            return result(self, "failed", str(error), self.reporter.last_value, divergence=True)
        failed = result(self, "failed", str(error))
        return replace(failed, failed_rank=error.rank, failed_host=self.host_of[error.rank])

    def _close(self) -> None:
        if self.checkpointer is not None:
            self.checkpointer.close()
        self.metrics.close()
        self.progress.close()
        self.evaluations.close()
        self.algorithm.close()

    def write(self, ended: Result) -> None:
        """By the rank that speaks: result.json, unless a newer attempt of this trial writes its own."""
        if self.mesh.speaks and not self.reporter.superseded():
            ended.write(self.run_dir)

    def made(self) -> Made:
        """How far it has come by now."""
        self.stop_clock()
        return Made(self.counters.env_steps, self.counters.gradient_steps, self.counters.seconds)
