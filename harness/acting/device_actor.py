"""Acting on a GPU: one copy there, one graph, one copy back a step; what else is known of it stays until the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch

from harness.acting.actors import ALL, Actor
from harness.buffers import Rollout
from harness.models.actor_critic import ActorCritic
from harness.training.compile.cuda_graphs import Captured, first_line_of
from harness.training.precision import Precision


class Group:
    """The tensors of some environments' step, on the device, where they stay; observations on the host too."""

    def __init__(self, rollout: Rollout, envs: slice, noise_shape: tuple[int, ...], device: torch.device) -> None:
        here = torch.from_numpy(rollout.observations[0, envs].copy())
        self.here = here.pin_memory() if device.type == "cuda" else here
        count = len(here)
        self.observations = here.to(device, copy=True)
        self.noise = torch.zeros(count, *noise_shape, device=device)
        self.actions = torch.from_numpy(rollout.actions[0, envs]).to(device, copy=True)
        self.log_probs, self.values = torch.zeros(count, device=device), torch.zeros(count, device=device)
        self.run: Callable[[], None]


class DeviceActor(Actor):
    """Any network and head, in the arithmetic that it learns in; the host waits for the actions alone."""

    def __init__(
        self,
        module: ActorCritic,
        device: torch.device,
        precision: Precision,
        rollout: Rollout,
        groups: Sequence[slice],
        capture: bool = True,
    ) -> None:
        """`rollout`: one like those that are to be filled. `groups`: of the environments that act together. `capture`:
        as CUDA graphs, where they can be had; `notice` says why not.
        """
        self.module, self.head, self.precision = module, module.head, precision
        shape = rollout.steps, rollout.envs
        self.noise = torch.zeros(*shape, *self.head.noise_shape, device=device)
        self.log_probs, self.values = torch.zeros(shape, device=device), torch.zeros(shape, device=device)
        self.groups = {envs.start: Group(rollout, envs, self.head.noise_shape, device) for envs in groups}
        problem = "" if capture else "compile.capture = false"
        for group in self.groups.values():
            group.run = partial(self._run, group)
        try:
            graphs = [Captured(group.run, device) for group in self.groups.values()] if capture else []
        except Exception as error:  # whatever a capture may raise: launched one by one they are right
            graphs, problem = [], first_line_of(error)
        for group, graph in zip(self.groups.values(), graphs):
            group.run = graph
        self.notice = f"acting launched kernel by kernel ({problem})" if problem else "acting one CUDA graph"

    @torch.no_grad()
    def _run(self, group: Group) -> None:
        with self.precision.autocast():
            parameters, values = self.module(group.observations)
            actions = self.head.sample(parameters, group.noise)
            log_probs = self.head.log_prob(parameters, actions)
        group.actions.copy_(actions)
        group.log_probs.copy_(log_probs)
        group.values.copy_(values)

    def begin(self, rollout: Rollout, noise: np.ndarray) -> None:
        self.rollout = rollout
        self.noise.copy_(torch.from_numpy(np.ascontiguousarray(noise)))

    def act(self, step: int, observations: np.ndarray, envs: slice = ALL) -> np.ndarray:
        group = self.groups[envs.start]
        np.copyto(group.here.numpy(), observations)
        group.observations.copy_(group.here, non_blocking=True)
        group.noise.copy_(self.noise[step, envs])
        group.run()
        self.log_probs[step, envs] = group.log_probs
        self.values[step, envs] = group.values
        chosen = group.actions.cpu().numpy()  # waits for all of it: the next observations may be written
        self.rollout.actions[step, envs] = chosen
        return chosen

    def finish(self) -> None:
        self.rollout.log_probs[:] = self.log_probs.cpu().numpy()
        self.rollout.values[:] = self.values.cpu().numpy()
