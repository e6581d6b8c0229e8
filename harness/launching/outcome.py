"""How a job ended: who died and how, read from what the launcher and the ranks printed. Pure functions of text."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass

from harness.launching.output import Printed, read_output
from harness.text import one_line

UNKNOWN = -1
NOT_STARTED = (126, 127)
"""What `env` and shells end with where a command cannot be run, or is not there."""
# mpirun's notices, and Horovod's under Gloo. The first exit is also Gloo's summary, which goes by time.
BY_SIGNAL = re.compile(r"noticed that process rank (\d+) with PID \d+ on node\s+(\S+)\s+exited on\s+signal (\d+)")
FIRST_EXIT = re.compile(r"Process name: (?:\[\[\d+,\d+\],)?(\d+)\]?\n\s*Exit code:\s+(\d+)")
MPI_ABORT = re.compile(r"MPI_ABORT was invoked on rank (\d+) in communicator [^\n]*\s+with errorcode (\d+)")
IMPROPER_EXIT = re.compile(r"due to process rank (\d+) with PID \d+ on\s+node (\S+) exiting improperly")  # code is lost
GLOO_EXIT = re.compile(r"^Process (\d+) exit with status code (\d+)\.$", re.M)
UNREACHABLE = re.compile(
    r"ssh: (?:connect to host|Could not resolve hostname) ([\w.-]*\w)|ssh not successful for host ([\w.-]*\w)"
)
LOST_HOST = re.compile(r"ORTE has lost communication with a remote daemon[\s\S]*?Remote daemon: \S+ on node (\S+)")
# What a rank raises because another one is gone: not the one to name while another raised something else.
FOLLOWERS = ("HorovodInternalError",)
# A rank that raises one of these has come to its end by itself, and has said why; others were sent from outside.
OWN_SIGNALS = ("SIGABRT", "SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGTRAP", "SIGSYS")


@dataclass(frozen=True)
class Outcome:
    """The end of a job. `exit_code`: of the rank that ended it, 128 + n for signal n, -1 where it is unknown.

    failed_rank: None where no rank is to blame, or none could be named. host: of that rank, or one that was lost.
    signal: "SIGKILL" and the like; of a rank elsewhere under Gloo it is not known (ssh ends with 255 for any).
    last_lines: the last that the failed rank printed, else the launcher; without tags. reason: the exception with its
    message, where there is none the rank's last line, or the launcher's own words, in one line. hang: why that rank
    was given up, in words that follow "rank 1 on host".
    """

    exit_code: int
    failed_rank: int | None = None
    host: str | None = None
    signal: str | None = None
    last_lines: tuple[str, ...] = ()
    reason: str | None = None
    hang: str | None = None
    lost_host: str | None = None
    """A host that cannot be reached, or any more: no rank is to blame, and no other job will run there."""

    def describe(self) -> str:
        """One line: who, where, how, and the exception where there was one."""
        if self.exit_code == 0:
            return "ended well"
        who = "the launcher" if self.failed_rank is None else f"rank {self.failed_rank}"
        where = f" on {self.host}" if self.host else ""
        if self.hang is not None:
            return f"{who}{where} {self.hang}"
        if self.failed_rank is None and self.host:
            return f"host {self.host} was lost: its ranks cannot be reached any more"
        if self.signal:
            why = self.reason if self.signal in OWN_SIGNALS else None
            return f"{who}{where} was killed by {self.signal}" + (f": {self.reason_cut}" if why else "")
        code = "an unknown exit code" if self.exit_code == UNKNOWN else f"exit code {self.exit_code}"
        return f"{who}{where} ended with {code}" + (f": {self.reason_cut}" if self.reason else "")

    @property
    def reason_cut(self) -> str:
        """The reason, as long as fits into a line with other things."""
        return one_line(self.reason or "", 300)


@dataclass(frozen=True)
class Death:
    """A rank's end as the launcher noticed it."""

    rank: int
    exit_code: int
    host: str | None = None


