"""How a job ended: who died and how, read from what the launcher and the ranks printed. Pure functions of text."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass

LAST_LINES = 20
UNKNOWN = -1
# `[1,0]<stdout>:` before each piece that a rank wrote under mpirun, `[0]<stdout>:` before its lines under Gloo
TAG = re.compile(r"\[(?:\d+,)?(\d+)\]<(stdout|stderr|stddiag)>:")
EXCEPTION = re.compile(r"([A-Za-z_]\w*\.)*[A-Z]\w*(:|$)")
# mpirun's notices, and Horovod's under Gloo. The first exit is also Gloo's summary, which goes by time.
BY_SIGNAL = re.compile(r"noticed that process rank (\d+) with PID \d+ on node\s+(\S+)\s+exited on\s+signal (\d+)")
FIRST_EXIT = re.compile(r"Process name: (?:\[\[\d+,\d+\],)?(\d+)\]?\n\s*Exit code:\s+(\d+)")
MPI_ABORT = re.compile(r"MPI_ABORT was invoked on rank (\d+) in communicator [^\n]*\s+with errorcode (\d+)")
IMPROPER_EXIT = re.compile(r"due to process rank (\d+) with PID \d+ on\s+node (\S+) exiting improperly")  # code is lost
GLOO_EXIT = re.compile(r"^Process (\d+) exit with status code (\d+)\.$", re.M)
LOST_HOST = re.compile(r"ORTE has lost communication with a remote daemon[\s\S]*?Remote daemon: \S+ on node (\S+)")
# What a rank raises because another one is gone: not the one to name while another raised something else.
FOLLOWERS = ("HorovodInternalError",)


@dataclass(frozen=True)
class Outcome:
    """The end of a job. `exit_code`: of the rank that ended it, 128 + n for signal n, -1 where it is unknown.

    failed_rank: None where no rank is to blame, or none could be named. host: of that rank, or one that was lost.
    signal: "SIGKILL" and the like; of a rank elsewhere under Gloo it is not known (ssh ends with 255 for any).
    last_lines: the last that the failed rank printed, else the launcher; without tags. reason: the exception's line, or
    the launcher's own words. hang: why a watcher gave that rank up, in words that follow "rank 1 on host".
    """

    exit_code: int
    failed_rank: int | None = None
    host: str | None = None
    signal: str | None = None
    last_lines: tuple[str, ...] = ()
    reason: str | None = None
    hang: str | None = None

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
            return f"{who}{where} was killed by {self.signal}"
        code = "an unknown exit code" if self.exit_code == UNKNOWN else f"exit code {self.exit_code}"
        return f"{who}{where} ended with {code}" + (f": {self.reason[:300]}" if self.reason else "")


@dataclass(frozen=True)
class Death:
    """A rank's end as the launcher noticed it."""

    rank: int
    exit_code: int
    host: str | None = None


def read_outcome(output: str, exit_code: int | None, rank_hosts: Sequence[str]) -> Outcome:
    """The outcome of a job that ended with `exit_code` (None: nobody saw it) and whose ranks ran on `rank_hosts`."""
    if exit_code == 0:
        return Outcome(0)
    launcher, ranks = split_output(output)
    death = _to_blame(deaths(launcher, exit_code), ranks)
    if death is None and exit_code == 1:  # Open MPI's notice of an abort is lost now and then
        death = _raised(ranks)
    if death is None and exit_code == 2:
        death = _refused(ranks)
    if death is None:
        code = UNKNOWN if exit_code is None else exit_code if exit_code >= 0 else 128 - exit_code
        name = signal_name(-exit_code) if exit_code is not None and exit_code < 0 else None
        said = [line.strip() for line in launcher if not re.fullmatch(r"\s*|-{10,}", line)]
        reason = last_exception(said) or " ".join(said[:3]) or None
        lost = LOST_HOST.search("\n".join(launcher))
        return Outcome(code, None, lost[1] if lost else None, name, tuple(said[-LAST_LINES:]), reason)
    host = death.host or (rank_hosts[death.rank] if death.rank < len(rank_hosts) else None)
    by_signal = 128 < death.exit_code <= 128 + max(signal.valid_signals())
    name = signal_name(death.exit_code - 128) if by_signal else None
    lines = ranks.get(death.rank, [])
    return Outcome(death.exit_code, death.rank, host, name, tuple(lines[-LAST_LINES:]), last_exception(lines))


