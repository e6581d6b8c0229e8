"""A launcher as a user may write one: ranks are plain subprocesses of this host, which meet by Horovod's Gloo."""

import os
import subprocess
import sys
import time

from harness.launching import ProcessLauncher


class Subprocesses(ProcessLauncher):
    def check(self, hosts=()):
        """Nothing is needed that Horovod does not bring."""

    def command_line(self, spec, env):
        return [sys.executable, __file__, str(spec.ranks), *spec.command]


def main(size: int, *command: str) -> int:
    from horovod.runner.common.util.hosts import get_host_assignments, parse_hosts
    from horovod.runner.gloo_run import create_run_env_vars, create_slot_env_vars
    from horovod.runner.http.http_server import RendezvousServer

    server, places = RendezvousServer(), get_host_assignments(parse_hosts(f"localhost:{size}"), size)
    meeting = {**os.environ, **create_run_env_vars("127.0.0.1", ["lo"], str(server.start()))}
    server.init(places)
    ranks = [subprocess.Popen(command, env={**meeting, **create_slot_env_vars(place)}) for place in places]
    while any(rank.poll() is None for rank in ranks) and not any(rank.poll() for rank in ranks):
        time.sleep(0.05)
    for number, rank in enumerate(ranks):
        if code := rank.poll():  # said as Horovod's launcher says it, for harness/launching/outcome.py to read
            print(f"Process {number} exit with status code {code if code > 0 else 128 - code}.", flush=True)
            return 1  # the other ranks are ended by whoever started this
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), *sys.argv[2:]))
