"""`harness compile`: makes the code that runs of a config need, before there are any; lists what is there."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from harness.algorithms import Algorithm, Context, algorithm_class
from harness.cluster.machine import available_cores, within_quota
from harness.distributed.transports.base import Alone
from harness.envs import make_environments
from harness.envs.backends.selection import agree_on_backend
from harness.errors import BadInput
from harness.reporting.phases import PhaseTimer
from harness.run.checks import check
from harness.schema import RunConfig
from harness.training.compile.ahead import CODE
from harness.training.compile.store import CodeStore, default_folder
from harness.training.process import set_threads, settle_threads


class Imagined(Alone):
    """One of so many ranks, whose others would say what it says."""

    def __init__(self, rank: int, size: int) -> None:
        super().__init__(members=tuple(range(size)))
        self.rank, self.size = rank, size

    def gather_objects(self, value: Any) -> list[Any]:
        return [value] * self.size


def precompile(config: RunConfig, ranks: int = 1) -> Iterator[str]:
    """Compiles what `ranks` ranks of a run need, and says of each kind of rank what came of it. BadInput where the run
    itself would be refused, or there is nowhere to keep code."""
    check(config, ranks)
    store = CodeStore(default_folder())
    if store.folder is None:
        raise BadInput(f"nothing can be kept: {store.refused or 'HARNESS_CODE_CACHE is empty'}")
    mode = config.compile.model_copy(update={"mode": "kept"})
    config = config.model_copy(update={"compile": mode})
    shares: dict[int, int] = {}
    for rank in range(ranks):  # ranks differ by the number of their environments alone
        shares.setdefault(-(-(config.env.count - rank) // ranks) if config.env is not None else 0, rank)
    for rank in shares.values():
        began = time.monotonic()
        algorithm = build(config, Imagined(rank, ranks))
        try:
            yield f"rank {rank} of {ranks}: {'; '.join(algorithm.notices()[:1])}, {time.monotonic() - began:.1f} s"
        finally:
            algorithm.close()


def build(config: RunConfig, communicator: Imagined) -> Algorithm:
    cores = within_quota(max(1, len(available_cores()) // communicator.size), communicator.size)
    set_threads(config.run.threads or 1)
    environments, device = None, torch.device("cpu")
    if config.env is not None:
        chosen = agree_on_backend(config.env, communicator, cores, device.type)
        gamma = float(getattr(config.algorithm, "gamma", 0.99))
        environments = make_environments(chosen, communicator.rank, communicator.size, gamma, cores)

    def settle(module: torch.nn.Module) -> None:
        if config.run.threads is None:
            settle_threads(module, cores)

    def play(*_: Any) -> np.ndarray:
        raise AssertionError("nothing is played here")

    return algorithm_class(config.algorithm.name)(
        Context(config, communicator, device, PhaseTimer(), environments, play, settle)
    )


def kept_code() -> list[str]:
    """What is in the folder, a line each, and how much of its limit that takes."""
    store = CodeStore(default_folder())
    files = store.entries()
    lines = []
    for path in files:
        if path.suffix == f".{CODE}":
            used = time.strftime("%Y-%m-%d %H:%M", time.localtime(path.stat().st_mtime))
            lines.append(f"{path.stem[:12]}  {path.stat().st_size / 2**20:.1f} MB  last used {used}")
    total = sum(path.stat().st_size for path in files) / 2**20
    lines.append(
        f"{len(lines)} pieces of code in {store.folder}: {total:.0f} of {store.limit >> 20} MB, traces included"
    )
    return lines
