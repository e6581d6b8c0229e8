"""Horovod over Gloo for ranks that `srun` started: rank 0 serves the rendezvous, the others find it by Slurm's
variables."""

from __future__ import annotations

import re
import socket
import subprocess
import threading
import time
from collections.abc import MutableMapping
from typing import Any

import psutil

from harness.cluster.slurm import expand_tasks_per_node
from harness.errors import BadInput

PORTS = range(23000, 31000)
"""Where a job's rendezvous listens: a port that follows from job and step, so that nobody needs to be told."""


def join_rendezvous(env: MutableMapping[str, str], timeout: float = 60.0) -> Any:
    """Sets Horovod's variables for this rank in `env`; on rank 0 also serves, and returns the server to be kept."""
    rank, size = int(env["SLURM_PROCID"]), int(env["SLURM_STEP_NUM_TASKS"])
    nodes = node_names(env["SLURM_STEP_NODELIST"])
    tasks = expand_tasks_per_node(env["SLURM_STEP_TASKS_PER_NODE"])
    address = address_of(nodes[0])
    port = PORTS[(int(env["SLURM_JOB_ID"]) * 31 + int(env["SLURM_STEP_ID"])) % len(PORTS)]
    node, local = int(env["SLURM_NODEID"]), int(env["SLURM_LOCALID"])
    alike = [index for index, count in enumerate(tasks) if count > local]  # nodes that have a rank of this local rank
    env.update(
        HOROVOD_RANK=str(rank),
        HOROVOD_SIZE=str(size),
        HOROVOD_LOCAL_RANK=str(local),
        HOROVOD_LOCAL_SIZE=str(tasks[node]),
        HOROVOD_CROSS_RANK=str(alike.index(node)),
        HOROVOD_CROSS_SIZE=str(len(alike)),
        HOROVOD_HOSTNAME=nodes[node],
        HOROVOD_CONTROLLER="gloo",
        HOROVOD_CPU_OPERATIONS="gloo",
        HOROVOD_GLOO_RENDEZVOUS_ADDR=address,
        HOROVOD_GLOO_RENDEZVOUS_PORT=str(port),
    )
    env.setdefault("HOROVOD_GLOO_IFACE", interface_towards(address))
    server = serve(nodes, tasks, size, port) if rank == 0 else None
    wait_for(address, port, timeout)
    return server


def node_names(nodelist: str) -> list[str]:
    """Slurm's own expansion of a list such as `n[1-2]`."""
    try:
        shown = subprocess.run(["scontrol", "show", "hostnames", nodelist], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise BadInput(f"SLURM_STEP_NODELIST={nodelist}: scontrol cannot expand it: {error}") from None
    return shown.stdout.split()


def address_of(node: str) -> str:
    """The node's address: its name resolved, or else what Slurm knows it by."""
    try:
        return socket.gethostbyname(node)
    except OSError:
        shown = subprocess.run(["scontrol", "show", "node", "-o", node], capture_output=True, text=True).stdout
        for key in ("NodeAddr", "NodeHostName"):
            found = re.search(rf"{key}=(\S+)", shown)
            if found and found[1] != node:
                return socket.gethostbyname(found[1])
        raise BadInput(f"node {node}: neither the resolver nor Slurm knows its address") from None


def interface_towards(address: str) -> str:
    """The network interface by which this host reaches `address` (or that has it)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((address, 9))  # a datagram socket: nothing is sent
        own = probe.getsockname()[0]
    for interface, addresses in psutil.net_if_addrs().items():
        if any(entry.family == socket.AF_INET and entry.address == own for entry in addresses):
            return interface
    return "lo"


def serve(nodes: list[str], tasks: list[int], size: int, port: int) -> Any:
    """Horovod's own rendezvous server, on a port that the other ranks can work out."""
    from horovod.runner.common.util.hosts import HostInfo, get_host_assignments
    from horovod.runner.http.http_server import RendezvousHandler, RendezvousHTTPServer

    try:
        server = RendezvousHTTPServer(("", port), RendezvousHandler, 0)
    except OSError as error:
        raise BadInput(f"rank 0 cannot serve the rendezvous on port {port} of {nodes[0]}: {error}") from None
    server.init(get_host_assignments([HostInfo(node, count) for node, count in zip(nodes, tasks)], size, size))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def wait_for(address: str, port: int, timeout: float) -> None:
    until = time.monotonic() + timeout
    while True:
        try:
            with socket.create_connection((address, port), timeout=5):
                return
        except OSError as error:
            if time.monotonic() > until:
                where = f"rank 0's rendezvous at {address}:{port}"
                raise BadInput(f"{where} did not answer in {timeout:.0f} s: {error}") from None
            time.sleep(0.1)
