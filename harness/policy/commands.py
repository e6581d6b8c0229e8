"""What `harness export` and `harness serve` do, and what they print."""

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


def serve(arguments: argparse.Namespace) -> int:
    from harness.policy.serving.connection import Limits
    from harness.policy.serving.server import Options
    from harness.policy.serving.server import serve as serve_policy

    for name, least, most in (
        ("workers", 1, 1024),
        ("port", 0, 65534),
        ("health_port", 0, 65535),
        ("max_batch", 1, 2**20),
        ("connections", 1, 2**16),
    ):
        value = getattr(arguments, name)
        if value is not None and not least <= value <= most:
            raise BadInput(f"--{name.replace('_', '-')} must be {least} to {most}, got {value}")
    options = Options(
        arguments.source,
        arguments.best,
        arguments.workers,
        arguments.host,
        arguments.port,
        arguments.health_port,
        gpus_of(arguments.gpus),
        Limits(batch=arguments.max_batch),
        arguments.connections,
    )
    return serve_policy(options)


def gpus_of(text: str | None) -> tuple[int, ...]:
    if text is None:
        return ()
    try:
        numbers = tuple(int(each) for each in text.split(","))
    except ValueError:
        raise BadInput(f"--gpus must be numbers such as 0,1, got {text!r}") from None
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise BadInput("--gpus needs onnxruntime-gpu: this ONNX Runtime has none but " + listed_providers())
    return numbers


def listed_providers() -> str:
    import onnxruntime

    return ", ".join(onnxruntime.get_available_providers())
