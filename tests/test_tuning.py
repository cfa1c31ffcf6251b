"""A trial that does worse than most is given up; one that fails counts without a value."""

from types import SimpleNamespace

import optuna
import pytest
import torch
from omegaconf import OmegaConf

from recsys import tuning
from recsys.tuning import PruneHopeless, best_settings, finished, tune


def learn(study: optuna.Study, values: list[float]) -> optuna.trial.FrozenTrial:
    """A trial whose watched metric takes these values, epoch by epoch."""

    def objective(trial: optuna.Trial) -> float:
        watch = PruneHopeless(trial, "valid/auc")
        for epoch, value in enumerate(values):
            metrics = {"valid/auc": torch.tensor(value)}
            watch.on_validation_end(SimpleNamespace(callback_metrics=metrics, current_epoch=epoch), None)
        return max(values)

    study.optimize(objective, n_trials=1)
    return study.trials[-1]


def test_a_trial_below_the_median_of_the_earlier_ones_is_given_up():
    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.MedianPruner(n_startup_trials=2))
    for _ in range(3):
        assert learn(study, [0.6, 0.7, 0.8]).state.name == "COMPLETE"
    hopeless = learn(study, [0.6, 0.5, 0.9])
    assert hopeless.state.name == "PRUNED"
    assert len(hopeless.intermediate_values) == 2
    assert study.best_value == pytest.approx(0.8)


def test_a_study_on_the_shop_goes_on_with_another_cache(composed, tmp_path):
    """Bug: the shop lies in the cache, and its paths there were compared too; so were `prepare` and `on_device`."""
    options = ["model=popularity", "data.generate.events=2000"]
    for trials, more in enumerate([f"cache={tmp_path}/one", f"cache={tmp_path}/two on_device=true"], start=1):
        study = tune(composed(*options, f"trials={trials}", *more.split(), name="tune"), tmp_path / "study")
        assert len(finished(study)) == trials


def test_a_trial_that_fails_counts_as_one_and_is_never_best(composed, tiny, tmp_path, monkeypatch):
    cfg = composed("model=svd", f"cache={tmp_path}/cache", "trials=6", name="tune")
    OmegaConf.set_struct(cfg, False)
    cfg.data = tiny
    judge, judged = tuning._judge, []

    def sometimes(*arguments: object) -> float:
        judged.append(len(judged))
        if len(judged) % 2:
            raise ValueError("`score_QI` must not hold NaN; did the training diverge?")
        return judge(*arguments)

    monkeypatch.setattr(tuning, "_judge", sometimes)
    study = tune(cfg, tmp_path / "study")
    assert [trial.state.name for trial in finished(study)].count("PRUNED") == 3
    assert len(judged) == len(study.trials) == 6
    assert best_settings(study, cfg) == study.best_params
    with pytest.raises(
        ValueError, match=r"the study in .* is of another configuration \(`model.seed`: 0 there, 4 here"
    ):
        tune(OmegaConf.merge(cfg, {"model": {"seed": 4}}), tmp_path / "study")
    monkeypatch.setattr(tuning, "_judge", lambda *_: (_ for _ in ()).throw(ValueError("no")))
    with pytest.raises(ValueError, match="none of 6 trials came to an end"):
        tune(cfg, tmp_path / "other")
