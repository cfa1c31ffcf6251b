"""The second training (`refit`): the first one over again, for as long as was best, with the validation rows added."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf

from recsys import training
from recsys.callbacks import CONFIG_KEY, DATA_KEY, ENCODERS_KEY
from recsys.config import build_data, build_trainer
from recsys.data.module import DataModule
from recsys.models.base import learning_rate_factor, load_model, read_checkpoint
from recsys.resume import find_refit
from recsys.training import refit, train

EPOCHS, BATCH, RATE = 8, 43, 0.03
IMPLICIT = ["data.label.kind=implicit", "objective=bpr"]


class Killed(Exception):
    """What `Watch` raises."""


class Watch(pl.Callback):
    """Keeps the learning rate and the number of rows of every step; ends the training after `left` of them."""

    def __init__(self, left: int) -> None:
        self.left = left
        self.rates: list[float] = []
        self.rows: list[int] = []

    def on_train_batch_start(self, trainer: pl.Trainer, _: Any, batch: Any, *__: Any) -> None:
        if self.left == 0:
            raise Killed
        self.left -= 1
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])
        self.rows.append(len(batch))


class Run(NamedTuple):
    """A run's folder, metrics.json, and what was watched of its first and its second training."""

    folder: Path
    metrics: dict[str, Any]
    first: Watch
    second: Watch


def watch_trainings(patch: pytest.MonkeyPatch, left: int = -1) -> list[Watch]:
    """Put a `Watch` into every training that begins from here on; returns the list of them, which grows."""
    found: list[Watch] = []

    def watched(*arguments: Any) -> pl.Trainer:
        trainer = build_trainer(*arguments)
        found.append(Watch(left))
        trainer.callbacks.insert(0, found[-1])
        return trainer

    patch.setattr(training, "build_trainer", watched)
    return found


@pytest.fixture(scope="module")
def config(composed, tiny_in, tmp_path_factory) -> Callable[..., DictConfig]:
    """DeepFM with dropout on 30 shoppers, which is at its best before its last epoch; every step is saved."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny = tiny_in(folder)

    def make(*overrides: str) -> DictConfig:
        options = ["model.hidden=[8]", "model.dropout=0.3", "schedule=cosine", "warmup=0.2", "save_every=1"]
        options += [f"optimizer.lr={RATE}", f"batch_size={BATCH}", "refit=true", f"cache={folder}/cache"]
        cfg = composed("model=deepfm", "trainer=cpu", f"trainer.max_epochs={EPOCHS}", *options, *overrides)
        cfg.data = OmegaConf.create({**tiny, "label": {**tiny["label"], "kind": cfg.data.label.kind}})
        return cfg

    return make


def trained(cfg: DictConfig, folder: Path) -> dict[str, Any]:
    """Train in `folder`; returns metrics.json."""
    train(cfg, folder, lambda *_: None)
    return json.loads((folder / "metrics.json").read_text())


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory) -> Run:
    """A run that was not cut, with what was watched of both of its trainings."""
    with pytest.MonkeyPatch.context() as patch:
        watches = watch_trainings(patch)
        folder = tmp_path_factory.mktemp("whole")
        return Run(folder, trained(config(), folder), *watches)


@pytest.fixture
def copied(whole, tmp_path) -> Path:
    """A copy of this run's folder."""
    return shutil.copytree(whole.folder, tmp_path, dirs_exist_ok=True)


def prepared(cfg: DictConfig) -> DataModule:
    data = build_data(cfg)
    data.prepare_data()
    data.setup()
    return data


