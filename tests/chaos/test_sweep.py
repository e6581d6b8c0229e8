"""A short sweep of faults: nothing is lost, nothing damaged is loaded, and the run ends as an undisturbed one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.sweep import sweep

FAULTS = 4


@pytest.mark.slow
def test_runs_under_faults_end_as_an_undisturbed_one(tmp_path: Path) -> None:
    found, _ = sweep(tmp_path, FAULTS, seed=5)
    assert len(found) == FAULTS
    for struck in found:
        assert not struck.troubles, (struck.fault, struck.what, struck.troubles)
        assert not struck.lost and not struck.corrupt, (struck.fault, struck.what)
        assert struck.equal, (struck.fault, struck.what)
