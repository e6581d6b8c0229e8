"""How a run goes on from a checkpoint: with what is equal on all ranks, with what each has of its own."""

from __future__ import annotations

from pathlib import Path

from harness.algorithms import Algorithm
from harness.distributed.collectives import Collectives
from harness.envs import Environments
from harness.errors import BadInput
from harness.lifecycle import checkpoint
from harness.lifecycle.checkpoint import Checkpoint
from harness.lifecycle.generators import load_generators
from harness.lifecycle.parts import share_from
from harness.lifecycle.saver import Saver


def go_on_from(
    directory: Path,
    algorithm: Algorithm,
    environments: Environments | None,
    saver: Saver,
    collectives: Collectives,
) -> tuple[Checkpoint, list[str]]:
    """Loads a checkpoint that rank 0 has found whole; collective. Returns it, and a line for each thing of it that
    could not carry over.

    The ranks may be others than those that wrote it: each takes over what there is of the environments that are now
    its own.
    """
    found = checkpoint.load(directory, verified=True)
    if found is None:
        raise BadInput(f"{directory}: no whole checkpoint there, as this rank sees it")
    algorithm.load_state(found.state)
    told = []
    if environments is not None:
        begun, replay = take_over(found, algorithm, environments, saver)
        agreed = collectives.agree({"begun": float(begun), "replay": float(not replay)})
        if agreed["begun"]:
            count = f"{agreed['begun']:.0f} of {environments.share.total} environments"
            told.append(f"{count} begin a new episode: the checkpoint does not hold what they go on from")
        if agreed["replay"]:
            told.append("the replay begins empty where the checkpoint does not hold it")
    same = found.ranks == collectives.size
    own = next((part for part in found.parts if part.rank == collectives.rank), None)
    if same and own is not None:
        load_generators(found.part(own)[1]["generators"])
    elif not same:
        told.append(
            f"{found.ranks} ranks wrote the checkpoint and {collectives.size} go on: the generators that Python, numpy "
            "and torch have for a whole process begin anew"
        )
    return found, told


def take_over(found: Checkpoint, algorithm: Algorithm, environments: Environments, saver: Saver) -> tuple[int, bool]:
    """Goes on with this rank's environments where the checkpoint holds them; how many begin a new episode, and whether
    what the algorithm remembers of them is there."""
    share = environments.share
    rings = algorithm.rings()
    parts = [
        part for part in found.parts if part.first < share.first + share.count and part.first + part.count > share.first
    ]
    loaded = [found.part(part)[0] for part in parts]
    own = share_from(loaded, share.first, share.count, share.total)
    if own is None:
        return share.count, not rings
    saver.segments.load(found.directory.parent, [segment for part in parts for segment in part.segments], rings)
    goes_on = algorithm.load_own_state(own)
    return int(share.count - goes_on.sum()), True
