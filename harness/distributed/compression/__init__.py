"""Sums over ranks of fewer bytes: one file each, and a line in `COMPRESSORS`."""

from __future__ import annotations

from harness.distributed.compression.base import Compressor
from harness.schema import CompressionSettings
from harness.settings import registered

COMPRESSORS = {"none": "types:NoneType"}
"""By the name that `compression.kind` gives them; `none` makes None, in place of a compressor."""


def make_compressor(settings: CompressionSettings) -> Compressor | None:
    """A new compressor of a kind, or of the user's own by `module:Class`; BadInput for another."""
    return registered(COMPRESSORS, settings.kind, "compression.kind")(**settings.kwargs)
