"""A search for good settings of one model, judged on validation rows alone, that goes on where it stopped."""

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import pytorch_lightning as pl
from omegaconf import DictConfig
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from recsys.checkpoints import Interrupted
from recsys.cli import STUDY
from recsys.config import build_data, build_model, build_monitor, build_trainer, is_classical, resolve
from recsys.data.module import DataModule
from recsys.fitting import fit
from recsys.resume import config_differences, in_words
from recsys.search import Space, changed, read_space

log = logging.getLogger(__name__)
OF_SEARCH = ("trials", "models")  # what may differ between calls on one study, beside what a resumed run may change
CONFIG, DATA = "config", "data"


class PruneHopeless(pl.Callback):
    """Ends a trial whose watched metric is below the median of the earlier trials at that epoch."""

    def __init__(self, trial: optuna.Trial, monitor: str) -> None:
        self.trial, self.monitor = trial, monitor

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Raises TrialPruned."""
        self.trial.report(float(trainer.callback_metrics[self.monitor]), trainer.current_epoch)
        if self.trial.should_prune():
            raise optuna.TrialPruned


def tune(cfg: DictConfig, folder: Path) -> optuna.Study:
    """Search `cfg.search` until the study in `folder` has `cfg.trials` trials.

    The first tries the settings of `cfg`, as far as they lie inside the search. A trial that fails, as by a training
    that diverges, counts as one without a value.

    Raises ValueError when the study there is of another configuration or other data, or when every trial failed.
    """
    if not isinstance(cfg.trials, int) or cfg.trials < 1:
        raise ValueError(f"`trials` must be an integer of at least 1, got {cfg.trials!r}.")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space, data = read_space(resolve(cfg)["search"], cfg), build_data(cfg)
    data.prepare_data()
    data.setup()
    data.check_evaluation()
    data.check_leaks()
    monitor, mode = build_monitor(cfg, data.schema.label.kind)
    study = _open(cfg, folder, data, mode, space)

    def objective(trial: optuna.Trial) -> float:
        settings = {name: option.suggest(trial, name) for name, option in space.items()}
        try:
            return _judge(changed(cfg, settings), data, trial, monitor)
        except ValueError as error:
            log.warning("trial %d failed with %s: %s", trial.number, settings, error)
            raise optuna.TrialPruned from error

    study.optimize(objective, n_trials=max(0, cfg.trials - len(finished(study))), callbacks=[_tell])
    if not study.get_trials(states=(TrialState.COMPLETE,)):
        raise ValueError(f"none of {len(finished(study))} trials came to an end; see run.log and `search`.")
    return study


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that were judged, or ended for being hopeless."""
    return study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))


def best_settings(study: optuna.Study, cfg: DictConfig) -> dict[str, Any]:
    """The values of the best trial by the options' dotted names."""
    space = read_space(resolve(cfg)["search"], cfg)
    return {name: space[name].read(stored) for name, stored in study.best_params.items()}


def _open(cfg: DictConfig, folder: Path, data: DataModule, mode: str, space: Space) -> optuna.Study:
    """The study in `folder`, a new one or that of the same configuration and data."""
    folder.mkdir(parents=True, exist_ok=True)
    storage = f"sqlite:///{folder.resolve() / STUDY}"
    done = len(finished(optuna.load_study(study_name="tune", storage=storage))) if (folder / STUDY).exists() else 0
    study = optuna.create_study(
        storage=storage,
        study_name="tune",
        direction=StudyDirection.MINIMIZE if mode == "min" else StudyDirection.MAXIMIZE,
        sampler=optuna.samplers.TPESampler(seed=cfg.seed + done),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=1),
        load_if_exists=True,
    )
    if CONFIG not in study.user_attrs:
        content = resolve(cfg)
        study.set_user_attr(CONFIG, content)
        study.set_user_attr(DATA, data.state)
        own = {name: option.stored(_value(content, name)) for name, option in space.items()}
        study.enqueue_trial({name: stored for name, stored in own.items() if stored is not None})
    _check_same(study, cfg, data, folder)
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)  # cut off when the process ended
    if done:
        log.info("the study in %s goes on after %d trials", folder, done)
    return study


def _check_same(study: optuna.Study, cfg: DictConfig, data: DataModule, folder: Path) -> None:
    found = config_differences(study.user_attrs[CONFIG], cfg, *OF_SEARCH)
    if study.user_attrs[DATA] != data.state:
        found["data"] = ("other rows", "these rows")
    if found:
        raise ValueError(
            f"the study in {folder} is of another configuration ({in_words(found)}); go on with its own, or give "
            "another folder by hydra.run.dir=..."
        )


def _value(content: Mapping[str, Any], name: str) -> Any:
    for key in name.split("."):
        content = content[key]
    return content


def _judge(cfg: DictConfig, data: DataModule, trial: optuna.Trial, monitor: str) -> float:
    """The watched validation metric of some settings: of a classical model, or of a deep one's best epoch."""
    if is_classical(cfg):
        return fit(cfg, data)[1].results.metrics[monitor.removeprefix("valid/")]
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    data = build_data(cfg)
    data.prepare_data()
    data.setup()
    with tempfile.TemporaryDirectory(prefix="recsys-trial-") as scratch:
        trainer = build_trainer(cfg, data.schema.label.kind, Path(scratch))
        trainer.callbacks.append(PruneHopeless(trial, monitor))  # type: ignore[attr-defined]
        try:
            trainer.fit(build_model(cfg, data.schema), datamodule=data)
        except Interrupted as error:  # the study goes on with another trial, not with this one's checkpoint
            raise SystemExit(128 + error.number) from None
        checkpoint: Any = trainer.checkpoint_callback
        return float(checkpoint.best_model_score)


def _tell(study: optuna.Study, trial: FrozenTrial) -> None:
    value = f"{trial.value:.4f}" if trial.state == TrialState.COMPLETE else "given up"
    best = [t.value for t in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))]
    shown = f"{study.best_value:.4f}" if best else "none"
    settings = (f"{name}={v:.4g}" if isinstance(v, float) else f"{name}={v}" for name, v in trial.params.items())
    log.info("trial %d  %s  best %s  %s", trial.number, value, shown, "  ".join(settings))
