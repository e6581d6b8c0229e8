"""Real servers for the tests of this folder: `slurm`, `postgres_url`, `browser`."""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import slurm as slurm_server
from tests.cluster.postgres import PostgresServer, find_binaries
from tests.conftest import need


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs servers is for `make test-all`; nothing here is forked: other hosts and Slurm start it."""
    for item in items:
        if item.path.parent == Path(__file__).parent and item.path.name != "test_slurm_scripts.py":
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.fresh_start)


@pytest.fixture(scope="session")
def short_folder() -> Iterator[Path]:
    """A folder with a short path that every user may enter: unix sockets and servers of other users live in it."""
    folder = Path(tempfile.mkdtemp(prefix="harness-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def slurm(short_folder: Path) -> Iterator[slurm_server.SlurmCluster]:
    """A running Slurm with the idle nodes n1 and n2 of 4 cores each; see `SlurmCluster.run`."""
    need(os.geteuid() == 0, "Slurm's daemons are started by root")
    for name in slurm_server.DAEMONS:
        need(slurm_server.find_daemon(name), f"{name} is not installed (Debian: slurm-wlm, munge)")
    folder = short_folder / "slurm"
    folder.mkdir()
    cluster = slurm_server.SlurmCluster(folder)
    yield cluster
    cluster.stop()


@pytest.fixture(scope="session")
def postgres_server(short_folder: Path) -> Iterator[PostgresServer]:
    binaries = find_binaries()
    need(binaries, "PostgreSQL is not installed (Debian: postgresql)")
    assert binaries is not None
    folder = short_folder / "postgres"
    folder.mkdir()
    server = PostgresServer(folder, binaries)
    yield server
    server.stop()


@pytest.fixture
def postgres_url(postgres_server: PostgresServer, request: pytest.FixtureRequest) -> str:
    """The URL of an empty PostgreSQL database of this test's own."""
    need(importlib.util.find_spec("psycopg"), "psycopg is not installed (the extra `postgres`)")
    return postgres_server.create_database(request.node.name)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator:
    """A selenium driver of a headless Chromium with an empty profile."""
    for name in ("chromium", "chromedriver"):
        need(shutil.which(name), f"{name} is not installed (Debian: chromium, chromium-driver)")
    need(importlib.util.find_spec("selenium"), "selenium is not installed (the extra `dev`)")
    from tests.cluster.browser import start_browser

    profile = tmp_path / "profile"
    profile.mkdir()
    driver = start_browser(profile)
    yield driver
    driver.quit()
