"""The faults: each strikes a run at a moment that the driver chooses, and is healed once the attempt has ended.

A fault answers what it did, "" where there was nothing to strike any more; a new one is a class and a line in FAULTS.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from tests.chaos.scene import RANKS, Scene, signal_to


class Fault:
    name: str
    codes: tuple[int, ...] = (1,)
    """Exit codes that the attempt may end with when it was struck; 0, where it was over already, is always one."""

    def missing(self) -> str | None:
        """Why it cannot be had on this machine; None where it can."""
        return None

    def prepare(self, scene: Scene) -> None:
        """Before the attempt starts."""

    def strike(self, scene: Scene, random: np.random.Generator) -> str:
        raise NotImplementedError

    def heal(self, scene: Scene, random: np.random.Generator) -> str:
        """After the attempt has ended; what it did, if anything."""
        return ""


class KillRank(Fault):
    name = "kill -9 of a rank"
    number = signal.SIGKILL

    def strike(self, scene: Scene, random: np.random.Generator) -> str:
        rank = int(random.integers(RANKS))
        pid = scene.rank_process(rank)
        return f"{self.number.name} to rank {rank}" if pid is not None and signal_to(pid, self.number) else ""


class StopRank(KillRank):
    name = "SIGSTOP of a rank"
    number = signal.SIGSTOP


class KillLauncher(Fault):
    name = "kill -9 of the launcher"
    codes = (1, 75)  # ranks that notice the end of horovodrun's shell before they are ended stop in good order

    def strike(self, scene: Scene, random: np.random.Generator) -> str:
        pid = scene.launcher_process()
        return "the launcher" if pid is not None and signal_to(pid, signal.SIGKILL) else ""


class KillParent(Fault):
    """The ranks go on without it, and nobody begins the run a second time beside them."""

    name = "kill -9 of the parent"
    codes = (-9,)

    def strike(self, scene: Scene, random: np.random.Generator) -> str:
        assert scene.process is not None
        return "the parent" if signal_to(scene.process.pid, signal.SIGKILL) else ""


class KillAll(Fault):
    name = "kill -9 of all"
    codes = (-9,)

    def strike(self, scene: Scene, random: np.random.Generator) -> str:
        scene.kill_all()
        return "all"


class AskToStop(Fault):
    name = "a request to stop"
    codes = (75,)

    def strike(self, scene: Scene, random: np.random.Generator) -> str:
        number = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR2][random.integers(3)]
        assert scene.process is not None
        early = scene.launcher_process() is None  # it may not have imported yet what hears them
        self.codes = (75, -number) if early else (75,)
        return number.name if signal_to(scene.process.pid, number) else ""


class CutCheckpoint(KillAll):
    """All are killed, and a file of the newest checkpoint lost its end."""

    name = "a checkpoint cut short"

    def heal(self, scene: Scene, random: np.random.Generator) -> str:
        newest = scene.newest()
        files = sorted(path for path in newest.rglob("*") if path.is_file()) if newest is not None else []
        files = [path for path in files if path.stat().st_size]
        if newest is None or not files:
            return ""
        path = files[random.integers(len(files))]
        self.damage(path, random)
        return f"{newest.name}/{path.name}"

    def damage(self, path: Path, random: np.random.Generator) -> None:
        os.truncate(path, int(random.integers(path.stat().st_size)))


class FlipBit(CutCheckpoint):
    name = "a flipped bit in a checkpoint"

    def damage(self, path: Path, random: np.random.Generator) -> None:
        data = bytearray(path.read_bytes())
        data[random.integers(len(data))] ^= 1 << int(random.integers(8))
        path.write_bytes(data)


class ClockJumps(Fault):
    """The run's clock of the day, an hour to ten years back or forth. Nothing in it may go by that clock."""

    name = "a clock that jumps"
    codes = ()

    def strike(self, scene: Scene, random: np.random.Generator) -> str:
        seconds = float(random.choice([-1, 1]) * 3600 * 10 ** random.uniform(0, 5))
        scene.clock.write_text(str(seconds))
        return f"{seconds:+.0f} s"


class DiskFull(Fault):
    """A file takes what is left of the small file system that the run writes to."""

    name = "a full disk"

    def missing(self) -> str | None:
        with tempfile.TemporaryDirectory() as folder:
            if shutil.which("mount") is None or mount("-t", "tmpfs", "none", folder):
                return "mounting needs root"
            subprocess.run(["umount", folder], check=True)
        return None

    def strike(self, scene: Scene, random: np.random.Generator) -> str:
        usage = shutil.disk_usage(scene.run_dir)
        leave = int(random.choice([0, 4096, 20_000]))
        with (scene.run_dir / "ballast").open("wb", buffering=0) as ballast:
            try:
                ballast.write(bytes(max(0, usage.free - leave)))
                while not leave:
                    ballast.write(bytes(4096))
            except OSError:
                pass
        return f"all but {leave} bytes"

    def heal(self, scene: Scene, random: np.random.Generator) -> str:
        (scene.run_dir / "ballast").unlink(missing_ok=True)
        return ""


class ReadOnly(DiskFull):
    """The run's directory is mounted over itself, read-only: root writes through permissions."""

    name = "a read-only directory"

    def strike(self, scene: Scene, random: np.random.Generator) -> str:
        folder, failed = str(scene.run_dir), "?"
        for _ in range(50):
            failed = mount("--bind", folder, folder)
            assert not failed, failed
            failed = mount("-o", "remount,bind,ro", folder)
            if not failed:
                return "read-only"
            self.heal(scene, random)  # busy: a rank opened a file to write it between the two
        raise AssertionError(failed)

    def heal(self, scene: Scene, random: np.random.Generator) -> str:
        subprocess.run(["umount", "--lazy", str(scene.run_dir)], check=True)
        return ""


def mount(*arguments: str) -> str:
    """Mounts; why not, "" where it did."""
    return subprocess.run(["mount", *arguments], capture_output=True, text=True).stderr


FAULTS: tuple[Fault, ...] = (
    KillRank(),
    StopRank(),
    KillLauncher(),
    KillParent(),
    KillAll(),
    AskToStop(),
    CutCheckpoint(),
    FlipBit(),
    ClockJumps(),
    DiskFull(),
    ReadOnly(),
)
