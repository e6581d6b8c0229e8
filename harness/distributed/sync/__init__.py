"""How replicas stay one policy: one file each, and a line in `SYNCHRONIZERS`."""

from __future__ import annotations

from functools import partial

from harness.distributed.compression import compressor_class, make_compressor
from harness.distributed.mesh import Mesh
from harness.distributed.sync.base import Synchronizer
from harness.errors import BadInput
from harness.registry import named_class
from harness.schema import CompressionSettings, SyncSettings

SYNCHRONIZERS = {
    "allreduce": "harness.distributed.sync.allreduce:AllReduce",
    "local_sgd": "harness.distributed.sync.local_sgd:LocalSGD",
    "gossip": "harness.distributed.sync.gossip:Gossip",
}
"""By the name that `sync.kind` gives them."""


def synchronizer_class(sync: SyncSettings, compression: CompressionSettings, ranks: int = 1) -> type[Synchronizer]:
    """That of a kind, or the user's own by `module:Class`; BadInput where there is none, where the two do not go
    together, or so many ranks cannot follow the settings."""
    kind: type[Synchronizer] = named_class(sync.kind, SYNCHRONIZERS, "sync.kind", Synchronizer)
    compressor_class(compression)
    compression.check_ranks(ranks)
    if compression.kind != "none" and not kind.acts_on_gradients:
        raise BadInput(f"compression.kind must be 'none' with sync.kind = {sync.kind!r}, which sums no gradients")
    if sync.kwargs and sync.kind in SYNCHRONIZERS:
        raise BadInput(f"sync.kwargs must be absent with sync.kind = {sync.kind!r}: it is for a kind of your own")
    refusal = kind.refuses(sync, ranks)
    if refusal is not None:
        raise BadInput(refusal)
    return kind


def make_synchronizer(sync: SyncSettings, compression: CompressionSettings, mesh: Mesh, seed: int = 0) -> Synchronizer:
    """The run's, whose `seed` it is; collective. BadInput where the transport cannot do what it needs."""
    kind = synchronizer_class(sync, compression, mesh.world.size)
    missing = kind.needs - mesh.world.can
    if missing and mesh.world.size > 1:
        lacking = " and ".join(sorted(each.value for each in missing))
        raise BadInput(f"sync.kind = {sync.kind!r} needs a transport with {lacking}; {mesh.world.transport} has none")
    section = getattr(sync, sync.kind, None)
    given = sync.kwargs if section is None else section.model_dump()
    try:
        return kind(mesh, partial(make_compressor, compression, seed), **given)
    except (TypeError, ValueError) as error:
        raise BadInput(f"sync.kwargs = {sync.kwargs} with sync.kind = {sync.kind!r}: {error}") from None
