"""A gradient compiled ahead of time: made once per machine, loaded by every later run in milliseconds.

A run that finds no code for its minibatches leaves its trace in the store and has one process of low priority
compile it: `python -m harness.training.compile.ahead FOLDER KEY`. Runs that follow load what it made, without importing
a compiler.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from harness.launching.own_module import python_module
from harness.training.compile.store import CodeStore
from harness.training.compile.traced import TRACE, load_script

CODE, ARGUMENTS = "code", "arguments"
"""Kinds of entries: what is loaded, and the shapes that it is compiled for, of the trace under the same key."""


def describe(examples: Sequence[torch.Tensor], reads: int) -> bytes:
    """Shapes and dtypes of arguments, for whoever compiles a trace; the last `reads` of them are no samples."""
    each = [[list(tensor.shape), str(tensor.dtype).removeprefix("torch.")] for tensor in examples]
    return json.dumps({"arguments": each, "reads": reads, "threads": torch.get_num_threads()}).encode()


def compile_trace(path: Path, described: bytes) -> bytes:
    """The package that AOTInductor makes of a trace; 5 to 20 s on one core."""
    warnings.simplefilter("ignore", FutureWarning)  # torch's own use of what it deprecates
    wanted = json.loads(described)
    torch.set_num_threads(wanted["threads"])
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    import_module("torch._higher_order_ops.triton_kernel_wrap")  # make_fx names it without importing it
    inductor = import_module("torch._inductor")  # takes a second
    make_fx = import_module("torch.fx.experimental.proxy_tensor").make_fx

    examples = tuple(torch.zeros(shape, dtype=getattr(torch, dtype)) for shape, dtype in wanted["arguments"])
    with torch.jit.optimized_execution(False):  # its optimisations compare constants, which would be traced too
        graph = make_fx(load_script(path))(*examples)
    samples = torch.export.Dim("samples", min=2)  # of a rollout, or of what was drawn from a replay
    data = len(examples) - 3 - wanted["reads"]
    dynamic = [None, None, None, *[{0: samples}] * data, *[None] * wanted["reads"]]
    program = torch.export.export(_Graph(graph), examples, dynamic_shapes={"arguments": tuple(dynamic)})
    with tempfile.TemporaryDirectory() as folder:
        package = os.path.join(folder, "code.pt2")
        # tanh as 2 sigmoid(2x) - 1: half the time, to 1e-7
        configs = {"cpp.use_decompose_tanh": True}
        inductor.aoti_compile_and_package(program, package_path=package, inductor_configs=configs)
        return Path(package).read_bytes()


class _Graph(torch.nn.Module):
    """Any number of arguments under one name, for `dynamic_shapes`."""

    def __init__(self, graph: Any) -> None:
        super().__init__()
        self.graph = graph

    def forward(self, *arguments: torch.Tensor) -> Any:
        return self.graph(*arguments)


def load_code(path: Path) -> Callable[..., Sequence[torch.Tensor]]:
    """A function of the arguments that were traced. The public loader imports the compiler, which takes a second."""
    loader = torch._C._aoti.AOTIModelPackageLoader(str(path), "model", False, 1, -1)

    remove_unpacked()

    def run(*arguments: torch.Tensor) -> Sequence[torch.Tensor]:
        return loader.boxed_run(list(arguments))

    return run


def remove_unpacked() -> None:
    """Takes away the folders into which torch has unpacked what this process has mapped: it would leave them there."""
    with suppress(OSError):
        mapped = [line.split(maxsplit=5)[-1] for line in Path("/proc/self/maps").read_text().splitlines()]
        for folder in {Path(name.strip()).parents for name in mapped if "/aotinductor_" in name}:
            for each in folder:
                if each.name.startswith("aotinductor_"):
                    shutil.rmtree(each, ignore_errors=True)


def make_code(store: CodeStore, key: str) -> bool:
    """Compiles the trace of `key` into the store, unless another process does; whether the code is there now."""
    with store.alone(key, CODE) as alone:
        if not alone:
            return False
        if store.get(key, CODE) is None:
            trace, arguments = store.get(key, TRACE), store.get(key, ARGUMENTS)
            if trace is None or arguments is None:
                return False
            store.put(key, CODE, compile_trace(trace, arguments.read_bytes()))
    return store.get(key, CODE) is not None


def is_being_made(store: CodeStore, key: str, seconds: float = 0.1) -> bool:
    """Whether another process compiles it now; waits so long where one does."""
    with store.alone(key, CODE) as alone:
        if alone or store.folder is None or store.refused:
            return False
    time.sleep(seconds)
    return True


def share(lacking: Sequence[tuple[str, Sequence[str]]], rank: int) -> list[str]:
    """The keys for `rank` to have compiled, of each rank's host and keys: the first rank of a host that lacks any has
    all of its host's, which one process then makes; the others none."""
    host = lacking[rank][0]
    here = [(each, keys) for each, (where, keys) in enumerate(lacking) if where == host and keys]
    return list(dict.fromkeys(key for _, keys in here for key in keys)) if here and here[0][0] == rank else []


def start_making(store: CodeStore, keys: Sequence[str]) -> bool:
    """Begins that in a process of its own, which outlives this one and takes what time others leave; False where there
    is no compiler, or no folder for it."""
    if store.refused or shutil.which(os.environ.get("CXX", "g++")) is None:
        return False
    own = {name: value for name, value in os.environ.items() if not name.startswith(("HARNESS_", "OMPI_", "PMIX_"))}
    keys = [key for key in keys if not is_being_made(store, key, 0.0)]
    if not keys:
        return True
    command = [*python_module("harness.training.compile.ahead"), str(store.folder), *keys]
    with suppress(OSError):  # it is for later runs: this one goes on without
        subprocess.Popen(
            ["nice", "-n", "19", *command], env=own, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        return True
    return False


def main(folder: str, *keys: str) -> int:
    """One such process at a time in a folder: the others' runs find nothing this time, and a later one asks again."""
    store = CodeStore(Path(folder))
    with store.alone("any", CODE) as alone:
        return 0 if alone and all([make_code(store, key) for key in keys]) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
