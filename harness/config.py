"""A run's settings, whole: `load_run_config("ppo-cartpole", ["optimizer.lr=0.001"])`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import pydantic
import tomli_w
from pydantic import Field

from harness.algorithms import AlgorithmSettings, algorithm_class
from harness.envs.settings import EnvSettings
from harness.errors import BadInput
from harness.settings import Settings, apply_overrides, load_toml, table_of, unknown_key, validate
from harness.training.compiled import CompileSettings
from harness.training.optimizers import OptimizerSettings
from harness.training.precision import PrecisionSettings


class RunSettings(Settings):
    name: str = Field("run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """What the run is called; its directory is `runs/NAME-seedS` unless `--output` says otherwise."""
    steps: int | None = Field(None, ge=1)
    """The budget, in environment steps of all ranks together; whole rollouts that fit into it are made. Absent where
    the algorithm has a budget of its own (supervised: `algorithm.epochs`)."""
    max_minutes: float | None = Field(None, gt=0)
    """Minutes after which the run stops with a checkpoint, by itself: of one start by the user, whatever starts the
    ranks again in between."""
    stop_seconds: float = Field(60.0, gt=0)
    """Seconds that the ranks have, once the parent of `--ranks` was asked to stop, to reach a boundary and write a
    checkpoint; it ends them then. A cluster's warning should come some 20 s earlier than that before its end."""
    max_restarts: int = Field(0, ge=0)
    """How often the parent of `--ranks` starts the run again from its last checkpoint when a rank died."""
    hang_seconds: float = Field(600.0, ge=10.0)
    """Seconds without progress on any rank after which the parent of `--ranks` ends the run and names the rank that the
    others wait for. Raise it where a single environment step, minibatch or compilation may take longer. A rank that is
    stopped, or whose host is lost, is noticed after 10 s whatever stands here."""
    threads: int | None = Field(None, ge=1)
    """torch threads per rank; unset: 1 for small networks, otherwise this rank's share of the cores."""


class NetworkSettings(Settings):
    model_config = pydantic.ConfigDict(**{**Settings.model_config, "populate_by_name": True})

    kind: Literal["auto", "mlp", "cnn"] = "auto"
    """`mlp`: layers of `hidden` widths on the observation as a vector. `cnn`: the convolutions of Mnih et al. (2015)
    and layers of `cnn_hidden` widths, with ReLU, which policy and value share. `auto`: `cnn` for images of bytes of at
    least 36 x 36 pixels."""
    cnn_hidden: list[int] = [512]
    """Widths of the layers after the convolutions."""
    hidden: list[int] = Field([64, 64])
    """Widths of the hidden layers, the same for policy and value, which share no weights. Of supervised learning on
    images: channels of the convolutions."""
    activation: Literal["tanh", "relu", "elu", "silu"] = "tanh"
    """The non-linearity between layers."""
    class_: str | None = Field(None, alias="class")
    """A network of your own, `module:Class`; built as `Class(observation_space, action_parameters, **kwargs)`, and its
    `forward(observations)` returns `(action_parameters, values)` of shapes `(batch, action_parameters)` and
    `(batch,)`. For supervised learning `Class(input_shape, classes, **kwargs)`, and it returns `(batch, classes)`."""
    kwargs: dict[str, Any] = {}
    """Keyword arguments for `class`."""

    @pydantic.field_validator("hidden", "cnn_hidden")
    @classmethod
    def widths_are_positive(cls, hidden: list[int]) -> list[int]:
        if any(width < 1 for width in hidden):
            raise ValueError("must be a list of widths >= 1, such as [64, 64]")
        return hidden


class SyncSettings(Settings):
    kind: Literal["allreduce"] = "allreduce"
    """How ranks agree on a step: one all-reduce of the flat gradient."""
    path: Literal["auto", "horovod", "mpi"] = "auto"
    """What carries the all-reduce: `horovod`, the reference path, or `mpi`, mpi4py in place. `auto` times both at the
    start and takes the quicker, where both can be had."""
    check_every: int = Field(50, ge=1)
    """Iterations between checks that all ranks hold bit-equal parameters."""


class CheckpointSettings(Settings):
    every_minutes: float = Field(5.0, gt=0)
    """Minutes between checkpoints, beside those that follow evaluations."""
    keep: int = Field(2, ge=1)
    """How many of the newest checkpoints are kept, beside the best."""


