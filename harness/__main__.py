"""The command line: `python -m harness train|evaluate|bench|presets|doctor`."""

from __future__ import annotations

import argparse
import atexit
import errno
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NoReturn

from harness.bench.arguments import add_arguments as add_bench
from harness.errors import BadInput
from harness.launching.ours import add_present_folder

if TYPE_CHECKING:
    from harness.lifecycle.run_directory import Result


class Parser(argparse.ArgumentParser):
    """Refuses as every other bad input is refused: in one line."""

    def error(self, message: str) -> NoReturn:
        raise BadInput(f"{message} (see {self.prog} --help)")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    about = "Data-parallel training over Horovod and MPI."
    parser = Parser(prog="python -m harness", description=about)
    commands = parser.add_subparsers(dest="command", required=True, metavar="train|evaluate|bench|presets|doctor")

    train = commands.add_parser("train", help="train a preset, or the run that a TOML file describes")
    train.add_argument("config", metavar="PRESET|FILE.toml")
    train.add_argument("overrides", nargs="*", metavar="section.key=value")
    train.add_argument("--ranks", type=int, metavar="N", help="start N ranks; without it this is a rank itself")
    train.add_argument("--hostfile", metavar="F", help="hosts and their slots, for --ranks")
    train.add_argument("--launcher", metavar="NAME", help="horovodrun, horovodrun-gloo or mpirun, for --ranks")
    train.add_argument(
        "--elastic", metavar="MIN:MAX", help="MIN to MAX ranks, which may come and go; in place of --ranks"
    )
    train.add_argument("--output", type=Path, metavar="DIR", help="the run's directory; default: runs/NAME-seedS")
    train.add_argument("--resume", default="auto", metavar="auto|never|PATH", help="whether to go on from a checkpoint")

    evaluate = commands.add_parser("evaluate", help="whole episodes of a trained policy")
    evaluate.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    evaluate.add_argument("--episodes", type=int, default=100, metavar="N")
    evaluate.add_argument("--seed", type=int, default=None, metavar="S", help="of the episodes")
    evaluate.add_argument("--best", action="store_true", help="the best policy instead of the last")
    evaluate.add_argument("--video", action="store_true", help="also write RUN_DIR/video.mp4")

    add_bench(commands)

    presets = commands.add_parser("presets", help="the tuned configs, or one of them")
    presets.add_argument("name", nargs="?", metavar="NAME")
    commands.add_parser("doctor", help="what works on this machine, and what to do about what does not")
    parsed, rest = parser.parse_known_args(arguments)
    late = [word for word in rest if not word.startswith("-")]  # overrides may follow options; argparse loses them
    if len(late) < len(rest) or late and not hasattr(parsed, "overrides"):
        parser.error(f"unknown arguments: {' '.join(rest)}")
    if late:
        parsed.overrides += late
    return parsed


def train(arguments: argparse.Namespace) -> int:
    from harness.api import train as train_run
    from harness.config import load_run_config
    from harness.lifecycle.elastic import is_elastic
    from harness.lifecycle.run_directory import read_result
    from harness.run import default_run_dir

    config = load_run_config(arguments.config, arguments.overrides)
    output = arguments.output or default_run_dir(config)
    names = ("ranks", "elastic", "hostfile", "launcher", "resume")
    before = read_result(output)
    result = train_run(config, output=output, **{name: getattr(arguments, name) for name in names})
    if not is_other_rank():
        print(summary(result, output), flush=True)
        if before == result:
            print("it was finished already, and nothing was trained: --resume never begins it anew", flush=True)
    if is_elastic(os.environ):
        return 0  # to Horovod, any other code is a rank that was lost
    if result.status == "stopped" and os.environ.get("HARNESS_HAS_PARENT"):
        return 0  # the parent reads the result; for any other code mpirun takes seconds to end the other ranks
    return result.exit_code


def is_other_rank() -> bool:
    from harness.cluster.place import detect_place

    return detect_place(os.environ).rank != 0


def summary(result: Result, run_dir: Path) -> str:
    """The last lines of a run."""
    steps = f"{result.env_steps:,} steps in {result.wall_seconds:.1f} s ({result.env_steps_per_second:,.0f} steps/s)"
    ranks = f"{result.ranks} rank{'s' if result.ranks > 1 else ''}"
    lines = []
    if result.status == "done":
        value = f"{result.eval_return_mean:.4g} ± {result.eval_return_std:.3g} over {result.eval_episodes} episodes"
        early = f" ({result.reason})" if result.reason else ""
        lines.append(f"done{early}: {value}, {steps}, {ranks}")
    else:
        lines.append(f"{result.status}: {result.reason}; {steps}, {ranks}")
        lines += [f"  | {line}" for line in result.last_lines]
    lines.append(f"files: {run_dir}")
    return "\n".join(lines)


def evaluate(arguments: argparse.Namespace) -> int:
    from harness.policy import evaluate as evaluate_policy

    for name, least in (("episodes", 1), ("seed", 0)):
        value = getattr(arguments, name)
        if value is not None and value < least:
            raise BadInput(f"--{name} must be >= {least}, got {value}")
    which: Literal["latest", "best"] = "best" if arguments.best else "latest"
    found = evaluate_policy(arguments.run_dir, arguments.episodes, arguments.seed, which, arguments.video)
    print(f"{found.mean:.4g} ± {found.std:.3g} over {len(found.returns)} episodes of the {which} policy", end=" ")
    print(f"(least {found.returns.min():.4g}, most {found.returns.max():.4g})")
    if arguments.video:
        print(f"video: {arguments.run_dir / 'video.mp4'}")
    return 0


def presets(arguments: argparse.Namespace) -> int:
    from harness.catalogue import catalogue
    from harness.config import preset_path

    print(preset_path(arguments.name).read_text().rstrip("\n") if arguments.name is not None else catalogue())
    return 0


def bench(arguments: argparse.Namespace) -> int:
    from harness.bench.commands import main as measure

    return measure(arguments)


def doctor(arguments: argparse.Namespace) -> int:
    from harness.doctor import main as examine

    return examine()


UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""A disk that is full, or has become read-only, is told in a line."""
COMMANDS = {"train": train, "evaluate": evaluate, "bench": bench, "presets": presets, "doctor": doctor}


def main(arguments: Sequence[str] | None = None) -> int:
    add_present_folder("harness")
    command = ""
    try:
        parsed = parse(arguments)
        command = parsed.command
        return COMMANDS[parsed.command](parsed)
    except BadInput as error:
        if command in ("train", "bench"):
            from harness.cluster.place import detect_place, let_rank_0_speak_first

            let_rank_0_speak_first(detect_place(os.environ))
        print(f"harness: {error}", file=sys.stderr, flush=True)
        return 2
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        print(f"harness: {error}", file=sys.stderr, flush=True)
        return 1


def command() -> NoReturn:
    """`main` as a process, which ends without taking Python apart: a compiler's modules take seconds for that, more
    than a launcher or a cluster may give to a run that it stops. Whatever asked to be called at the end is called."""
    code = main()
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, as Python does before it ends
    atexit._run_exitfuncs()
    if "mpi4py.MPI" in sys.modules:  # which else ends MPI after Python itself
        from mpi4py import MPI

        if MPI.Is_initialized() and not MPI.Is_finalized():
            MPI.Finalize()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    command()
