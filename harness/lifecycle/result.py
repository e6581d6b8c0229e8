"""How a run ended: `result.json`, and the versions that it was made with."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from dataclasses import asdict, dataclass, field
from pathlib import Path

from harness.files import read_json, write_json
from harness.text import last_that_fit, one_line

PACKAGES = ("rl-harness", "torch", "horovod", "mpi4py", "gymnasium", "numpy")
SIMULATORS = ("envpool", "box2d", "box2d-py", "mujoco", "ale-py")
"""What `auto` backends and returns depend on, where they are installed."""

EXIT_CODES = {"done": 0, "pruned": 0, "stopped": 75, "failed": 1}


@dataclass(frozen=True)
class Result:
    """result.json: how a run ended. Its `status` is the truth, whatever exit code a launcher makes of it."""

    status: str
    """`done`, `pruned`, `stopped` or `failed`."""
    reason: str | None = None
    value: float | None = None
    attempt: int = 1
    hosts: list[str] = field(default_factory=list)
    env_steps: int = 0
    gradient_steps: int = 0
    wall_seconds: float = 0.0
    env_steps_per_second: float = 0.0
    ranks: int = 1
    sync_path: str | None = None
    sync_reason: str | None = None
    sync_keeps: dict[str, bool] = field(default_factory=dict)
    """Which principles hold by this way to agree: `replicas_equal`, `lockstep`, `same_experiment`."""
    eval_return_mean: float | None = None
    eval_return_std: float | None = None
    eval_episodes: int = 0
    eval_metrics: dict[str, float] = field(default_factory=dict)
    """Of `env.info_metrics`, such as `is_success_mean`."""
    best_return_mean: float | None = None
    seed: int = 0
    divergence: bool = False
    """The failure is a non-finite loss, reward or gradient."""
    failed_rank: int | None = None
    failed_host: str | None = None
    last_lines: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    git_commit: str | None = None

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.status]

    def write(self, run_dir: Path) -> None:
        write_json(run_dir / "result.json", asdict(self))


@dataclass(frozen=True)
class Made:
    """How far a run has come when it ends, in the words of a result."""

    env_steps: int = 0
    gradient_steps: int = 0
    wall_seconds: float = 0.0


def failed_result(
    reason: str, rank: int | None, host: str | None, lines: list[str], *, ranks: int, seed: int, made: Made = Made()
) -> Result:
    """Of a run that a rank, where one is known, has ended."""
    return Result(
        status="failed",
        reason=one_line(reason),
        env_steps=made.env_steps,
        gradient_steps=made.gradient_steps,
        wall_seconds=made.wall_seconds,
        env_steps_per_second=made.env_steps / made.wall_seconds if made.wall_seconds else 0.0,
        hosts=[host] if host else [],
        ranks=ranks,
        seed=seed,
        failed_rank=rank,
        failed_host=host,
        last_lines=list(last_that_fit(lines)),
        versions=versions(),
    )


def read_result(run_dir: Path) -> Result | None:
    found = read_json(run_dir / "result.json")
    if not isinstance(found, dict) or "status" not in found:
        return None
    return Result(**{key: value for key, value in found.items() if key in Result.__dataclass_fields__})


def versions() -> dict[str, str]:
    """Of Python and of the packages that are installed of those a run may depend on."""
    found = {"python": platform.python_version()}
    for name in (*PACKAGES, *SIMULATORS):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """The commit of the directory that this process works in, where it is a checkout."""
    try:
        shown = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return shown.stdout.strip() or None