class EvaluationSettings(Settings):
    count: int = Field(10, ge=1)
    """Evaluations in a run, at equal fractions of its budget. Reports to a search are numbered 1 … count."""
    episodes: int = Field(10, ge=1)
    """Episodes of each evaluation, over all ranks."""
    final_episodes: int = Field(100, ge=1)
    """Episodes of the evaluation of the final policy, whose mean is the run's value."""
    stop_at: float | None = None
    """End the run early once an evaluation's mean return is at least this."""
    deterministic: bool = True
    """Evaluate the policy's likeliest actions. Off: actions drawn as in training, of `dqn` with its present ε; `td3`'s
    policy draws nothing."""
    max_steps: int | None = Field(None, ge=1)
    """Steps after which an evaluation's episode is cut, and counts as it is. Unset: never where the environment has a
    time limit of its own, else 100,000, which a line tells."""
    at_once: int = Field(16, ge=1)
    """Episodes that a rank plays side by side, each in an environment of its own, which is made when it is first needed
    and kept for later evaluations."""
    environments: Literal["own", "training"] = "own"
    """`own`: environments that are made for evaluations, beside those of training. `training`: those of training
    themselves, all of a rank at once, for simulators that can be open once. Training goes on in them as if nothing had
    been; where their state cannot be had, it begins new episodes after each evaluation, which a line tells."""
    patience: int | None = Field(None, ge=1)
    """End the run early after so many evaluations without a better mean."""


class LoggingSettings(Settings):
    tensorboard: bool = True
    """Write the series of metrics.jsonl for TensorBoard too."""
    every_seconds: float = Field(10.0, ge=1.0)
    """Seconds between lines of progress where there is no terminal."""


class RunConfig(Settings):
    seed: int = Field(0, ge=0, le=2**63 - 1)
    """All that is random follows from it and from global indices of environments, never from the rank."""
    run: RunSettings = RunSettings()
    env: EnvSettings | None = None
    algorithm: pydantic.SerializeAsAny[AlgorithmSettings]
    network: NetworkSettings = NetworkSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    precision: PrecisionSettings = PrecisionSettings()
    sync: SyncSettings = SyncSettings()
    compile: CompileSettings = CompileSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    logging: LoggingSettings = LoggingSettings()

    @pydantic.model_validator(mode="after")
    def sections_fit_together(self) -> RunConfig:
        self.algorithm.check(self)
        return self

    def to_table(self) -> dict[str, Any]:
        return table_of(self)

    def to_toml(self) -> str:
        """The resolved config; `harness train` on it repeats the run."""
        return tomli_w.dumps(self.to_table())


def resolve(table: Mapping[str, Any], source: str = "") -> RunConfig:
    """`table` checked and filled with defaults; the algorithm's own settings are looked up by `algorithm.name`."""
    table = dict(table)
    section = table.get("algorithm")
    if not isinstance(section, Mapping) or "name" not in section:
        raise BadInput("algorithm.name is missing" + (f" ({source})" if source else ""))
    known = set(RunConfig.model_fields)
    for key in table:
        if key not in known:
            raise BadInput(unknown_key(key, known) + (f" ({source})" if source else ""))
    settings = algorithm_class(section["name"]).Settings
    table["algorithm"] = validate(settings, section, source, "algorithm")
    return validate(RunConfig, table, source)


def load_run_config(preset_or_path: str, overrides: Iterable[str] = ()) -> RunConfig:
    """The config of a preset or of a TOML file, with `section.key=value` overrides applied."""
    return resolve(apply_overrides(load_table(preset_or_path), overrides), preset_or_path)


def load_table(preset_or_path: str) -> dict[str, Any]:
    """A preset or file as it stands, before overrides and defaults; `run.name` is filled in from its name."""
    if preset_or_path.endswith(".toml") or "/" in preset_or_path:
        path = Path(preset_or_path)
    else:
        path = preset_path(preset_or_path)
    table = load_toml(path)
    run = table.setdefault("run", {})
    if isinstance(run, dict):
        run.setdefault("name", path.stem)
    return table


def preset_path(name: str) -> Path:
    if name not in preset_names():
        raise BadInput(unknown_key(name, preset_names()).replace("is no setting", "is no preset and no .toml file"))
    return Path(str(resources.files("harness") / "presets" / f"{name}.toml"))


def preset_names() -> list[str]:
    return sorted(path.stem for path in Path(str(resources.files("harness") / "presets")).glob("*.toml"))
