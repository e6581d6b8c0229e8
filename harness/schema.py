"""What a run may be told: its sections and their settings, without torch. `harness.config` reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import pydantic
import tomli_w
from pydantic import Field, model_validator

from harness.compression_settings import CompressionSettings
from harness.envs.settings import EnvSettings
from harness.registry import Names
from harness.settings import Settings, table_of

if TYPE_CHECKING:
    from gymnasium import spaces


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


class LocalSGDSettings(Settings):
    every: int = Field(8, ge=1)
    """Updates between averages of the weights."""
    growth: float = Field(1.0, ge=1)
    """What `every` is multiplied by after each average."""
    most: int = Field(1024, ge=1)
    """Updates between averages at most, however `every` grows."""
    warmup_updates: int = Field(0, ge=0)
    """Updates at the start that are each followed by an average."""
    moments: Literal["keep", "average", "reset"] = "keep"
    """What becomes of the optimizer's means of gradients at an average: each rank keeps its own, the ranks average them
    too, or they are set to zero."""
    outer_lr: float = Field(1.0, gt=0)
    """Rate of the step that is taken on the mean of the ranks' ways: 1 takes the mean of their weights. DiLoCo: 0.7."""
    outer_momentum: float = Field(0.0, ge=0, lt=1)
    """Of that step, by Nesterov's method. DiLoCo: 0.9."""
    fragments: int = Field(1, ge=1)
    """Parts of the weights that are averaged one after another, each once in `every` updates."""
    delay: int = Field(0, ge=0)
    """Updates that are made while an average is under way."""

    @pydantic.field_validator("fragments")
    @classmethod
    def fit_between_averages(cls, fragments: int, others: pydantic.ValidationInfo) -> int:
        if fragments > others.data.get("every", fragments):
            raise ValueError(f"must be <= sync.local_sgd.every = {others.data['every']}: each has its own turn in it")
        return fragments


class GossipSettings(Settings):
    topology: Literal["ring", "torus", "exponential", "one_peer_exponential", "complete"] = "one_peer_exponential"
    """With whom each rank averages its weights: two neighbours, four, those 1, 2, 4, … ranks away, one of these after
    another, or all."""
    edges: list[list[tuple[int, int]]] | None = None
    """In place of `topology`: lists of edges, from a rank to a rank, that take turns."""
    every: int = Field(1, ge=1)
    """Updates between averages."""
    push_sum: bool = False
    """Also average how much weight each rank's part carries: with `edges` that go one way alone, plain averages are
    biased towards ranks that hear from few."""
    overlap: bool = False
    """Exchange weights while the next update is made."""


class SyncSettings(Settings):
    kind: Annotated[str, Names("allreduce", "local_sgd", "gossip")] = "allreduce"
    """How ranks stay one policy ([synchronisation](synchronisation.md#ways-to-agree)): `allreduce`, one all-reduce of
    the flat gradient for each step; `local_sgd`, averages of the weights between steps of each rank's own; `gossip`,
    averages with neighbours alone. One of your own is a `module:Class` ([extending](extending.md#a-way-to-agree))."""
    local_sgd: LocalSGDSettings = LocalSGDSettings()
    gossip: GossipSettings = GossipSettings()
    kwargs: dict[str, Any] = {}
    """Keyword arguments for a `kind` of your own."""
    path: Annotated[str, Names("auto", "horovod", "mpi")] = "auto"
    """What carries the calls between ranks: `horovod`, the reference path, or `mpi`, mpi4py in place. `auto` times both
    at the start and takes the quicker, where both can be had. One of your own is a `module:Class`
    ([extending](extending.md#a-transport))."""
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


class AlgorithmSettings(Settings):
    """Base of the `algorithm` section: each algorithm adds its own settings in the paper's terms."""

    name: str
    """Which algorithm."""

    def check(self, config: RunConfig) -> None:
        """Refuses (ValueError, one line) sections that do not fit this algorithm, before anything starts."""

    def check_spaces(self, config: RunConfig, observation_space: spaces.Box, action_space: spaces.Space) -> None:
        """Refuses (BadInput) spaces that it cannot act in, before anything starts. Like all here it needs no torch: a
        network of the user's own is tried by the algorithm's class, see `Algorithm.check`."""

    def check_data(self, config: RunConfig, ranks: int) -> None:
        """Refuses (BadInput), where there is no environment, what cannot be learned from on so many ranks."""

    def for_acting(self) -> AlgorithmSettings:
        """The same without what learning alone needs, for a policy that is only to act."""
        return self


OPTIMIZER_NAMES = ("sgd", "adam", "adamw", "rmsprop", "adagrad")


