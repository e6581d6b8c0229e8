"""Each step is taken on the sum of all ranks' gradients, by one all-reduce of the arena."""

from __future__ import annotations

from typing import Any

from harness.distributed.arena import Arena
from harness.distributed.compression.base import Compressor, MakeCompressor
from harness.distributed.mesh import Mesh
from harness.distributed.overlap import Overlap, overlap_where_it_pays
from harness.distributed.sync.base import ArenaSync, Synchronizer
from harness.distributed.transports.base import Communicator


class AllReduce(Synchronizer):
    def __init__(self, mesh: Mesh, make_compressor: MakeCompressor = lambda: None) -> None:
        super().__init__(mesh, make_compressor)
        self.same_experiment = make_compressor() is None
        self.compressors: dict[str, Compressor] = {}
        """By the name of the arena, of each that is compressed."""

    def attach(self, arena: Arena, name: str) -> ArenaSync:
        compressor = self.make_compressor()
        if compressor is not None:
            self.compressors[name] = compressor
        return ArenaAllReduce(arena, self.mesh.data, compressor)

    def rank_state(self) -> dict[str, Any]:
        return {name: state for name, compressor in self.compressors.items() if (state := compressor.rank_state())}

    def load_rank_state(self, state: dict[str, Any] | None) -> str | None:
        parts = ({} if state is None else state).get
        lines = [compressor.load_rank_state(parts(name)) for name, compressor in self.compressors.items()]
        return next(filter(None, lines), None)


class ArenaAllReduce(ArenaSync):
    def __init__(self, arena: Arena, group: Communicator, compressor: Compressor | None) -> None:
        self.arena, self.group, self.compressor = arena, group, compressor
        self.overlap: Overlap | None = None
        """Reduces a large eager gradient while it is made; None where it is reduced at once."""
        if compressor is None:
            self.overlap = overlap_where_it_pays(arena, group)
        else:
            compressor.attach(arena, group)

    @property
    def overlaps(self) -> bool:  # type: ignore[override]
        return self.overlap is not None

    def begin(self) -> None:
        if self.overlap is not None:
            self.overlap.begin()

    def reduce(self) -> None:
        if self.overlap is not None:
            self.overlap.finish()
        elif self.compressor is None:
            self.group.all_reduce_(self.arena.wire, "sum", "gradients")
        else:
            behind = self.arena.wire[self.arena.size :]
            if behind.numel():
                self.group.all_reduce_(behind, "sum", "statistics")
            self.compressor.all_reduce_(self.arena.gradients, self.group)

    def reduce_at_once(self) -> None:
        if self.overlap is not None:
            self.overlap.close()
            self.overlap = None
