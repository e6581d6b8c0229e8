"""Runs under faults, drawn from a seed: each run takes several, one an attempt, and goes on until it is done."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from tests.chaos.faults import FAULTS, DiskFull, Fault, mount
from tests.chaos.scene import PATHS, RUNS, UPDATES, Scene

FAULTS_A_RUN = 4
SMALL = "48m"
"""Of the file system that a run writes to, where mounting is allowed."""
GONE_WITHIN = 15.0
"""Seconds after which no process of a run is left that has ended, in whatever way."""


@dataclass
class Struck:
    """A fault, and what came of it."""

    fault: str
    seed: int
    run: int
    launcher: str
    kind: str
    """Of the run: what RUNS calls it."""
    what: str
    """What it did: `SIGKILL to rank 1`."""
    updates: int
    """That the run had made when it struck."""
    ended: str
    """How that attempt ended."""
    seconds: float = 0.0
    """That the attempt took."""
    troubles: list[str] = field(default_factory=list)
    """What must not have happened."""
    corrupt: bool = False
    """Whether the attempt that followed loaded a checkpoint that is damaged."""
    lost: bool = False
    """Whether the run never came to its end."""
    equal: bool = False
    """Whether the run ended with the undisturbed one's parameters to the bit, its final evaluation, and each update in
    its metrics once."""


@dataclass(frozen=True)
class Calm:
    """What a run that no fault strikes ends with."""

    result: dict
    last: str
    """The name of its last checkpoint."""
    learned: dict[str, torch.Tensor]

    def same(self, scene: Scene, disk_was_full: bool) -> bool:
        newest = scene.newest()
        same = scene.result().get("eval_return_mean") == self.result["eval_return_mean"]
        if not same or scene.updates() != UPDATES or newest is None:
            return False
        if newest.name != self.last:  # a disk that stayed full costs the last checkpoints
            return disk_was_full
        learned = scene.learned()
        return all(torch.equal(learned[name], value) for name, value in self.learned.items())


def undisturbed(folder: Path, kind: str) -> Calm:
    scene = Scene(folder, "calm", "mpirun", kind)
    scene.start()
    assert scene.wait() == 0, scene.said()
    newest = scene.newest()
    assert newest is not None
    return Calm(scene.result(), newest.name, scene.learned())


def drawn(seed: int, possible: list[Fault]) -> Iterator[Fault]:
    """Faults without end: each kind as often as the others, in an order that the seed gives."""
    random = np.random.default_rng([seed, 0xC4A05])
    while True:
        for index in random.permutation(len(possible)):
            yield possible[index]


def sweep(
    folder: Path,
    faults: int,
    seed: int = 0,
    tell: Callable[[str], None] = print,
    keep: Callable[[Struck], None] = lambda struck: None,
) -> tuple[list[Struck], dict[str, str]]:
    """What came of so many faults, and the kinds that this machine cannot have, with the reason.

    `keep` is given each of them when its run is over.
    """
    missing = {fault.name: reason for fault in FAULTS if (reason := fault.missing()) is not None}
    possible = [fault for fault in FAULTS if fault.name not in missing]
    calm: dict[str, Calm] = {}
    order = drawn(seed, possible)
    found: list[Struck] = []
    number = 0
    while len(found) < faults:
        few, kind = min(FAULTS_A_RUN, faults - len(found)), list(RUNS)[(seed + number) % len(RUNS)]
        if kind not in calm:
            calm[kind] = undisturbed(folder / f"undisturbed-{len(calm)}", kind)
            result = calm[kind].result
            tell(f"{kind}, undisturbed: {result['eval_return_mean']:g} after {result['wall_seconds']:.1f} s")
        small = not any(fault.name == "a full disk" for fault in FAULTS if fault.name in missing)
        of_run = endure(folder / f"run-{number}", seed, number, kind, order, few, calm[kind], small, tell)
        for struck in of_run:
            keep(struck)
        found += of_run
        number += 1
    return found, missing


def endure(
    folder: Path,
    seed: int,
    number: int,
    kind: str,
    order: Iterator[Fault],
    faults: int,
    calm: Calm,
    small: bool,
    tell: Callable[[str], None],
) -> list[Struck]:
    """One run that takes up to so many faults."""
    random = np.random.default_rng([seed, number])
    launcher = str(random.choice(list(PATHS)))
    scene = Scene(folder, f"chaos{seed}x{number}", launcher, kind)
    if small:
        assert not mount("-t", "tmpfs", "-o", f"size={SMALL}", "none", str(scene.run_dir))
    found: list[Struck] = []
    try:
        while len(found) < faults and scene.result().get("status") != "done":
            began = time.monotonic()
            struck = attempt(scene, seed, number, next(order), random)
            note_corrupt(found, scene)
            if struck is not None:
                struck.seconds = time.monotonic() - began
                found.append(struck)
                line = (
                    f"{struck.fault} ({struck.what}) after {struck.updates} updates, {struck.launcher}: {struck.ended}"
                )
                tell(f"run {number}: {line}, {struck.seconds:.0f} s" + "".join(f"\n  {t}" for t in struck.troubles))
        result = last_attempts(scene, found)
        done = result.get("status") == "done"
        equal = done and calm.same(scene, any(struck.fault == DiskFull.name for struck in found))
        for struck in found:
            struck.lost, struck.equal = not done, equal
        tell(f"run {number}: {result.get('status')}, {result.get('eval_return_mean')}, {scene.updates()} updates")
    finally:
        scene.kill_all()
        if small:
            kept = folder / "kept"
            shutil.copytree(scene.run_dir, kept, symlinks=True, ignore=shutil.ignore_patterns("ballast"))
            subprocess.run(["umount", "--lazy", str(scene.run_dir)], check=True)
    return found


def attempt(scene: Scene, seed: int, number: int, fault: Fault, random: np.random.Generator) -> Struck | None:
    """An attempt that the fault strikes; None where it was over before."""
    early, share, seconds = random.random() < 0.15, random.random(), random.random()
    done = scene.updates()
    scene.start()
    if early:  # while the ranks start
        hung = scene.wait_until(0, 4 * seconds)
    else:
        hung = scene.wait_until(done + 1 + int(share * 0.5 * (UPDATES - done)), 0.4 * seconds)
    updates = scene.updates()
    what = fault.strike(scene, random) if scene.running() else ""
    code = scene.wait()
    healed = fault.heal(scene, random) if what else ""
    troubles = [hung] if hung else []
    if code is None:
        troubles.append("it did not end")
    elif what and code not in (0, *fault.codes):
        troubles.append(f"exit code {code}: {scene.said().strip().splitlines()[-1:]}")
    if re.search(r"^Traceback", scene.said(), re.M) and code != -signal.SIGINT:  # not one that it tells of a rank
        troubles.append("its parent ended in a traceback")
    if left := scene.left_after(LONGEST_ALONE if code == -9 and fault.name == "kill -9 of the parent" else GONE_WITHIN):
        troubles.append(f"processes {left} were left: {'; '.join(scene.processes())}")
        scene.kill_all()
    if not what:
        return None
    how = " ".join(filter(None, [what, healed]))
    return Struck(
        *(fault.name, seed, number, scene.launcher, scene.kind, how, updates, ended(scene, code)), troubles=troubles
    )


LONGEST_ALONE = 60.0
"""Seconds that ranks without their parent have to finish the run."""


def last_attempts(scene: Scene, found: list[Struck]) -> dict:
    """The run's result, after as many undisturbed attempts as it takes; three are enough."""
    for _ in range(3):
        if scene.result().get("status") == "done":
            break
        scene.start()
        scene.wait()
        note_corrupt(found, scene)
    return scene.result()


def note_corrupt(found: list[Struck], scene: Scene) -> None:
    """Notes with the last fault whether this attempt, the one after it, resumed from what that had damaged."""
    damaged = re.search(r"(step-\d+)/", found[-1].what) if found else None
    if damaged is not None and scene.resumed_from() == damaged[1]:
        found[-1].corrupt = True


def ended(scene: Scene, code: int | None) -> str:
    """How an attempt ended, in words that are the same for the same end."""
    if code == -9:
        return "died with its parent"
    if code == 0:
        return "went on to the end"
    if code == 75:
        return "stopped with a checkpoint"
    said = re.findall(r"^(?:failed|harness): (.*)", scene.said(), re.M)
    reason = str(scene.result().get("reason") or (said[-1] if said else "nothing was said"))
    reason = re.split(": |; ", re.sub(r" on \S+ ", " ", reason))[0]
    return "failed: " + re.sub(r"\d+", "N", reason)[:90]
