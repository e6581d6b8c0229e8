"""What a rank records before it ends, and how an end without a result is told."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.files import append_json_line, read_json, write_json
from harness.lifecycle.heartbeat import clear_heartbeats, read_beats
from harness.lifecycle.result import Made
from harness.text import last_that_fit, one_line


def record_failure(run_dir: Path, rank: int, host: str, reason: str, lines: list[str], made: Made = Made()) -> None:
    """What a rank that cannot go on leaves behind: its own file, for whoever writes the result."""
    record = {"rank": rank, "host": host, "reason": one_line(reason), "lines": last_that_fit(lines)}
    write_json(run_dir / f"failure.rank-{rank}.json", {**record, "made": asdict(made)})


def made_of(record: Mapping[str, Any]) -> Made:
    """How far the run had come when a rank recorded its failure."""
    return Made(**record.get("made", {}))


def claim_failures(run_dir: Path) -> list[dict[str, Any]]:
    """The failures that ranks recorded, in the order of ranks; they are taken away with it."""
    found = []
    for path in sorted(run_dir.glob("failure.rank-*.json")):
        record = read_json(path)
        if isinstance(record, dict):
            found.append(record)
        path.unlink(missing_ok=True)
    return sorted(found, key=lambda record: record["rank"])


def has_failures(run_dir: Path) -> bool:
    """Whether a rank of this attempt has recorded that it cannot go on."""
    return any(run_dir.glob("failure.rank-*.json"))


def end_without_result(run_dir: Path) -> str | None:
    """How the attempt before this one ended, where nobody was left to write a result: what a rank recorded, or else
    when each gave its last sign of life. None where there was none, or it did write one."""
    if (run_dir / "result.json").exists():
        return None
    for path in sorted(run_dir.glob("failure.rank-*.json")):
        record = read_json(path)
        if isinstance(record, dict):
            return f"rank {record['rank']} on {record['host']} failed: {record['reason']}"
    beats = sorted(read_beats(run_dir).values(), key=lambda beat: (beat.time, beat.rank))
    signs = [
        f"rank {beat.rank} on {beat.host} at {time.strftime('%H:%M:%S', time.localtime(beat.time))} in {beat.where}"
        for beat in beats
    ]
    return f"its ranks were killed, or their hosts lost; last signs of life: {', '.join(signs)}" if signs else None


def report_end_without_result(run_dir: Path) -> None:
    """Tells it, and keeps it in `attempts.jsonl`; before this attempt writes anything. What it is told from is taken
    away: it is told once, and is no later attempt's."""
    ended = end_without_result(run_dir)
    if ended is not None:
        print(f"the attempt before ended without a result: {ended}", file=sys.stderr, flush=True)
        with suppress(OSError):
            append_json_line(
                run_dir / "attempts.jsonl", {"ended": ended, "noticed": time.strftime("%Y-%m-%d %H:%M:%S")}
            )
    claim_failures(run_dir)
    clear_heartbeats(run_dir)
