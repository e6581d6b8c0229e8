"""A sampler and a pruner of one's own, named by `module:Class` in a study: docs/extending.md shows them."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
import tomli_w
from optuna.pruners import BasePruner, PatientPruner
from optuna.samplers import BaseSampler, NSGAIISampler, QMCSampler
from optuna.trial import FrozenTrial

from harness.errors import BadInput
from search.config import load_study, resolve_study
from search.space.parse import read_space
from search.space.space import Space
from search.strategies.samplers import SamplerSettings
from tests.search.conftest import STUDY, Workplace, workplace

__all__ = ["workplace"]
pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


class Sobol(SamplerSettings):
    """Sobol's sequence, which covers the space more evenly than random draws do."""

    scramble: bool = True
    """Permute its digits by the seed."""

    def build(self, space: Space, seed: int) -> BaseSampler:
        return QMCSampler(scramble=self.scramble, seed=seed)


class Unmoved(BasePruner):
    """Prunes a trial whose last reports are all the same."""

    def __init__(self, patience: int = 3) -> None:
        self.patience = patience

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        reports = [value for _, value in sorted(trial.intermediate_values.items())][-self.patience :]
        return len(reports) == self.patience and len(set(reports)) == 1


SOBOL = {"name": f"{__name__}:Sobol", "scramble": False}
UNMOVED = {"name": f"{__name__}:Unmoved", "patience": 2}
OPTUNAS = {"name": "optuna.samplers:NSGAIISampler", "population_size": 6}


def built(sampler: Any = "random", pruner: Any = "none") -> tuple[BaseSampler, BasePruner]:
    study = resolve_study({**STUDY, "study": {"name": "s", "sampler": sampler, "pruner": pruner}}).study
    return study.sampler.build(read_space(STUDY["space"]), 7), study.pruner.build(4)


def test_a_study_proposes_and_prunes_by_them(workplace: Workplace) -> None:  # noqa: F811
    script = workplace.path / "train.py"
    script.write_text(script.read_text().replace("x * step", "x"))
    workplace.plan(all={"steps": 40}, t0={"steps": 1})
    workplace.study_file(study={"sampler": SOBOL, "pruner": UNMOVED}, trial={"ranks": 1})
    workplace.run()

    trials = workplace.trials()
    assert [trial.params["x"] for trial in trials[1:]] == [1.0, 1.5], "Optuna draws the first, and asks Sobol then"
    assert [trial.state.name for trial in trials] == ["COMPLETE", "PRUNED", "PRUNED"]
    assert all(2 <= len(trial.intermediate_values) < 40 for trial in trials[1:])


def test_optunas_own_classes_take_their_own_arguments_and_the_studys_seed() -> None:
    (sampler, _), (again, _) = built(OPTUNAS), built(OPTUNAS)
    assert isinstance(sampler, NSGAIISampler) and sampler._population_size == 6
    space = {"x": optuna.distributions.FloatDistribution(0, 1)}
    drawn = [optuna.create_study(sampler=each).ask(space).params for each in (sampler, again)]  # type: ignore[arg-type]
    assert drawn[0] == drawn[1]
    _, pruner = built(pruner={"name": "patient", "wrapped_pruner": UNMOVED})
    assert isinstance(pruner, PatientPruner) and isinstance(pruner._wrapped_pruner, Unmoved)


@pytest.mark.parametrize("sampler", [SOBOL, OPTUNAS], ids=["ours", "Optuna's"])
def test_the_file_that_a_config_is_written_to_is_read_as_it_was(sampler: dict[str, Any], tmp_path: Any) -> None:
    patient = {"name": "patient", "wrapped_pruner": UNMOVED}
    config = resolve_study({**STUDY, "study": {"name": "s", "sampler": sampler, "pruner": patient}})
    (tmp_path / "study.toml").write_text(tomli_w.dumps(config.to_table()))
    assert load_study(tmp_path / "study.toml") == config


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"sampler": "nowhere:Sobol"}, "study.sampler = 'nowhere:Sobol': there is no module 'nowhere'"),
        ({"sampler": f"{__name__}:Nothing"}, "has no 'Nothing'"),
        ({"sampler": UNMOVED["name"]}, "must be a class that derives from search.strategies.samplers:SamplerSettings"),
        ({"sampler": f"{__name__}:built"}, "or optuna.samplers:BaseSampler"),
        ({"sampler": "optuna.samplers:BaseSampler"}, "must have the methods infer_relative_search_space, sample_"),
        ({"sampler": {**SOBOL, "scrambel": True}}, "study.sampler.scrambel is no setting; did you mean study.sampler"),
        ({"sampler": {**SOBOL, "scramble": 3}}, "study.sampler.scramble must be a valid boolean"),
        ({"sampler": {**OPTUNAS, "population": 3}}, "did you mean study.sampler.population_size?"),
        ({"sampler": {**OPTUNAS, "population_size": 1}}, "study.sampler = 'optuna.samplers:NSGAIISampler' with {"),
        ({"pruner": {**UNMOVED, "wait": 3}}, "study.pruner.wait is no setting; it may be one of patience"),
        ({"pruner": "optuna.pruners:PercentilePruner"}, "missing 1 required positional argument: 'percentile'"),
    ],
)
def test_what_is_none_is_refused_in_a_line(table: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput) as refused:
        built(**table)
    assert says in str(refused.value) and "\n" not in str(refused.value)
