"""A fork server for the commands and ranks that tests start: each is a fresh process without its seconds of imports.

It is the server of `harness/launching/warm/`, with more modules. `python -m harness …`, `python -m search …`, scripts
and horovodrun become clients of it (`client/sitecustomize.py`), under whatever launcher starts them; all else, and what
a test marked `fresh_start` starts, is started as ever.
`HARNESS_TESTS_FRESH=1 pytest …` starts everything as ever.
"""

from __future__ import annotations

import os
from pathlib import Path

from harness.launching.warm.owner import WarmServer
from tests.forkserver.client.sitecustomize import ADDRESS

ROOT = Path(__file__).resolve().parents[2]
CLIENT = Path(__file__).with_name("client")
MODULES = """
torch torch._dynamo torch.optim numpy.random gymnasium optuna optuna.storages sqlalchemy pydantic rich.live rich.table
torch.utils.tensorboard tensorboard.compat.proto.event_pb2 horovod.torch horovod.runner.launch mpi4py
harness.bench.arguments harness.api harness.run.train harness.run.supervisor harness.policy.policy
harness.bench.commands
search.run search.driver search.trials.preset_task search.commands.report
""".split()


class ForkServer:
    """The server of a session of tests; its address is in the environment of whatever they start."""

    def __init__(self) -> None:
        inherited = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(CLIENT), str(ROOT), inherited]))
        self.server = WarmServer(dict(os.environ), MODULES)
        os.environ[ADDRESS] = self.server.address

    def close(self) -> str:
        """What it did, in a line."""
        self.server.close()
        del os.environ[ADDRESS]
        reasons = ", ".join(f"{reason} ({count})" for reason, count in sorted(self.server.refusals.items()))
        return f"fork server: {self.server.forked} processes forked" + (f"; fresh: {reasons}" if reasons else "")
