"""The section `compression` of a run's config, without torch; `harness.distributed.compression` does what it says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator

from harness.errors import BadInput
from harness.registry import Names
from harness.settings import Settings

if TYPE_CHECKING:
    from harness.schema import RunConfig

COMPRESSION_KINDS = ("none", "fp16", "bf16", "int8", "sign", "top_k", "random_k", "powersgd")
SPARSE = ("top_k", "random_k")
BIASED = ("sign", "powersgd", *SPARSE)


class CompressionSettings(Settings):
    """`[compression]`: each kind takes of the settings those that are its own."""

    kind: Annotated[str, Names(*COMPRESSION_KINDS)] = "none"
    """How a gradient is summed over the ranks in fewer bytes ([which, and when](synchronisation.md#fewer-bytes)):
    `none`, as it is; `fp16`, `bf16`, words of 16 bits; `int8`, with stochastic rounding; `sign`, one bit a number;
    `top_k`, each rank's largest numbers; `random_k`, numbers at random places; `powersgd`, matrices of low rank. One of
    your own is a `module:Class` ([extending](extending.md#a-compressor))."""
    block: int = Field(256, ge=8, le=65536, multiple_of=8)
    """fp16, int8, sign: numbers that share a scale; a multiple of 8."""
    fraction: float = Field(0.01, gt=0, le=1)
    """top_k, random_k: the share of the numbers that is sent."""
    rank: int = Field(4, ge=1)
    """powersgd: of the matrices that are sent in place of a parameter's gradient."""
    error_feedback: bool | None = None
    """Whether what an update leaves out is added to the gradient of the next. Unset: for `sign`, `top_k`, `random_k`
    and `powersgd`, which leave out much, and not for the others."""
    momentum_correction: float = Field(0.0, ge=0, lt=1)
    """top_k, random_k: momentum that each rank applies to its own gradients, in place of the optimizer's, which would
    apply it to what is sent (Lin et al. 2018); for `optimizer.name = "sgd"` with `optimizer.momentum = 0`."""
    warmup_updates: int = Field(0, ge=0)
    """Updates at the start whose gradients are summed as they are."""
    kwargs: dict[str, Any] = {}
    """Keyword arguments for a `kind` of your own."""

    @property
    def feeds_back(self) -> bool:
        """`error_feedback`, decided."""
        return self.kind in BIASED if self.error_feedback is None else self.error_feedback

    @model_validator(mode="after")
    def settings_are_those_of_the_kind(self) -> CompressionSettings:
        if self.kwargs and self.kind in COMPRESSION_KINDS:
            raise ValueError(f"kwargs must be absent with {self.kind}, which has settings of its own")
        if self.momentum_correction and self.kind not in SPARSE:
            raise ValueError(f"momentum_correction must be 0 with {self.kind}: it is of {' and '.join(SPARSE)}")
        if self.momentum_correction and not self.feeds_back:
            raise ValueError("momentum_correction must be 0 without error_feedback, which keeps what it adds up")
        return self

    def check(self, config: RunConfig) -> None:
        """Refuses (ValueError, one line) what other sections say against it."""
        optimizer = config.optimizer
        if self.momentum_correction and (optimizer.name != "sgd" or optimizer.momentum):
            raise ValueError(
                "compression.momentum_correction is the momentum of optimizer.name = 'sgd' with optimizer.momentum = "
                f"0, got {optimizer.name!r} with {optimizer.momentum:g}"
            )
        if self.kind in COMPRESSION_KINDS[1:] and self.feeds_back and config.precision.kind == "fp16":
            raise ValueError(
                f"precision.kind must be 'fp32' or 'bf16' with compression.kind = {self.kind!r} and error feedback: "
                "the loss scale of 'fp16' changes, and what earlier updates left out would be of another scale"
            )

    def check_ranks(self, ranks: int) -> None:
        """Refuses (BadInput) what takes so many ranks more bytes than an all-reduce of all."""
        if self.kind == "top_k" and self.fraction * ranks > 1:
            raise BadInput(
                f"compression.fraction must be at most 1 / {ranks} for {ranks} ranks with compression.kind = 'top_k', "
                f"or numbers and places of all ranks take more bytes than all numbers do, got {self.fraction:g}"
            )
