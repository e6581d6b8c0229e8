"""What launcher and ranks printed, taken apart: who wrote which line, which exception ended a rank, what it said last.

Ranks print whatever they like: progress bars that redraw a line, bytes that are no text, lines of megabytes, colours.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from harness.text import last_that_fit, one_line, without_escapes

LAST_LINES = 20
LONGEST = 10_000
"""Characters that are kept of one line."""
# `[1,0]<stdout>:` before each piece that a rank wrote under mpirun, `[0]<stdout>:` before its lines under Gloo
TAG = re.compile(r"\[(?:\d+,)?(\d+)\]<(stdout|stderr|stddiag)>:")
TRACEBACK = "Traceback (most recent call last)"
# before the lines of an exception group
BRANCH = re.compile(r"\s*(?:\|\s|\+\s(?=Exception Group))")
RULE = re.compile(r"[-+|\s\d.]*")
# a frame, its source, the box that rich draws around both
WITHIN = (" ", "\t", "│", "╭", "╰", "|", "+")
CHAINED = ("During handling of the above exception", "The above exception was the direct cause")
MESSAGE_LINES = 6
# Python's warnings and the source line below them; what Open MPI says of a signal in the rank's own name
WARNING = re.compile(r"\S+:\d+: \w*Warning: ")
OF_OPEN_MPI = re.compile(r"\[[^\]\s]+:\d+\] ")
FATAL = re.compile(r"Fatal Python error: ")
NEAR = 3
"""Lines: so late, what was said on standard error counts before standard output, whose order between them is chance."""


@dataclass
class Printed:
    """One rank's lines, in the order in which they were completed."""

    texts: list[str] = field(default_factory=list)
    streams: list[str] = field(default_factory=list)
    drawn: list[bool] = field(default_factory=list)
    """Whether a line was drawn over another one, as progress bars are."""

    def add(self, stream: str, text: str, drawn: bool = False) -> None:
        self.texts.append(text)
        self.streams.append(stream)
        self.drawn.append(drawn)

    def last_lines(self) -> tuple[str, ...]:
        return last_that_fit(self.texts[-LAST_LINES:])

    def exception(self) -> str | None:
        """The end of the last traceback with its whole message (`ValueError: …`), in one line; None without one.

        Each stream for itself: lines of the other may stand within.
        """
        for stream in ("stderr", "stdout", "stddiag"):
            found = last_exception([text for text, of in zip(self.texts, self.streams) if of == stream])
            if found is not None:
                return found
        return None

    def last_words(self) -> str | None:
        """The last informative line: why a rank ended that printed no traceback."""
        fatal = [text for text in self.texts if FATAL.match(text)]
        if fatal:
            return one_line(fatal[-1])
        informative = self._informative()
        late_errors = [index for index in informative[-NEAR:] if self.streams[index] == "stderr"]
        not_blank = [index for index, text in enumerate(self.texts) if text.strip()]
        chosen = late_errors[-1:] or informative[-1:] or not_blank[-1:]
        return one_line(self.texts[chosen[0]]) if chosen else None

    def last_error(self) -> str | None:
        """The last informative line on standard error."""
        said = [index for index in self._informative() if self.streams[index] == "stderr"]
        return one_line(self.texts[said[-1]]) if said else None

    def _informative(self) -> list[int]:
        """Which lines are neither blank, nor drawn over, nor a warning of Python's, nor Open MPI's line on a signal."""
        informative: list[int] = []
        below_warning = {stream: False for stream in self.streams}
        for index, (text, stream, drawn) in enumerate(zip(self.texts, self.streams, self.drawn)):
            warned, below_warning[stream] = below_warning[stream], bool(WARNING.match(text))
            source_of_warning = warned and text.startswith("  ")
            if text.strip() and not (drawn or WARNING.match(text) or source_of_warning or OF_OPEN_MPI.match(text)):
                informative.append(index)
        return informative


def last_exception(lines: list[str]) -> str | None:
    """The last exception with its message in the lines of one stream, as one line."""
    message: list[str] = []
    inside = reading = False
    for line in map(without_escapes, lines):
        if TRACEBACK in line:
            inside, reading = True, False
            continue
        while BRANCH.match(line):
            line = line[BRANCH.match(line).end() :]  # type: ignore[union-attr]
        if inside and line.strip() and not line.startswith(WITHIN):
            message, inside, reading = [line], False, True
        elif reading and (line.startswith(CHAINED) or len(message) == MESSAGE_LINES):
            reading = False
        elif reading and not RULE.fullmatch(line):
            message.append(line)
    return one_line(" ".join(message)) if message else None


def read_output(output: str, begun_before: bool = False) -> tuple[list[str], dict[int, Printed]]:
    """The launcher's own lines, and what each rank printed.

    mpirun tags pieces rather than lines: a line may hold several tags of its rank, and be cut by another rank's line.
    Where `output` has `begun_before`, what stands before its first newline or tag is half of something, and left out.
    """
    launcher: list[str] = []
    ranks: dict[int, Printed] = {}
    unfinished: dict[tuple[int, str], str] = {}
    tags = list(TAG.finditer(output))
    before = output[: tags[0].start() if tags else None]
    launcher += before.splitlines()[1 if begun_before else 0 :]
    for tag, following in zip(tags, [*tags[1:], None]):
        piece, newline, own = output[tag.end() : following.start() if following else None].partition("\n")
        stream = (int(tag[1]), tag[2])
        line = unfinished.pop(stream, "") + piece
        if newline:
            add_line(ranks.setdefault(stream[0], Printed()), stream[1], line)
        else:
            unfinished[stream] = drawn_last(line)
        launcher += own.splitlines()
    for (rank, kind), line in unfinished.items():
        if line.strip("\r"):
            add_line(ranks.setdefault(rank, Printed()), kind, line)
    return launcher, ranks


def add_line(printed: Printed, stream: str, line: str) -> None:
    """A whole line, as a terminal shows it: of what was drawn over each other in it, the last. A traceback that begins
    where a progress bar stood is on a line of its own."""
    line = line.rstrip("\r")
    over, _, text = line.rpartition("\r")
    drawn = "\r" in line
    bar, header, rest = text.partition(TRACEBACK)
    if header and not RULE.fullmatch(bar) and not bar.endswith(("Exception Group ", "─ ")):
        printed.add(stream, bar[:LONGEST], True)
        text, drawn = header + rest, False
    printed.add(stream, text[:LONGEST], drawn)


def drawn_last(line: str) -> str:
    """Of an unfinished line what can still count: what was drawn over is gone, but that something was is kept."""
    text = line.rstrip("\r")
    over, drawn, last = text.rpartition("\r")
    ends = line[len(text) :][:1]
    return (drawn and "\r") + last[-LONGEST:] + ends
