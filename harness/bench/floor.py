"""The floor under a run: what its arithmetic and its environments cost with nothing around them, in its process."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import nn

from harness.algorithms.common.on_policy import OnPolicy
from harness.envs import make_environments
from harness.envs.backends.base import Vector
from harness.envs.backends.selection import backend_of
from harness.run.loop import Run
from harness.training.precision import Precision

BLOCKS = 5
"""A floor is the median over so many loops."""
PRODUCTS = "one matrix product forward and two backward for each linear layer and convolution, at a rank's minibatch"
BARE_STEP = (
    "a bare loop of step(random actions) on gymnasium's (EnvPool's, your own) vector class, or on the one that the run "
    "takes where that is faster"
)


class Floor:
    """Under one run, on this rank."""

    def __init__(self, run: Run, inputs: tuple[int, ...] | None, seconds: float) -> None:
        """`inputs`: the shape of what the network takes, without the batch; None where nobody knows it. `seconds` go
        into each measurement of each of its parts."""
        self.run, self.seconds = run, seconds
        algorithm = run.algorithm
        batch = getattr(run.config.algorithm, "batch_size", None)
        if isinstance(algorithm, OnPolicy):
            batch = algorithm.samples // algorithm.minibatches
        self.products: list[Product] = []
        if inputs is not None and batch is not None:
            environments = run.environments
            example = np.zeros(0, np.float32 if environments is None else environments.observation_dtype)
            kept = torch.from_numpy(example).dtype
            rows = torch.zeros(-(-batch // run.communicator.size), *inputs, dtype=kept, device=run.world.device)
            self.products = products_of(algorithm.module, rows)

    def measure(self) -> dict[str, float | None]:
        """Seconds of a minibatch's products, `minibatch`; of a bare step of this rank's environments, `step`; and of
        one by the library's vector class, `library_step`. None where there are none."""
        run = self.run
        minibatch = step = library_step = None
        if self.products:
            dtype = Precision.DTYPES.get(run.config.precision.kind, torch.float32)
            minibatch = seconds_of_products(self.products, run.world.device, dtype, self.seconds)
        if run.environments is not None:
            settings, count = run.environments.settings, run.environments.count
            own = make_environments(settings.model_copy(update={"count": count}), 0, 1, cores=run.world.cores).vector
            library = backend_of(settings.backend).library_vector(settings, count, run.world.cores)
            space = run.environments.action_space
            space.seed(0)
            actions = [np.stack([space.sample() for _ in range(count)]) for _ in range(64)]
            own.reset(list(range(count)))
            library.reset()
            library_step = seconds_of_steps(library.step, actions, self.seconds)
            step = min(library_step, seconds_of_steps(lambda taken: step_all(own, taken), actions, self.seconds))
            own.close()
            library.close()
        return {"minibatch": minibatch, "step": step, "library_step": library_step}


@dataclass(frozen=True)
class Product:
    """Of a layer: (rows, inputs) times (inputs, outputs)."""

    rows: int
    inputs: int
    outputs: int


def products_of(module: nn.Module, inputs: torch.Tensor) -> list[Product]:
    """The product that each linear layer and convolution of `module` makes of `inputs`, a convolution's as if its
    patches were rows; none of a module that takes something else (several networks, each called by itself)."""
    module = copy.deepcopy(module).eval()
    found: list[Product] = []

    def note(layer: nn.Module, _: Any, outputs: torch.Tensor) -> None:
        weight = layer.weight
        assert isinstance(weight, torch.Tensor)
        found.append(Product(outputs.numel() // weight.shape[0], weight[0].numel(), weight.shape[0]))

    for layer in module.modules():
        if isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            layer.register_forward_hook(note)
    try:
        with torch.no_grad():
            module(inputs)
    except (NotImplementedError, TypeError, ValueError, RuntimeError):
        return []
    return found


def seconds_of_products(products: list[Product], device: torch.device, dtype: torch.dtype, seconds: float) -> float:
    """Of all products of a minibatch, forward and backward, by torch on this process's threads."""

    def matrices(rows: int, columns: int) -> torch.Tensor:
        return torch.randn(rows, columns, device=device).to(dtype)

    calls = []
    for product in products:
        inputs, weight = matrices(product.rows, product.inputs), matrices(product.inputs, product.outputs)
        outputs = matrices(product.rows, product.outputs)
        to_weight, to_inputs = torch.empty_like(weight), torch.empty_like(inputs)
        calls += [(inputs, weight, outputs), (inputs.T, outputs, to_weight), (outputs, weight.T, to_inputs)]

    def minibatch() -> None:
        for left, right, result in calls:
            torch.mm(left, right, out=result)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return median_of_blocks(minibatch, seconds)


def step_all(vector: Vector, actions: np.ndarray) -> None:
    """One step of a run's vector, without the layer that normalises and joins."""
    for group, rows in enumerate(vector.groups):
        vector.send(actions[rows], group)
    for group in range(len(vector.groups)):
        vector.receive(group)


def seconds_of_steps(step: Callable[[np.ndarray], object], actions: Sequence[np.ndarray], seconds: float) -> float:
    """Of one step of all environments; `actions` are taken in turn."""
    turn = itertools.cycle(actions)
    return median_of_blocks(lambda: step(next(turn)), seconds)


def median_of_blocks(call: Callable[[], object], seconds: float) -> float:
    """Seconds of a call: the median over BLOCKS loops that together take about `seconds`."""
    call()
    begun = perf_counter()
    for _ in range(3):
        call()
    count = max(1, int(seconds / BLOCKS / ((perf_counter() - begun) / 3)))
    blocks = []
    for _ in range(BLOCKS):
        begun = perf_counter()
        for _ in range(count):
            call()
        blocks.append((perf_counter() - begun) / count)
    return float(np.median(blocks))
