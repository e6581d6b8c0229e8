"""The servers that the other tests of this folder rely on are real, and leave nothing behind."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cluster.slurm import SlurmCluster
from tests.conftest import need, wait_for

if TYPE_CHECKING:
    from selenium.webdriver import Chrome


def test_what_a_laptop_skips_is_a_failure_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no moon rocket"):
        need(False, "no moon rocket")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no moon rocket"):
        need(False, "no moon rocket")
    need(True, "no moon rocket")


def test_slurm_has_two_idle_nodes(slurm: SlurmCluster) -> None:
    shown = slurm.run("sinfo", "--noheader", "--format=%D %T %N").stdout
    assert shown.split() == ["2", "idle", "n[1-2]"]


def test_srun_starts_a_task_on_each_node_with_the_name_of_its_node(slurm: SlurmCluster) -> None:
    shown = slurm.run("srun", "-N2", "--label", "printenv", "SLURMD_NODENAME").stdout
    assert sorted(shown.splitlines()) == ["0: n1", "1: n2"]


def test_stopping_a_cluster_ends_its_daemons_and_even_a_job_that_ignores_requests() -> None:
    need(os.geteuid() == 0, "Slurm's daemons are started by root")
    with tempfile.TemporaryDirectory(prefix="harness-") as folder:
        cluster = SlurmCluster(Path(folder))
        stubborn = "trap '' TERM; setsid sleep 1000 & wait"
        cluster.run("sbatch", "--nodes=2", f'--wrap=srun bash -c "{stubborn}"', cwd=Path(folder))
        wait_for(
            lambda: [each.name() for each in cluster.processes()].count("sleep") == 2,
            20,
            "job on both nodes",
            explain=cluster.explain,
        )
        cluster.stop()
        assert cluster.processes() == []


def test_postgres_gives_each_test_an_empty_database_of_its_own(postgres_url: str) -> None:
    import sqlalchemy

    with sqlalchemy.create_engine(postgres_url).connect() as connection:
        assert (
            connection.execute(sqlalchemy.text("select count(*) from pg_tables where schemaname = 'public'")).scalar()
            == 0
        )
        assert "PostgreSQL" in str(connection.execute(sqlalchemy.text("select version()")).scalar())


def test_the_browser_runs_scripts_of_a_page(browser: Chrome, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<title>before</title><script>document.title = 'after ' + (6 * 7)</script>")
    browser.get(page.as_uri())
    assert browser.title == "after 42"
