"""The command line: `python -m search run|status|best|retry|stop|report|export|dashboard|list|delete`."""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from harness.errors import BadInput
from harness.launching.own_module import add_present_folder
from harness.text import one_line
from search.display import complain, plural, write_any_character

EXIT_CODES = {"done": 0, "stopped": 75, "failed": 1}
BAD_INPUT = 2
COMMANDS = "run|status|best|retry|stop|report|export|dashboard|list|delete"
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
"""Of the study's folder: reported in a line. Trials run on, as they do without their driver."""
RUN_AGAIN = "running trials continue: run again to watch them"


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong in one line, as every other bad input is said."""

    def error(self, message: str) -> NoReturn:
        raise BadInput(f"{message} (python -m search --help)")


def make_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog="search", description="Studies whose every trial is a multi-rank job.")
    commands = parser.add_subparsers(dest="command", required=True, metavar=COMMANDS)
    run = commands.add_parser("run", help="run a study; again: add trials to it")
    run.add_argument("study", metavar="PRESET|FILE.toml")
    run.add_argument("overrides", nargs="*", metavar="section.key=value")
    run.add_argument("--study", dest="name", metavar="NAME", help="instead of study.name")
    run.add_argument("--storage", metavar="URL", help="instead of study.storage")
    run.add_argument("--hostfile", metavar="FILE", help="the hosts whose slots trials are given")
    run.add_argument("--dry-run", action="store_true", help="show what would be launched for one trial, make nothing")
    helps = {
        "status": "a table of the trials, drawn anew on a terminal",
        "best": "the best parameters",
        "retry": "queue failed trials again, for the next run",
        "stop": "ask the search that runs a study to stop, or to end one trial",
        "report": "one HTML file of plots, which are saved into the dashboard too",
        "export": "the trials as CSV or JSON",
        "dashboard": "Optuna Dashboard on 127.0.0.1",
        "list": "the studies in studies/, or in a storage",
        "delete": "delete a study and its files",
    }
    for name, text in helps.items():
        command = commands.add_parser(name, help=text)
        if name != "list":
            command.add_argument(
                "--study", dest="name", metavar="NAME", required=True, help="its name, its file or its directory"
            )
        command.add_argument("--storage", metavar="URL", help="where it is kept, if not in studies/NAME/")
        if name == "status":
            command.add_argument("--once", action="store_true", help="draw it once")
        if name == "best":
            command.add_argument("--toml", action="store_true", help="as a config that `harness train` takes")
            command.add_argument(
                "--export", type=Path, metavar="FILE.onnx", help="its policy, or that of all its seeds"
            )
        if name == "stop":
            command.add_argument("--trial", type=int, metavar="N", help="end this trial alone")
        if name == "export":
            command.add_argument("--format", choices=("csv", "json"), help="(csv, or as --output ends)")
            command.add_argument("--output", metavar="FILE", help="instead of standard output")
        if name == "delete":
            command.add_argument("--yes", action="store_true", help="without it, only say what would be deleted")
        if name == "dashboard":
            command.add_argument("--port", type=int, default=8080, help="(%(default)s)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 done, 2 bad input, 75 stopped on request, 1 anything else."""
    add_present_folder("search")
    write_any_character()
    try:
        options = parse(arguments)
        code = run(options) if options.command == "run" else look(options)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # `| head` has read enough
        with contextlib.suppress(OSError, ValueError):  # what is still in the buffer has no reader either
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except BadInput as error:
        complain(str(error))
        return BAD_INPUT
    except (StorageInternalError, SQLAlchemyError) as error:
        complain(f"the study's storage failed: {true_cause(error)}; {RUN_AGAIN}")
        return 1
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        complain(f"{error.filename or 'a file'} cannot be written: {error.strerror}; {RUN_AGAIN}")
        return 1


def true_cause(error: BaseException) -> str:
    """What the database itself said, in one line: Optuna calls a full disk or a lock invalid data."""
    while True:
        inner = getattr(error, "orig", None) or error.__cause__ or error.__context__
        if not isinstance(inner, BaseException):
            return one_line(str(error) or type(error).__name__, 300)
        error = inner


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Options and overrides may come in any order, which argparse alone does not take."""
    parser = make_parser()
    options, others = parser.parse_known_args(arguments)
    unknown = [other for other in others if other.startswith("-") or options.command != "run"]
    if unknown:
        parser.error(f"unknown argument {unknown[0]}")
    if options.command == "run":
        options.overrides = [*options.overrides, *others]
    return options


def run(options: argparse.Namespace) -> int:
    from search.commands.dry_run import dry_run
    from search.run import run_study
    from search.trials.prepared import prepare

    changes = {"name": options.name, "storage": options.storage, "hostfile": options.hostfile}
    if options.dry_run:
        for line in dry_run(prepare(options.study, options.overrides, **changes)):
            print(line)
        return 0
    ending = run_study(options.study, options.overrides, **changes).ending
    if ending.reason:
        complain(ending.reason)
    return EXIT_CODES[ending.status]


def look(options: argparse.Namespace) -> int:
    # each on its own: plotly and the dashboard take seconds to import
    storage = options.storage
    if options.command == "list":
        from search.commands.studies import list_studies

        list_studies(storage)
        return 0
    from search.study.existing import named

    name, of_file = named(options.name)
    storage = storage or of_file
    if options.command == "status":
        from search.commands.status import status

        status(name, storage, options.once)
    elif options.command == "best":
        from search.commands.best import best

        best(name, storage, options.toml, options.export)
    elif options.command == "retry":
        from search.commands.best import retry

        again = retry(name, storage)
        are = "is" if again == 1 else "are"
        print(f"{plural(again, 'failed trial')} {are} queued again; the next `search run` takes them first")
    elif options.command == "stop":
        from search.commands.studies import stop

        print(stop(name, storage, options.trial))
    elif options.command == "export":
        from search.commands.export import export

        print(export(name, storage, options.format, options.output), end="")
    elif options.command == "delete":
        from search.commands.studies import delete

        print(delete(name, storage, options.yes))
    elif options.command == "report":
        from search.commands.report import report

        print(report(name, storage))
    else:
        from search.commands.dashboard import dashboard

        dashboard(name, storage, options.port)
    return 0


if __name__ == "__main__":
    sys.exit(main())
