"""The command line: `python -m harness train|evaluate|export|serve|bench|compile|presets|doctor`."""

from __future__ import annotations

import argparse
import atexit
import errno
import os
import sys
import threading
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, NoReturn

from harness.bench.arguments import add_arguments as add_bench
from harness.errors import BadInput
from harness.launching.own_module import add_present_folder
from harness.policy.arguments import add_arguments as add_policy


class Parser(argparse.ArgumentParser):
    """Refuses as every other bad input is refused: in one line."""

    def error(self, message: str) -> NoReturn:
        raise BadInput(f"{message} (see {self.prog} --help)")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    about = "Data-parallel training over Horovod and MPI."
    parser = Parser(prog="python -m harness", description=about)
    commands = parser.add_subparsers(dest="command", required=True, metavar="|".join(COMMANDS))

    train = commands.add_parser("train", help="train a preset, or the run that a TOML file describes")
    train.add_argument("config", metavar="PRESET|FILE.toml")
    train.add_argument("overrides", nargs="*", metavar="section.key=value")
    train.add_argument("--ranks", type=int, metavar="N", help="start N ranks; without it this is a rank itself")
    train.add_argument("--hostfile", metavar="F", help="hosts and their slots, for --ranks")
    train.add_argument("--launcher", metavar="NAME", help="horovodrun, horovodrun-gloo, mpirun, pool or module:Class")
    train.add_argument(
        "--elastic", metavar="MIN:MAX", help="MIN to MAX ranks, which may come and go; in place of --ranks"
    )
    train.add_argument("--output", type=Path, metavar="DIR", help="the run's directory; default: runs/NAME-seedS")
    train.add_argument("--resume", default="auto", metavar="auto|never|PATH", help="which checkpoint to resume from")

    evaluate = commands.add_parser("evaluate", help="whole episodes of a trained policy")
    evaluate.add_argument("run_dir", type=Path, metavar="RUN_DIR|FILE.onnx")
    evaluate.add_argument("--env", metavar="ID|RUN_DIR|FILE.toml", help="where the policy of a file is to act")
    evaluate.add_argument("--episodes", type=int, default=100, metavar="N")
    evaluate.add_argument("--seed", type=int, default=None, metavar="S", help="of the episodes")
    evaluate.add_argument("--best", action="store_true", help="the best policy instead of the last")
    how = evaluate.add_mutually_exclusive_group()
    how.add_argument("--deterministic", action="store_true", default=None, help="the likeliest actions")
    how.add_argument("--stochastic", action="store_false", dest="deterministic", help="actions drawn as in training")
    evaluate.add_argument("--video", action="store_true", help="also write RUN_DIR/video.mp4")

    add_policy(commands)
    add_bench(commands)

    compile = commands.add_parser("compile", help="make the code that a config's runs load; without one: list it")
    compile.add_argument("config", nargs="?", metavar="PRESET|FILE.toml")
    compile.add_argument("overrides", nargs="*", metavar="section.key=value")
    compile.add_argument("--ranks", default="1", metavar="N,…", help="for runs of so many ranks")

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
    from harness.cluster.handshake import Handshake
    from harness.config import load_run_config
    from harness.lifecycle.result import read_result
    from harness.reporting.summary import summary
    from harness.run.checks import default_run_dir

    config, handshake = load_run_config(arguments.config, arguments.overrides), Handshake.read(os.environ)
    output = arguments.output or default_run_dir(config)
    names = ("ranks", "elastic", "hostfile", "launcher", "resume")
    before, written = read_result(output), time_of(output / "result.json")
    try:
        result = train_run(config, output=output, **{name: getattr(arguments, name) for name in names})
    except (Exception, SystemExit) as error:  # also of an environment that ends the process itself, even with 0
        failed = read_result(output)
        unwritable = isinstance(error, OSError) and error.errno in UNWRITABLE
        if isinstance(error, BadInput) or unwritable or failed is None or time_of(output / "result.json") == written:
            raise
        traceback.print_exc()
        sys.stderr.flush()
        print(summary(replace(failed, last_lines=[]), output), flush=True)
        return 1
    if not is_other_rank():
        print(summary(result, output), flush=True)
        if before == result:
            print("it was finished already, and nothing was trained: --resume never begins it anew", flush=True)
    if handshake.elastic:
        return 0  # to Horovod, any other code is a rank that was lost
    if result.status == "stopped" and handshake.has_parent:
        return 0  # the parent reads the result; for any other code mpirun takes seconds to end the other ranks
    return result.exit_code


