"""What a replay takes of the hosts' memory: whether it fits, and of how many frames an observation need not be kept
twice."""

from __future__ import annotations

import socket

from harness.cluster.machine import free_memory
from harness.distributed.transports.base import Communicator
from harness.envs.factory import make_environment
from harness.envs.inspection import inspected
from harness.envs.settings import EnvSettings
from harness.errors import BadInput

FOR_REPLAY = 0.9
"""How much of the memory that is free a replay may take: environments, gradients and the copies of checkpoints come
beside it."""


def frames_of(settings: EnvSettings) -> int:
    """How many frames an observation is a stack of, of which each step brings one: what the environment's metadata have
    as `frame_stack`."""
    if settings.wrappers:  # they may change anything
        return 1
    found = inspected(settings)
    if found is not None:
        stack, shape = found.frame_stack, found.observation_space.shape
    else:
        env = make_environment(settings)
        stack, shape = env.metadata.get("frame_stack", 1), env.observation_space.shape or ()
        env.close()
    if stack != 1 and (not isinstance(stack, int) or stack < 1 or not shape or shape[0] % stack):
        raise BadInput(
            f"env.id = {settings.id!r}: metadata['frame_stack'] must be how many frames its observations {shape} have "
            f"along their first axis, got {stack!r}"
        )
    return stack


def check_memory(buffer_size: int, needed: int, communicator: Communicator) -> None:
    """BadInput, on all ranks, where what the ranks of some host keep of the replay exceeds its memory; collective.

    `needed`: bytes of this rank's part. They are taken as they are filled: a replay that is too large would end the run
    hours later.
    """
    here = (socket.gethostname(), free_memory(), needed)
    hosts: dict[str, tuple[int, int]] = {}
    for host, free, part in communicator.gather_objects(here):
        least, together = hosts.get(host, (free, 0))
        hosts[host] = min(least, free), together + part
    for host, (free, together) in hosts.items():
        if together > FOR_REPLAY * free:
            most = int(buffer_size * max(FOR_REPLAY * free, 0.0) / together)
            raise BadInput(
                f"algorithm.buffer_size = {buffer_size:,} takes {together / 2**30:.1f} GiB on {host}, which has "
                f"{free / 2**30:.1f} GiB of free memory: it may be at most about {most:,}"
            )