def split_output(output: str) -> tuple[list[str], dict[int, list[str]]]:
    """The launcher's own lines, and each rank's in the order in which they were completed.

    mpirun tags pieces rather than lines: a line may hold several tags of its rank, and be cut by another rank's line.
    """
    launcher: list[str] = []
    ranks: dict[int, list[str]] = {}
    unfinished: dict[tuple[int, str], str] = {}
    tags = list(TAG.finditer(output))
    launcher += output[: tags[0].start() if tags else None].splitlines()
    for tag, following in zip(tags, [*tags[1:], None]):
        piece, newline, own = output[tag.end() : following.start() if following else None].partition("\n")
        stream = (int(tag[1]), tag[2])
        line = unfinished.pop(stream, "") + piece
        if newline:
            ranks.setdefault(stream[0], []).append(line.rstrip("\r"))
        else:
            unfinished[stream] = line
        launcher += own.splitlines()
    for (rank, _), line in unfinished.items():
        if line:
            ranks.setdefault(rank, []).append(line)
    return launcher, ranks


def deaths(launcher: Sequence[str], exit_code: int | None = None) -> list[Death]:
    """The ranks' ends in the launcher's own lines, first the one that it says came first."""
    text = "\n".join(launcher)
    found = [Death(int(rank), 128 + int(number), host) for rank, host, number in BY_SIGNAL.findall(text)]
    found += [Death(int(rank), int(code)) for rank, code in FIRST_EXIT.findall(text)]
    found += [Death(int(rank), int(code)) for rank, code in MPI_ABORT.findall(text)]
    found += [Death(int(rank), exit_code or 1, host) for rank, host in IMPROPER_EXIT.findall(text)]
    found += [Death(int(rank), int(code)) for rank, code in GLOO_EXIT.findall(text)]
    return found


def _to_blame(noticed: Sequence[Death], ranks: dict[int, list[str]]) -> Death | None:
    """The death that the others followed: the first noticed, unless that rank only raised that another one was gone."""
    if not noticed or not _follows(ranks.get(noticed[0].rank, [])):
        return noticed[0] if noticed else None
    ended_by_us = 128 + signal.SIGTERM  # how launchers end the remaining ranks
    for death in noticed:
        if death.exit_code != ended_by_us and not _follows(ranks.get(death.rank, [])):
            return death
    return _raised(ranks) or noticed[0]


def _raised(ranks: dict[int, list[str]]) -> Death | None:
    """The first rank that printed a traceback of its own."""
    for rank, lines in sorted(ranks.items()):
        if last_exception(lines) and not _follows(lines):
            return Death(rank, 1)  # Python's exit code of an uncaught exception
    return None


def _refused(ranks: dict[int, list[str]]) -> Death | None:
    """The first rank that told in a line what it was given and cannot run."""
    for rank, lines in sorted(ranks.items()):
        if any(line.startswith("harness: ") for line in lines):
            return Death(rank, 2)
    return None


def _follows(lines: Sequence[str]) -> bool:
    exception = last_exception(lines)
    return exception is not None and exception.partition(":")[0].rpartition(".")[2] in FOLLOWERS


def last_exception(lines: Sequence[str]) -> str | None:
    """The end of the last traceback (`ValueError: …`), None without one. Lines of another stream may stand within."""
    exception, inside = None, False
    for line in lines:
        if line.startswith("Traceback (most recent call last)"):
            inside = True
        elif inside and EXCEPTION.match(line):
            exception, inside = line, False
    return exception


def signal_name(number: int) -> str:
    """SIGKILL for 9."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
