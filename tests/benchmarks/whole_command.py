"""A whole command as a user types it, from Enter to its last line: wall clock and CPU seconds.

`python -m tests.benchmarks.whole_command [--cold] [--busy] --seed N --json FILE --command '…'`; `{seed}` in the
command is replaced. What it is measured with is what a user has: no variable of this project's is set.
"""

from __future__ import annotations

import argparse
import os
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness.files import write_json


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cold", action="store_true", help="no code in any cache, as after a clone")
    parser.add_argument("--busy", action="store_true", help="with a loop on one core beside it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--command", required=True)
    args = parser.parse_args()
    env = {name: value for name, value in os.environ.items() if not name.startswith("HARNESS_")}
    env["OMP_NUM_THREADS"] = "1"
    loop = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if args.busy else None
    try:
        with tempfile.TemporaryDirectory() as folder:
            if args.cold:
                env |= {"HARNESS_CODE_CACHE": f"{folder}/code", "TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor"}
            words = [word.replace("{seed}", str(args.seed)) for word in shlex.split(args.command)]
            words[0] = sys.executable if words[0] == "python" else words[0]
            before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
            done = subprocess.run(
                words, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    finally:
        if loop is not None:
            loop.kill()
            loop.wait()
    if done.returncode:
        print(done.stdout[-4000:], file=sys.stderr)
        return done.returncode
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    lines = done.stdout.strip().splitlines()
    said = next((line for line in reversed(lines) if line.startswith(("done:", "return"))), lines[-1])
    write_json(args.json, {"seconds": seconds, "cpu_seconds": cpu, "told": f"{cpu:.1f} CPU seconds; {said}"})
    return 0


if __name__ == "__main__":
    sys.exit(main())