def read_outcome(output: str, exit_code: int | None, rank_hosts: Sequence[str], begun_before: bool = False) -> Outcome:
    """The outcome of a job that ended with `exit_code` (None: unknown) and whose ranks ran on `rank_hosts`.

    `begun_before`: `output` is the end of what was printed, and its first line may be half a line.
    """
    if exit_code == 0:
        return Outcome(0)
    launcher, ranks = read_output(output, begun_before)
    death = _to_blame(deaths(launcher, exit_code), ranks)
    if death is None and exit_code == 1:  # Open MPI's notice of an abort is lost now and then
        death = _raised(ranks)
    if death is None and exit_code == 2:
        death = _refused(ranks)
    if death is None and exit_code in NOT_STARTED:
        death = _not_started(ranks, exit_code)
    if death is None:
        code = UNKNOWN if exit_code is None else exit_code if exit_code >= 0 else 128 - exit_code
        name = signal_name(-exit_code) if exit_code is not None and exit_code < 0 else None
        said = Printed()
        for line in launcher:
            if not re.fullmatch(r"\s*|-{10,}", line):
                said.add("stderr", line)
        reason = said.exception() or one_line(" ".join(said.texts[:3])) or None
        text = "\n".join(launcher)
        lost, unreachable = LOST_HOST.search(text), UNREACHABLE.search(text)
        lost_host = lost[1] if lost else unreachable[1] or unreachable[2] if unreachable else None
        return Outcome(
            code, None, lost[1] if lost else None, name, said.last_lines(), reason, lost_host=lost_host
        )  # fmt: skip
    host = death.host or (rank_hosts[death.rank] if death.rank < len(rank_hosts) else None)
    by_signal = 128 < death.exit_code <= 128 + max(signal.valid_signals())
    name = signal_name(death.exit_code - 128) if by_signal else None
    printed = ranks.get(death.rank, Printed())
    reason = printed.exception() or printed.last_words()
    return Outcome(death.exit_code, death.rank, host, name, printed.last_lines(), reason)


def split_output(output: str) -> tuple[list[str], dict[int, list[str]]]:
    """The launcher's own lines, and each rank's in the order in which they were completed."""
    launcher, ranks = read_output(output)
    return launcher, {rank: printed.texts for rank, printed in ranks.items()}


def deaths(launcher: Sequence[str], exit_code: int | None = None) -> list[Death]:
    """The ranks' ends in the launcher's own lines, first the one that it says came first."""
    text = "\n".join(launcher)
    found = [Death(int(rank), 128 + int(number), host) for rank, host, number in BY_SIGNAL.findall(text)]
    found += [Death(int(rank), int(code)) for rank, code in FIRST_EXIT.findall(text)]
    found += [Death(int(rank), int(code)) for rank, code in MPI_ABORT.findall(text)]
    found += [Death(int(rank), exit_code or 1, host) for rank, host in IMPROPER_EXIT.findall(text)]
    found += [Death(int(rank), int(code)) for rank, code in GLOO_EXIT.findall(text)]
    return found


def _to_blame(noticed: Sequence[Death], ranks: dict[int, Printed]) -> Death | None:
    """The death that the others followed: the first noticed, unless that rank only raised that another one was gone."""
    if not noticed or not _follows(ranks.get(noticed[0].rank)):
        return noticed[0] if noticed else None
    ended_by_us = 128 + signal.SIGTERM  # how launchers end the remaining ranks
    for death in noticed:
        if death.exit_code != ended_by_us and not _follows(ranks.get(death.rank)):
            return death
    return _raised(ranks) or _left(ranks) or noticed[0]


def _raised(ranks: dict[int, Printed]) -> Death | None:
    """The first rank that printed a traceback of its own."""
    for rank, printed in sorted(ranks.items()):
        if printed.exception() and not _follows(printed):
            return Death(rank, 1)  # Python's exit code of an uncaught exception
    return None


def _left(ranks: dict[int, Printed]) -> Death | None:
    """The one rank that wrote to standard error and did not follow another: no launcher noticed how it ended."""
    said = [rank for rank, printed in ranks.items() if not _follows(printed) and printed.last_error()]
    return Death(said[0], UNKNOWN) if len(said) == 1 else None


def _refused(ranks: dict[int, Printed]) -> Death | None:
    """The first rank that refused its input in a line."""
    for rank, printed in sorted(ranks.items()):
        if any(line.startswith("harness: ") for line in printed.texts):
            return Death(rank, 2)
    return None


def _not_started(ranks: dict[int, Printed], exit_code: int) -> Death | None:
    """The first rank whose command could not be started: `env`, which starts it, says so."""
    for rank, printed in sorted(ranks.items()):
        if any(line.startswith("env: ") for line in printed.texts):
            return Death(rank, exit_code)
    return None


def _follows(printed: Printed | None) -> bool:
    exception = printed.exception() if printed is not None else None
    return exception is not None and exception.partition(":")[0].rpartition(".")[2] in FOLLOWERS


def signal_name(number: int) -> str:
    """SIGKILL for 9."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
