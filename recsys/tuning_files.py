"""What a search leaves: the table of its best trials, and the best settings as an experiment that train.py runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from omegaconf import DictConfig, OmegaConf
from optuna.study import StudyDirection
from optuna.trial import TrialState
from rich.table import Table

from recsys.files import whole_file
from recsys.report import plot_study, uncut
from recsys.tuning import finished

SHOWN = 5
GROUPS = ("data", "model", "objective", "optimizer", "trainer", "evaluation")
NOT_OF_A_RUN = ("trials", "models", "search", "hydra", "experiment", "export", "cache", *GROUPS)


def study_table(study: optuna.Study) -> Table:
    """The best trials, the best first."""
    trials = study.get_trials(states=(TrialState.COMPLETE,))
    sign = 1 if study.direction == StudyDirection.MINIMIZE else -1
    trials.sort(key=lambda trial: sign * (trial.value or 0.0))
    table = Table(title=f"Best of {len(finished(study))} trials, on validation rows", title_justify="left")
    for name in ("trial", "value", *study.best_params):
        table.add_column(name.removeprefix("model."), justify="right")
    for trial in trials[:SHOWN]:
        settings = (f"{v:.4g}" if isinstance(v, float) else str(v).strip('"') for v in trial.params.values())
        table.add_row(str(trial.number), f"{trial.value:.4f}", *settings)
    return uncut(table)


def plot(study: optuna.Study, path: Path) -> None:
    """How the search went, and which options mattered."""
    values = {trial.number: trial.value or 0.0 for trial in study.get_trials(states=(TrialState.COMPLETE,))}
    importances = optuna.importance.get_param_importances(study) if len(set(values.values())) > 1 else {}
    plot_study(values, importances, path, less_is_better=study.direction == StudyDirection.MINIMIZE)


def write_experiment(folder: Path, study: optuna.Study, settings: Mapping[str, Any], hydra: Any) -> Path:
    """Write `folder`/experiment/<data>_<model>_best.yaml of a run's choices, its overrides and the best `settings`."""
    choices = hydra.runtime.choices
    path = folder / "experiment" / f"{choices['data']}_{choices['model']}_best.yaml"
    defaults: list[Any] = [choices["experiment"]] if choices.get("experiment") else []
    defaults += [{f"override /{name}": choices[name]} for name in GROUPS if choices.get(name)]
    content = OmegaConf.merge(_typed(hydra.overrides.task), _nested(settings))
    text = (
        "# @package _global_\n"
        f"# The best of {len(finished(study))} trials by scripts/tune.py: {study.best_value:.4f} on validation rows.\n"
    )
    with whole_file(path) as draft:
        body = OmegaConf.to_yaml(OmegaConf.create({"defaults": [*defaults, "_self_"]})) + OmegaConf.to_yaml(content)
        draft.write_text(text + body, encoding="utf-8")
    return path


def command(path: Path, hydra: Any) -> str:
    """The command that trains with the experiment at `path`."""
    places = [str(p) for p in (hydra.searchpath or [])] + [f"file://{path.parents[1].resolve()}"]
    return f"python scripts/train.py experiment={path.stem} 'hydra.searchpath=[{','.join(places)}]'"


def _typed(overrides: list[str]) -> DictConfig:
    """The options that the command line set, without groups and what is of the search alone."""
    plain = [o.lstrip("+") for o in overrides if not o.startswith("~")]
    own = [o for o in plain if o.partition("=")[0] not in NOT_OF_A_RUN and o.split(".")[0] not in ("search", "hydra")]
    return OmegaConf.from_dotlist(own)


def _nested(settings: Mapping[str, Any]) -> DictConfig:
    content = OmegaConf.create({})
    for name, value in settings.items():
        OmegaConf.update(content, name, value)
    return content