def time_of(path: Path) -> int | None:
    """When the file was written; None where there is none."""
    return path.stat().st_mtime_ns if path.exists() else None


def is_other_rank() -> bool:
    from harness.cluster.place import detect_place

    return detect_place(os.environ).rank != 0


def evaluate(arguments: argparse.Namespace) -> int:
    from harness.lifecycle.signals import StopRequests
    from harness.policy.evaluate import environment_notice
    from harness.policy.evaluate import evaluate as evaluate_policy
    from harness.text import metrics_suffix

    for name, least in (("episodes", 1), ("seed", 0)):
        value = getattr(arguments, name)
        if value is not None and value < least:
            raise BadInput(f"--{name} must be >= {least}, got {value}")
    which: Literal["latest", "best"] = "best" if arguments.best else "latest"
    with StopRequests() as requests:
        found = evaluate_policy(
            arguments.run_dir,
            arguments.episodes,
            arguments.seed,
            which,
            arguments.video,
            arguments.deterministic,
            stop=lambda: requests.received is not None,
            env=arguments.env,
        )
    if (line := environment_notice(arguments.run_dir, arguments.env)) is not None:
        print(line)
    policy = f"the {which} policy" if arguments.run_dir.is_dir() else arguments.run_dir
    early = len(found.returns) < arguments.episodes
    if early:
        print(f"stopped ({requests.received}) after {len(found.returns)} of {arguments.episodes} episodes")
    if len(found.returns):
        print(f"{found.mean:.4g} ± {found.std:.3g} over {len(found.returns)} episodes of {policy}", end=" ")
        print(f"(least {found.returns.min():.4g}, most {found.returns.max():.4g}){metrics_suffix(found.metrics)}")
    if found.cut:
        print(f"{found.cut} of them were cut by evaluation.max_steps")
    if arguments.video:
        print(f"video: {arguments.run_dir / 'video.mp4'}")
    return 75 if early else 0


def presets(arguments: argparse.Namespace) -> int:
    from harness.config import preset_path
    from harness.presets.catalogue import catalogue

    print(preset_path(arguments.name).read_text().rstrip("\n") if arguments.name is not None else catalogue())
    return 0


def bench(arguments: argparse.Namespace) -> int:
    from harness.bench.commands import main as measure

    return measure(arguments)


def export(arguments: argparse.Namespace) -> int:
    from harness.policy.commands import export as export_policy

    return export_policy(arguments)


def serve(arguments: argparse.Namespace) -> int:
    from harness.policy.commands import serve as serve_policy

    return serve_policy(arguments)


def doctor(arguments: argparse.Namespace) -> int:
    from harness.doctor import main as examine

    return examine()


def compile(arguments: argparse.Namespace) -> int:
    from harness.bench.arguments import rank_counts
    from harness.config import load_run_config
    from harness.run.precompile import kept_code, precompile

    if arguments.config is None:
        print("\n".join(kept_code()))
        return 0
    config = load_run_config(arguments.config, arguments.overrides)
    for ranks in rank_counts(arguments.ranks, 1):
        for line in precompile(config, ranks):
            print(line, flush=True)
    return 0


UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""A disk that is full, or has become read-only, is told in a line."""
COMMANDS = {
    "train": train,
    "evaluate": evaluate,
    "export": export,
    "serve": serve,
    "bench": bench,
    "compile": compile,
    "presets": presets,
    "doctor": doctor,
}


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
