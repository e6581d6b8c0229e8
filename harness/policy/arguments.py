"""The options of `harness export`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


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
