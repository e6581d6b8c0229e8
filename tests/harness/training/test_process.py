"""Memory that was freed is kept: the same allocation again takes no new pages from the system."""

from __future__ import annotations

import subprocess
import sys

from tests.conftest import need

CODE = """
import resource, sys
import torch
from harness.training.process import keep_freed_memory
kept = sys.argv[1] == "kept" and keep_freed_memory()
faults = []
for _ in range(12):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [torch.ones(12_000_000) for _ in range(3)]
    del tensors
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(int(kept), sorted(faults[4:])[4])  # the first find their places
"""


def run(how: str) -> tuple[int, int]:
    out = subprocess.run([sys.executable, "-c", CODE, how], capture_output=True, text=True, check=True).stdout
    kept, faults = out.split()
    return int(kept), int(faults)


def test_freed_memory_is_used_again() -> None:
    kept, faults = run("kept")
    need(kept, "glibc")
    assert faults < 1_000
    assert run("as it is")[1] > 10_000, "pages of 4 KB, of 144 MB"
