"""Several seeds, one value."""

from __future__ import annotations

from search.study.objective import Objective, confirm_seeds, search_seeds


def test_steps_of_equal_seeds_and_evaluations_are_equal_and_no_others() -> None:
    objective = Objective((7, 8, 9), 5, "median")
    steps = [objective.step(seed, evaluation) for seed in range(3) for evaluation in range(1, 6)]
    assert steps == list(range(1, 16)) and objective.steps == 15


def test_a_report_beyond_the_last_evaluation_is_not_another_seeds() -> None:
    assert Objective((7, 8), 5, "median").step(0, 6) is None


def test_one_seed_of_a_command_may_report_as_often_as_it_likes() -> None:
    assert Objective((7,), None, "median").step(0, 600) == 600


def test_median_and_mean() -> None:
    assert Objective((1, 2, 3), 1, "median").value([1.0, 10.0, 4.0]) == 4.0
    assert Objective((1, 2, 3), 1, "mean").value([1.0, 10.0, 4.0]) == 5.0


def test_seeds_follow_from_the_studys_and_more_of_them_keep_the_earlier() -> None:
    assert search_seeds(0, 3) == search_seeds(0, 5)[:3] != search_seeds(1, 3)
    assert len(set(search_seeds(0, 100))) == 100


def test_confirmation_never_takes_a_seed_that_was_used() -> None:
    expected = confirm_seeds(0, 4, ())
    used = {*search_seeds(0, 50), expected[1]}
    assert not used & set(confirm_seeds(0, 50, used))
