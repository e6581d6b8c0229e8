"""The options of `harness export` and `harness serve`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from harness.policy.protocol import PORT


def add_arguments(commands: Any) -> None:
    export: argparse.ArgumentParser = commands.add_parser("export", help="a policy as one file, for use without torch")
    export.add_argument("run_dirs", nargs="+", type=Path, metavar="RUN_DIR")
    export.add_argument("--best", action="store_true", help="the best policy instead of the last")
    export.add_argument("--format", choices=("onnx", "torch"), default="onnx", help="(%(default)s)")
    export.add_argument("--output", type=Path, metavar="FILE", help="instead of RUN_DIR/policy.onnx")
    export.add_argument(
        "--ensemble", choices=("mean", "vote"), metavar="mean|vote", help="one policy of several runs' policies"
    )
    export.add_argument(
        "--states", type=int, default=1_000, metavar="N", help="of real episodes, that the file is checked on (1,000)"
    )

    serve: argparse.ArgumentParser = commands.add_parser("serve", help="a policy behind a port, in batches")
    serve.add_argument("source", type=Path, metavar="RUN_DIR|FILE.onnx")
    serve.add_argument("--best", action="store_true", help="the best policy of a run instead of the last")
    serve.add_argument("--workers", type=int, default=1, metavar="N", help="processes, each on a core (%(default)s)")
    serve.add_argument("--port", type=int, default=PORT, metavar="P", help="0: any that is free (%(default)s)")
    serve.add_argument("--host", default="127.0.0.1", metavar="H", help="the address to listen on (%(default)s)")
    serve.add_argument("--health-port", type=int, metavar="P", help="of /health and /metrics; default: after --port")
    serve.add_argument("--gpus", metavar="0,1", help="GPUs of the workers in turn, instead of cores")
    serve.add_argument("--max-batch", type=int, default=1024, metavar="N", help="observations of a batch (%(default)s)")
    serve.add_argument(
        "--connections", type=int, default=512, metavar="N", help="open at once, of all workers (%(default)s)"
    )
