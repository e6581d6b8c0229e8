"""Sums over ranks of fewer bytes: one file each, and a line in `COMPRESSORS`."""

from __future__ import annotations

from harness.compression_settings import CompressionSettings
from harness.distributed.compression.base import Compressor
from harness.errors import BadInput
from harness.registry import named_class

COMPRESSORS = {
    "fp16": "harness.distributed.compression.sixteen_bits:Fp16",
    "bf16": "harness.distributed.compression.sixteen_bits:Bf16",
    "int8": "harness.distributed.compression.quantized:Int8",
    "sign": "harness.distributed.compression.sign:Sign",
    "top_k": "harness.distributed.compression.top_k:TopK",
    "random_k": "harness.distributed.compression.random_k:RandomK",
    "powersgd": "harness.distributed.compression.powersgd:PowerSGD",
}
"""By the name that `compression.kind` gives them, beside `none`."""


def compressor_class(settings: CompressionSettings) -> type[Compressor] | None:
    """That of a kind, or of the user's own by `module:Class`; None for `none`; BadInput for another."""
    if settings.kind == "none":
        return None
    return named_class(settings.kind, COMPRESSORS, "compression.kind", Compressor)


def make_compressor(settings: CompressionSettings, seed: int = 0) -> Compressor | None:
    """A new one, or None where nothing compresses. `seed`: the run's."""
    kind = compressor_class(settings)
    try:
        return None if kind is None else kind.from_settings(settings, seed)
    except (TypeError, ValueError) as error:
        where = f"compression.kwargs = {settings.kwargs} with compression.kind = {settings.kind!r}"
        raise BadInput(f"{where}: {error}") from None
