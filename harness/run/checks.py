"""What is refused before a run starts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harness.algorithms import algorithm_class, is_users
from harness.envs import share_of
from harness.envs.backends.selection import check_backend
from harness.envs.inspection import close_spare, inspect_environment, inspected
from harness.errors import BadInput
from harness.lifecycle.checkpoints import checkpoint
from harness.lifecycle.lock import check_free
from harness.lifecycle.result import Result, read_result
from harness.lifecycle.run_directory import check_same_run, decisions, differing_keys, same_budget
from harness.schema import RunConfig

if TYPE_CHECKING:
    from harness.distributed.world import World


def default_run_dir(config: RunConfig) -> Path:
    return Path("runs") / f"{config.run.name}-seed{config.seed}"


def check(config: RunConfig, ranks: int, keeps: bool = False) -> None:
    """Refuses, before anything starts, what this machine or so many ranks cannot run. `keeps`: the environment that was
    looked at stays open, for the run to take it."""
    if ranks < 1:
        raise BadInput(f"--ranks must be >= 1, got {ranks}")
    if (config.sync.kind, config.compression.kind) != ("allreduce", "none"):
        from harness.distributed.sync import synchronizer_class  # torch, which a parent need not load otherwise

        synchronizer_class(config.sync, config.compression, ranks)
    if config.env is not None:
        share_of(config.env.count, 0, ranks)
        try:
            found = inspect_environment(config.env)
            config.algorithm.check_spaces(config, found.observation_space, found.action_space)
            if has_users_code(config):
                algorithm_class(config.algorithm.name).check(config, found.observation_space, found.action_space)
            check_backend(config.env)
        except BaseException:
            close_spare()
            raise
        if not keeps:
            close_spare()
    else:
        config.algorithm.check_data(config, ranks)
        if has_users_code(config):
            algorithm_class(config.algorithm.name).check_data(config, ranks)


def has_users_code(config: RunConfig) -> bool:
    """Whether a network or an algorithm of the user's own has to be tried: that alone needs torch."""
    return config.network.class_ is not None or is_users(config.algorithm.name)


def with_decisions(config: RunConfig, run_dir: Path, world: World, resume: str = "auto") -> RunConfig:
    """The config with what the run that goes on decided when it began, where ours leaves it open: another way of
    stepping or reducing could differ in the last bits."""
    found = decisions(run_dir, config.to_table(), resume)
    if world.place.launcher != "mpi" or world.device.type != "cpu":
        found.pop("sync.path", None)  # only there is there a choice
    for key, value in found.items():
        section, name = key.split(".")
        config = config.model_copy(update={section: getattr(config, section).model_copy(update={name: value})})
    return config


def finished(run_dir: Path, config: RunConfig, resume: str = "auto") -> Result | None:
    """The result of this very run where the directory holds it finished; BadInput where it holds another one."""
    check_same_run(run_dir, config.to_table())
    if resume not in ("auto", "never"):
        manifest = checkpoint.manifest_of(Path(resume).resolve(), state_alone=True)
        if manifest is None:
            raise BadInput(f"--resume must be auto, never, or the path of a whole checkpoint, got {resume}")
        differing = differing_keys(config.to_table(), manifest.get("config", config.to_table()))
        if differing:
            raise BadInput(f"--resume {resume} is a checkpoint of another run: {differing}")
    check_free(run_dir)
    result = read_result(run_dir)
    over = result is not None and result.status == "done" and same_budget(run_dir, config.to_table())
    return result if over and resume == "auto" else None


def notices(config: RunConfig) -> tuple[str, ...]:
    """What was noticed of the environment before the run."""
    found = inspected(config.env) if config.env is not None else None
    return () if found is None else found.notices