def weights(path: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(path)["state_dict"]


def assert_same_weights(one: Path, other: Path) -> None:
    for (name, weight), expected in zip(weights(one).items(), weights(other).values(), strict=True):
        assert torch.equal(weight, expected), name


def test_refit_trains_on_both_parts_for_as_long_as_was_best(config, whole):
    folder, metrics, first, second = whole
    data = prepared(config())
    counts = [data.state["events"][part] for part in ("train", "valid")]
    best = read_checkpoint(folder / "checkpoints" / "selected.ckpt")["epoch"] + 1
    assert 1 < best < metrics["epochs"] < EPOCHS
    assert sum(first.rows) == counts[0] * metrics["epochs"]
    assert sum(second.rows) == sum(counts) * best
    for seen, rows in ((first, counts[0]), (second, sum(counts))):
        steps = -(-rows // BATCH) * EPOCHS  # the cosine spans all of the epochs that might have been
        expected = [RATE * learning_rate_factor("cosine", 0.2, step, steps) for step in range(len(seen.rates))]
        assert seen.rates == pytest.approx(expected)


@pytest.mark.parametrize("options", [[], [*IMPLICIT, "model=ncf"], ["optimizer=adagrad", "model.sparse=true"]])
def test_on_the_same_rows_the_second_training_is_the_first(config, tmp_path, monkeypatch, options):
    """Seed, first weights, order of rows, negatives, dropout and learning rates: to the last bit."""
    monkeypatch.setattr(DataModule, "with_valid", copy.copy)
    options = [*options, "~model.hidden", "~model.dropout"] if "model=ncf" in options else options
    trained(config(*options), tmp_path / "run")
    checkpoints = tmp_path / "run" / "checkpoints"
    assert_same_weights(checkpoints / "best.ckpt", checkpoints / "selected.ckpt")


def test_validation_figures_are_those_without_refit_and_test_figures_are_not(config, whole, tmp_path):
    refitted, plain = whole.metrics, trained(config("refit=false"), tmp_path)
    assert refitted["valid"] == plain["valid"]
    assert refitted["test"] != plain["test"]
    assert (refitted["refit"], plain["refit"]) == (True, False)
    assert_same_weights(whole.folder / "checkpoints" / "selected.ckpt", tmp_path / "checkpoints" / "best.ckpt")
    saw_valid = [load_model(run / "checkpoints" / "best.ckpt").saw_valid for run in (whole.folder, tmp_path)]
    assert saw_valid == [True, False]


def test_the_checkpoint_of_the_second_training_carries_what_any_carries(whole):
    names = ("best", "selected", "last", "refit")
    best, *others = (read_checkpoint(whole.folder / "checkpoints" / f"{name}.ckpt") for name in names)
    for other in others:
        assert all(best[key] == other[key] for key in (CONFIG_KEY, DATA_KEY, ENCODERS_KEY, "hyper_parameters"))


CUTS = {
    "before the first step": ([], [0]),
    "after the first step": ([], [1]),
    "at an epoch's end": ([], [8]),
    "in an epoch": ([], [9]),
    "thrice, negatives and workers": ([*IMPLICIT, "workers=2"], [3, 8, 2]),
}


@pytest.mark.parametrize("case", CUTS)
def test_a_second_training_goes_on_as_if_never_cut(config, tmp_path, request, monkeypatch, case):
    options, cuts = CUTS[case]
    cfg = config(*options)
    if options:
        trained(cfg, tmp_path)
    else:
        request.getfixturevalue("copied")
    checkpoints = tmp_path / "checkpoints"
    (checkpoints / "best.ckpt").rename(checkpoints / "whole.ckpt")
    (checkpoints / "refit.ckpt").unlink()
    data = prepared(cfg)
    assert len(data.train_dataloader()) == 6
    assert len(data.with_valid().train_dataloader()) == 8
    for left in cuts:
        watch_trainings(monkeypatch, left)
        with pytest.raises(Killed):
            refit(cfg, tmp_path, checkpoints / "selected.ckpt", 0.5, data, find_refit(tmp_path))
        assert not (checkpoints / "best.ckpt").exists()
    watches = watch_trainings(monkeypatch)
    for _ in range(2):  # the second time as if cut in the test
        model, _ = refit(cfg, tmp_path, checkpoints / "selected.ckpt", 0.5, data, find_refit(tmp_path))
        assert_same_weights(checkpoints / "best.ckpt", checkpoints / "whole.ckpt")
        assert model.threshold == 0.5
    assert watches[1].rates == []


def test_a_new_run_does_not_go_on_with_the_second_training_of_an_earlier_one(config, copied, monkeypatch):
    assert find_refit(copied)
    watch_trainings(monkeypatch, 3)
    with pytest.raises(Killed):
        train(config("seed=1"), copied, lambda *_: None)
    assert not find_refit(copied)
