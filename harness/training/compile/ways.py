"""By which way a run has its gradient: code that is kept on disk, a trace, or eager.

Traced is eager to the bit, so ranks may differ in it. Kept code differs by rounding as all compiled code does: all
ranks take it or none, a run never changes to it in its middle, and a resumed run goes on with it.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import nn

from harness.cluster.place import host_name
from harness.distributed.arena import Arena
from harness.distributed.transports.base import Communicator
from harness.text import one_line
from harness.training.compile import ahead, traced
from harness.training.compile.function import Batch, GradientFunction, Loss
from harness.training.compile.store import CodeStore
from harness.training.precision import Precision

TRACING_EARNS = 200
"""Gradient steps after which a trace that is not on disk pays: it takes 55 ms for PPO, 110 for SAC."""
SOURCES = ("algorithms", "models", "training", "distributed")
"""The folders whose code can be in a trace."""


@dataclass(frozen=True)
class Wanted:
    """What a gradient is needed for."""

    module: nn.Module
    arena: Arena
    loss: Loss
    precision: Precision
    data: Batch
    """The tensors that minibatches are rows of, which stay where they are."""
    names: Sequence[str]
    """Of the numbers that are given with each minibatch."""
    sizes: Sequence[int]
    """How many rows this rank's minibatches have."""
    description: dict[str, Any] | None
    """All that the loss is made of beside our own sources, as JSON; None where that cannot be said, as of a network of
    the user's: then its trace is its description."""
    reads: Sequence[torch.Tensor] = ()
    """What the loss reads beside minibatches and the arena's parameters: other networks', in the places that they
    keep."""
    per_sample: str | None = None
    """The tensor of `data` whose rows take the loss's number for each sample."""
    steps: int = 0
    """Gradient steps of the whole run."""
    may_compile_beside: bool = False
    """Whether a core is free, on which a process of low priority may compile for the runs that follow."""


