"""`search dashboard`: Optuna Dashboard on a study, also on one that runs."""

from __future__ import annotations

import socket

from harness.errors import BadInput
from search.study.existing import storage_of
from search.study.storage import open_storage
from search.study.study import existing_study
from search.study.study_dir import StudyDir

HOST = "127.0.0.1"  # it has no password


def dashboard(name: str, storage: str | None, port: int) -> None:
    """Serves until it is interrupted. It has the driver's long busy time-out, so that neither locks the other out."""
    opened = open_storage(storage_of(name, storage))
    study = existing_study(name if storage is not None else StudyDir(name).study, opened)
    try:
        from optuna_dashboard import run_server
    except ImportError:
        raise BadInput("the dashboard is not installed: pip install 'rl-harness[dashboard]'") from None
    with socket.socket() as probe:
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise BadInput(f"--port {port} cannot be used: {error.strerror}") from None
    address = f"http://{HOST}:{port}/dashboard/studies/{study._study_id}"
    try:
        print(f"study {name}: {address} (Ctrl-C ends the dashboard)", flush=True)
        run_server(opened, host=HOST, port=port)
    except KeyboardInterrupt:
        pass