class OptimizerSettings(Settings):
    """`[optimizer]`: the method that turns gradients into steps, and its learning rate over the run."""

    name: Annotated[str, Names(*OPTIMIZER_NAMES)] = "adam"
    """The method; or an optimizer of your own, `module:Class`, which derives from torch's."""
    kwargs: dict[str, Any] = {}
    """Keyword arguments for an optimizer of your own, beside the learning rate."""
    lr: float = Field(default=3e-4, gt=0)
    """Learning rate at its full height, before the rule of `scale_lr`."""
    betas: tuple[float, float] = (0.9, 0.999)
    """adam, adamw: decay of the running means of the gradient and of its square, each in [0, 1)."""
    momentum: float = Field(default=0.0, ge=0, lt=1)
    """sgd, rmsprop: share of the last step that is taken again."""
    alpha: float = Field(default=0.99, ge=0, lt=1)
    """rmsprop: decay of the running mean of the squared gradient."""
    eps: float = Field(default=1e-8, gt=0)
    """adam, adamw, rmsprop, adagrad: added to the denominator."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decay of all parameters, biases too: decoupled from the gradient for adamw, added to it for the others."""
    schedule: Literal["constant", "linear", "cosine", "plateau", "kl_adaptive"] = "constant"
    """How the rate changes: by progress (constant, linear, cosine) or by a metric (plateau, kl_adaptive)."""
    warmup: float = Field(default=0.0, ge=0, lt=1)
    """Share of the run's updates over which the rate rises from 0 to its full height (not with kl_adaptive)."""
    final_lr_fraction: float = Field(default=0.0, ge=0, le=1)
    """linear, cosine: the rate at the end, as a fraction of the full height. plateau: the rate never falls below it."""
    plateau_metric: Literal["eval_return_mean"] = "eval_return_mean"
    """plateau: the metric that is watched, the mean of each evaluation."""
    plateau_mode: Literal["max", "min"] = "max"
    """plateau: whether more of the metric is better, or less."""
    plateau_factor: float = Field(default=0.5, gt=0, lt=1)
    """plateau: what the rate is multiplied by."""
    plateau_patience: int = Field(default=5, ge=0)
    """plateau: how many values in a row without improvement are borne; the next one lowers the rate."""
    target_kl: float = Field(default=0.01, gt=0)
    """kl_adaptive: the KL divergence of one update that the rate is steered to."""
    min_lr: float = Field(default=1e-5, gt=0)
    """kl_adaptive: the rate never falls below it."""
    max_lr: float = Field(default=1e-2, gt=0)
    """kl_adaptive: the rate never rises above it."""
    scale_lr: Literal["none", "linear", "sqrt"] = "none"
    """Rule for the batch: the rate is lr * (batch / reference_batch), or lr times the square root of that ratio."""
    reference_batch: int | None = Field(default=None, ge=1)
    """The batch, over all ranks, for which `lr` was tuned; needed by `scale_lr`."""

    @model_validator(mode="after")
    def check_that_the_settings_fit_together(self) -> OptimizerSettings:
        if self.kwargs and self.name in OPTIMIZER_NAMES:
            raise ValueError(f"kwargs must be absent with {self.name}, which has settings of its own")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must each be in [0, 1), got {list(self.betas)}")
        if self.scale_lr != "none" and self.reference_batch is None:
            raise ValueError(f'scale_lr = "{self.scale_lr}" needs reference_batch, the batch that lr was tuned for')
        if self.schedule == "kl_adaptive":
            if self.warmup:
                raise ValueError(f"warmup must be 0 with kl_adaptive, which would work against it, got {self.warmup}")
            if not self.min_lr <= self.lr <= self.max_lr:
                raise ValueError(f"lr must be in min_lr … max_lr with kl_adaptive, got {self.lr}")
        return self


class PrecisionSettings(Settings):
    kind: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Forward and backward arithmetic; parameters, gradients between ranks and the optimizer stay fp32."""
    initial_scale: float = Field(65536.0, ge=1.0)
    """fp16: the loss scale at the start."""
    growth_interval: int = Field(2000, ge=1)
    """fp16: steps without overflow after which the scale doubles."""


class CompileSettings(Settings):
    mode: Literal["auto", "on", "kept", "traced", "off"] = Field("auto")
    """How loss and gradient are computed. `off`: eager. `traced`: as a trace without Python, equal to eager to the bit,
    in half of the time. `kept`: by code that was compiled ahead and lies on disk, four times as quick, different by
    rounding; what is missing is compiled first, 10 to 30 s a size of minibatch. `on`: compiled by this run. `auto`:
    kept code where there is all of it; else compiled, where a run is long enough to earn that back, a compiler is there
    (for C++; on a GPU Triton), and no large gradient is reduced between hosts while it is made; else traced, or eager
    where that would not pay."""
    ahead: bool = True
    """Where `auto` finds no kept code and a core is free, one process of low priority compiles it beside the run, for
    the runs that follow."""
    products: Literal["auto", "onednn", "torch"] = "auto"
    """By what a CPU multiplies the large matrices of a compiled gradient: `onednn`, or `torch`'s own choice, which is
    MKL. `auto` times both at the start, and takes oneDNN where it is clearly quicker. They differ by rounding."""
    capture: bool = True
    """On a GPU, launch gradient and update as CUDA graphs, compiled or not. Off: kernel by kernel, slower, with the
    same results."""


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
    compression: CompressionSettings = CompressionSettings()
    compile: CompileSettings = CompileSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    logging: LoggingSettings = LoggingSettings()

    @pydantic.model_validator(mode="after")
    def sections_fit_together(self) -> RunConfig:
        self.algorithm.check(self)
        self.compression.check(self)
        return self

    def to_table(self) -> dict[str, Any]:
        return table_of(self)

    def to_toml(self) -> str:
        """The resolved config; `harness train` on it repeats the run."""
        return tomli_w.dumps(self.to_table())
