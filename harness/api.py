"""What `python -m harness train` does, in Python."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from harness.config import load_run_config
from harness.errors import BadInput
from harness.lifecycle.result import Result
from harness.run.checks import check, default_run_dir, finished
from harness.run.supervisor import default_launcher, train_on_ranks
from harness.schema import RunConfig


def train(
    config: RunConfig | str | Path,
    overrides: Iterable[str] = (),
    *,
    output: Path | str | None = None,
    ranks: int | None = None,
    elastic: str | None = None,
    hostfile: Path | str | None = None,
    launcher: str | None = None,
    resume: str = "auto",
) -> Result:
    """Trains a preset, a TOML file or a config; returns what stands in `result.json`.

    With `ranks` this process starts so many and watches them; with `elastic`, `"MIN:MAX"`, so many as there are, which
    may come and go. Without either it is a rank of the launcher that started it, or alone. `output`: the run's
    directory, `runs/NAME-seedS` by default; a finished run found there is returned as it is.
    Raises BadInput, with nothing started, for whatever the command refuses.
    """
    if not isinstance(config, RunConfig):
        config = load_run_config(str(config), overrides)
    elif tuple(overrides):
        raise BadInput("overrides are for presets and files; change a RunConfig by its model_copy")
    run_dir = Path(output) if output is not None else default_run_dir(config)
    least: int | None = None
    if elastic is not None:
        if ranks is not None or launcher is not None:
            raise BadInput("--elastic MIN:MAX stands in place of --ranks, and has a launcher of its own")
        least, ranks = elastic_range(elastic)
    if ranks is None:
        for name, value in (("hostfile", hostfile), ("launcher", launcher)):
            if value is not None:
                raise BadInput(f"--{name} is for --ranks N, which is missing")
        from harness.run.train import train as train_here  # needs torch, which a parent does not

        return train_here(config, run_dir, resume)
    check(config, ranks)
    done = finished(run_dir, config, resume)
    if done is not None:
        return done
    launcher = launcher or default_launcher(os.environ)
    return train_on_ranks(config, run_dir, ranks, launcher, hostfile, resume, least)


def elastic_range(text: str) -> tuple[int, int]:
    """`1:4` as (1, 4)."""
    least, colon, most = text.partition(":")
    if not (colon and least.isdecimal() and most.isdecimal() and 1 <= int(least) <= int(most)):
        raise BadInput(f"--elastic must be MIN:MAX, two numbers of ranks such as 1:4, got {text!r}")
    return int(least), int(most)
