"""`search report`: the study as one HTML file, and the same plots and a note in Optuna Dashboard."""

from __future__ import annotations

import html
import warnings
from collections.abc import Callable
from pathlib import Path

import optuna
import plotly.graph_objects as go
from optuna import visualization
from optuna.trial import TrialState

from harness.files import write_text
from search.commands.status import row
from search.display import number
from search.space.space import Space
from search.study.confirmed import CONFIRMATION
from search.study.existing import find
from search.study.study import best_trial
from search.study.study_dir import StudyDir

PLOTS: dict[str, tuple[str, Callable[[optuna.Study], go.Figure]]] = {
    "history": ("History", visualization.plot_optimization_history),
    "importances": ("Importances", visualization.plot_param_importances),
    "parallel-coordinate": ("Parallel coordinates", visualization.plot_parallel_coordinate),
    "learning-curves": ("Learning curves", visualization.plot_intermediate_values),
}
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font-family: sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #222 }}
table {{ border-collapse: collapse; font-size: 90% }}
td, th {{ border-bottom: 1px solid #ddd; padding: .3em .8em; text-align: left }}
</style></head><body>
<h1>{title}</h1>
{body}
</body></html>
"""


def report(name: str, storage: str | None) -> Path:
    """Writes `studies/NAME/report.html`, saves its plots into the dashboard if that is installed; the file's path."""
    study, space = find(name, storage)
    figures = draw(study)
    path = StudyDir(name).report
    write_text(path, page(study, space, figures))
    save_for_dashboard(study, space, figures)
    return path


def draw(study: optuna.Study) -> dict[str, go.Figure | str]:
    """Each plot, or why there is none (importances need several completed trials that differ)."""
    figures: dict[str, go.Figure | str] = {}
    for key, (title, plot) in PLOTS.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                figure = plot(study)
                figure.update_layout(title=title)
                figures[key] = figure if figure.data else f"{title}: nothing to draw yet"
            except (ValueError, RuntimeError) as error:
                figures[key] = f"{title}: {error}"
    return figures


def page(study: optuna.Study, space: Space, figures: dict[str, go.Figure | str]) -> str:
    """One HTML file that needs nothing beside it, nor a network."""
    parts = [f"<p>{html.escape(line)}</p>" for line in summary(study, space)]
    script: bool = True
    for figure in figures.values():
        if isinstance(figure, str):
            parts.append(f"<p>{html.escape(figure)}</p>")
        else:
            parts.append(figure.to_html(full_html=False, include_plotlyjs=script))
            script = False  # once is enough: it is 4 MB
    parts.append(trials_table(study, space))
    return PAGE.format(title=html.escape(f"Study {study.study_name}"), body="\n".join(parts))


def trials_table(study: optuna.Study, space: Space) -> str:
    lines = [
        "<table><tr><th>trial</th><th>state</th><th>value</th><th>step</th><th>parameters</th><th>reason</th></tr>"
    ]
    for trial in study.get_trials(deepcopy=False):
        shown = row(trial, space)
        step = "" if shown.step is None else str(shown.step)
        cells = (shown.trial, shown.state, number(shown.value), step, shown.params, trial.user_attrs.get("reason", ""))
        lines.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
    return "\n".join([*lines, "</table>"])


def summary(study: optuna.Study, space: Space) -> list[str]:
    trials = study.get_trials(deepcopy=False)
    counts = ", ".join(
        f"{sum(trial.state == state for trial in trials)} {state.name.lower()}"
        for state in TrialState
        if any(trial.state == state for trial in trials)
    )
    lines = [f"{len(trials)} trials ({counts}), {study.direction.name.lower()}."]
    best, confirmed = best_trial(study), study.user_attrs.get(CONFIRMATION)
    if best is not None:
        params = ", ".join(f"{name} = {value}" for name, value in space.shown(best.params).items())
        lines.append(f"Best value {number(best.value)} in trial {best.number}: {params}.")
    if confirmed and confirmed["mean"] is not None:
        lines.append(
            f"Confirmation of trial {confirmed['trial']} on {len(confirmed['values'])} unseen seeds: "
            f"{confirmed['mean']:.6g} ± {confirmed['std']:.3g}."
        )
    return lines


def save_for_dashboard(study: optuna.Study, space: Space, figures: dict[str, go.Figure | str]) -> None:
    try:
        from optuna_dashboard import save_note, save_plotly_graph_object
    except ImportError:  # the extra `dashboard` is not installed
        return
    for key, figure in figures.items():
        if isinstance(figure, go.Figure):
            save_plotly_graph_object(study, figure, graph_object_id=key)
    save_note(study, "\n\n".join(summary(study, space)))