@dataclass
class FunctionGradient:
    """Called in place of a loss and its backward pass: fills `arena.wire`."""

    wanted: Wanted
    way: str
    """`traced` or `kept`."""
    functions: dict[int, Callable[..., Sequence[torch.Tensor]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.arena, self.precision = self.wanted.arena, self.wanted.precision
        self.values = *self.wanted.data.values(), *self.wanted.reads

    def __call__(self, rows: torch.Tensor, numbers: Sequence[float], weight: float) -> None:
        """`rows`: int64 (n,) of the data; `numbers`: in the order of their names."""
        given = torch.tensor((*numbers, weight, weight * self.precision.scale), dtype=torch.float32)
        wire, *samples = self.functions[len(rows)](self.arena.parameters, rows, given, *self.values)
        self.arena.wire[: len(wire)].copy_(wire)
        if self.wanted.per_sample is not None:
            self.wanted.data[self.wanted.per_sample][rows] = samples[0]


@cache
def fingerprint_of_sources() -> str:
    """SHA-256 of the package's own code that a trace can hold."""
    digest = hashlib.sha256()
    root = Path(str(resources.files("harness")))
    for folder in SOURCES:
        for path in sorted((root / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


@cache
def processor() -> str:
    """What compiled code depends on: the processor's instructions, as the kernel names them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    return hashlib.sha256(f"{platform.machine()} {flags}".encode()).hexdigest()


def key_of(wanted: Wanted, size: int, script: Any = None) -> str:
    """The name of a gradient's code in the store. `script`: its trace, where there is no description."""
    content: Any = wanted.description
    if content is None:
        code = f"{script.code}\n{script.inlined_graph}"
        constants = [hashlib.sha256(each.numpy().tobytes()).hexdigest() for each in constants_of(script)]
        content = {"code": code, "constants": constants}
    parts = {
        "content": content,
        "sources": fingerprint_of_sources(),
        "torch": torch.__version__,
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "precision": wanted.precision.kind,
        "size": size,
        "numbers": list(wanted.names),
        "data": [[name, list(values.shape[1:]), str(values.dtype)] for name, values in wanted.data.items()],
        "reads": [[list(tensor.shape), str(tensor.dtype)] for tensor in wanted.reads],
        "parameters": [list(parameter.shape) for parameter in wanted.arena.members],
        "wire": len(wanted.arena.wire),
        "buffers": [
            [name, hashlib.sha256(buffer.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()]
            for name, buffer in wanted.module.named_buffers()
        ],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def constants_of(script: Any) -> list[torch.Tensor]:
    """Tensors that a trace holds, beside its arguments."""
    return [each for each in script.state_dict().values() if isinstance(each, torch.Tensor)]


def choose(
    wanted: Wanted, mode: str, communicator: Communicator, store: CodeStore
) -> tuple[FunctionGradient | None, str]:
    """The gradient by the best way that there is, and why; None is eager. Collective.

    `mode`: `auto`; `find` takes what is compiled already, or nothing; `traced`; or `kept`, which waits for what has to
    be compiled.
    """
    if mode != "traced" and wanted.description is not None:
        gradient, _ = load_kept(wanted, {size: key_of(wanted, size) for size in wanted.sizes}, communicator, store)
        if gradient is not None:
            return gradient, "found on disk"
    if mode == "find":
        return None, "no kept code"
    scripts, problem = traces(wanted, mode, store)
    keys = {size: key for size, (key, _) in scripts.items()}
    beside = mode == "auto" and wanted.may_compile_beside and store.folder is not None
    lacking = list(keys.values()) if beside and len(keys) == len(wanted.sizes) else []
    told = communicator.gather_objects((problem, host_name(), lacking))
    problems = [text for text, _, _ in told if text]
    if problems:
        return None, problems[0]
    if mode == "kept":
        failed = wait_for_code(store, list(keys.values()))
        gradient, problem = load_kept(wanted, keys, communicator, store)
        reason = failed or store.refused or problem
        return gradient, "compiled" if gradient is not None else f"compile.mode = kept, but there is no code: {reason}"
    if len(scripts) < len(wanted.sizes):
        return None, f"{wanted.steps:,} gradient steps would not earn a trace back"
    functions = {size: traced.runner(script) for size, (_, script) in scripts.items()}
    why = "equal to eager to the bit"
    ours = ahead.share([(host, keys) for _, host, keys in told], communicator.rank)
    if ours and ahead.start_making(store, ours):
        why = "later runs: compiled beside this one"
    return FunctionGradient(wanted, "traced", functions), why


def load_kept(
    wanted: Wanted, keys: dict[int, str], communicator: Communicator, store: CodeStore
) -> tuple[FunctionGradient | None, str]:
    """The gradient by code in the store, where every rank has all of its own; else why not. Collective."""
    functions: dict[int, Callable[..., Sequence[torch.Tensor]]] = {}
    problem = ""
    try:
        for size, key in keys.items():
            path = store.get(key, ahead.CODE)
            if path is None:
                problem = "it is not in the folder"
                break
            functions[size] = ahead.load_code(path)
    except Exception as error:  # a folder for temporary files that is full, or takes no programs
        problem = one_line(f"{type(error).__name__}: {error}")
    problems = [text for text in communicator.gather_objects(problem) if text]
    return (None, problems[0]) if problems else (FunctionGradient(wanted, "kept", functions), "")


def traces(wanted: Wanted, mode: str, store: CodeStore) -> tuple[dict[int, tuple[str, Any]], str]:
    """(key, TorchScript) by size: from the store, or made; and what went wrong, if so. No entry for a size whose trace
    is not there and would not pay in a run so short."""
    function: GradientFunction | None = None
    found: dict[int, tuple[str, Any]] = {}
    values = *wanted.data.values(), *wanted.reads
    try:
        for size in wanted.sizes:
            key = "" if wanted.description is None else key_of(wanted, size)
            path = store.get(key, traced.TRACE) if key else None
            if path is not None:
                found[size] = key, traced.load_script(path)
                continue
            if mode == "auto" and wanted.steps < TRACING_EARNS:
                continue
            if function is None:
                parts = wanted.module, wanted.arena, wanted.loss, wanted.precision, wanted.data, wanted.names
                function = GradientFunction(*parts)
            script = traced.trace(function, size, values)
            key = key or key_of(wanted, size, script)
            store.put(key, traced.TRACE, traced.save_script(script))
            store.put(key, ahead.ARGUMENTS, ahead.describe(function.examples(size, values), len(wanted.reads)))
            found[size] = key, script
    except Exception as error:  # whatever tracing may raise: eager is always right
        return found, one_line(f"cannot be traced: {type(error).__name__}: {error}")
    return found, ""


def wait_for_code(store: CodeStore, keys: Sequence[str]) -> str:
    """Compiles what is missing here and now, or waits for the process that does; what went wrong, if so."""
    try:
        for key in keys:
            while not ahead.make_code(store, key) and ahead.is_being_made(store, key):
                pass
    except Exception as error:  # whatever a compiler may raise
        return one_line(f"{type(error).__name__}: {error}")
    return ""
