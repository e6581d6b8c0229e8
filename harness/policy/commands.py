"""What `harness export` does, and what it prints."""

from __future__ import annotations

import argparse
from typing import Literal

from harness.errors import BadInput


def export(arguments: argparse.Namespace) -> int:
    from harness.policy.export import export as export_policy

    if arguments.states < 1:
        raise BadInput(f"--states must be >= 1, got {arguments.states}")
    which: Literal["latest", "best"] = "best" if arguments.best else "latest"
    made = export_policy(
        arguments.run_dirs, which, arguments.format, arguments.output, arguments.ensemble, arguments.states
    )
    checked, size = made.card.checked, made.path.stat().st_size
    ties = f", {checked['ties']} ties" if checked["ties"] else ""
    print(f"{made.path} ({size:,} bytes): acts as the policy does in {checked['states']:,} states of episodes{ties}")
    return 0
