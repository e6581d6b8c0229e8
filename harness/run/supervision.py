"""A job of ranks under watch: who hangs, and why."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from harness.cluster.place import host_name
from harness.launching import RunningJob
from harness.lifecycle.heartbeat import Beat


def state_in(running: RunningJob) -> Callable[[Beat], str]:
    """What a watch asks for a rank's process by. Where ranks are elastic, those that are gone are done without, and one
    that is stopped is made to go."""

    def state_of(beat: Beat) -> str:
        state = running.state_of(beat.rank, beat.host, beat.pid)
        if running.save()["launcher"] == "horovodrun-elastic":
            if state == "stopped" and beat.host == host_name():
                os.kill(beat.pid, signal.SIGKILL)
                return "running"
            return "running" if state == "gone" else state
        return state

    return state_of
