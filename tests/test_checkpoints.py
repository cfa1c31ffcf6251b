"""Training goes on from last.ckpt bit for bit, wherever it was cut; checkpoints are whole and carry their origin."""

import contextlib
import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf

from recsys.callbacks import CONFIG_KEY, DATA_KEY, ENCODERS_KEY, MetricsLog
from recsys.checkpoints import PLACE_KEY, LastCheckpoint, WholeCheckpoints
from recsys.config import build_data, build_model, build_trainer
from recsys.data.encoders import Encoders
from recsys.data.module import DataModule
from recsys.models.base import read_checkpoint
from recsys.report import read_curves
from recsys.schema import FeatureSchema

EPOCHS = 3


class Killed(Exception):
    """What `Cut` raises."""


class Cut(pl.Callback):
    """Ends the training by an error after so many batches, or at the start of the validation after so many."""

    def __init__(self, batches: int = -1, validations: int = -1) -> None:
        self.batches, self.validations = batches, validations

    def on_train_batch_start(self, *_: Any) -> None:
        if self.batches == 0:
            raise Killed
        self.batches -= 1

    def on_validation_start(self, *_: Any) -> None:
        if self.validations == 0:
            raise Killed
        self.validations -= 1


@pytest.fixture
def config(composed, tiny, tmp_path) -> Callable[..., DictConfig]:
    """DeepFM with dropout, a falling learning rate and early stopping on 30 shoppers; every step is saved."""

    def make(*overrides: str) -> DictConfig:
        options = ["model.hidden=[8]", "model.dropout=0.5", "schedule=cosine", "warmup=0.2", "save_every=1"]
        trainer = ["trainer=cpu", f"trainer.max_epochs={EPOCHS}", "trainer.devices=1"]
        cfg = composed("model=deepfm", "batch_size=43", f"cache={tmp_path}/cache", *options, *trainer, *overrides)
        label = cfg.data.label
        cfg.data = OmegaConf.create({**tiny, "label": {**tiny["label"], "kind": label.kind}})
        return cfg

    return make


def prepared(cfg: DictConfig) -> DataModule:
    data = build_data(cfg)
    data.prepare_data()
    data.setup()
    return data


def fit(cfg: DictConfig, folder: Path, cut: Cut | None = None) -> tuple[pl.Trainer, pl.LightningModule]:
    """Train in `folder`, from its last.ckpt where there is one."""
    last = folder / "checkpoints" / "last.ckpt"
    content = read_checkpoint(last) if last.exists() else None
    data = prepared(cfg)
    if content:
        data.start = (content[PLACE_KEY]["epoch"], content[PLACE_KEY]["batch"])
    pl.seed_everything(cfg.seed, verbose=False)
    trainer = build_trainer(cfg, data.schema.label.kind, folder, content["global_step"] if content else 0)
    model = build_model(cfg, data.schema)
    if cut:
        trainer.callbacks.insert(0, cut)
    with contextlib.suppress(Killed):
        trainer.fit(model, datamodule=data, ckpt_path=last if content else None, weights_only=True)
    return trainer, model


def assert_same_training(cfg: DictConfig, folder: Path, *cuts: Cut) -> None:
    """A training with cuts ends in the weights, the best checkpoint and the validations of one without."""
    for cut in cuts:
        fit(cfg, folder / "cut", cut)
    (again, resumed), (trainer, model) = fit(cfg, folder / "cut"), fit(cfg, folder / "whole")
    for (name, weight), other in zip(model.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(weight, other), name
    assert (again.current_epoch, again.global_step) == (trainer.current_epoch, trainer.global_step)
    assert again.checkpoint_callback.best_model_score == trainer.checkpoint_callback.best_model_score
    best = [read_checkpoint(folder / run / "checkpoints" / "best.ckpt")["state_dict"] for run in ("cut", "whole")]
    assert all(torch.equal(a, b) for a, b in zip(*(b.values() for b in best), strict=True))
    curves = [read_curves(folder / run / "log" / "metrics.csv") for run in ("cut", "whole")]
    assert {n: p for n, p in curves[0].items() if "valid" in n} == {n: p for n, p in curves[1].items() if "valid" in n}


CUTS = {
    "inside an epoch": ([], [Cut(4)]),
    "at an epoch's end, with workers": (["workers=2"], [Cut(6)]),
    "thrice, negatives and workers": (["data.label.kind=implicit", "workers=2"], [Cut(3), Cut(4), Cut(7)]),
    "sparse": (["optimizer=adagrad", "model.sparse=true"], [Cut(8)]),
    "inside an accumulation": (["+trainer.accumulate_grad_batches=4"], [Cut(5)]),
    "before a validation inside an epoch": (["+trainer.val_check_interval=0.5"], [Cut(9)]),
    "in a validation": (["save_every=1000"], [Cut(validations=1)]),
    "before the first checkpoint": (["save_every=1000"], [Cut(2)]),
    "in an epoch without validation": (["+trainer.check_val_every_n_epoch=2"], [Cut(13)]),
}


@pytest.mark.parametrize("case", CUTS)
def test_training_goes_on_as_if_never_cut(config, tmp_path, case):
    options, cuts = CUTS[case]
    assert len(prepared(config()).train_dataloader()) == 6
    assert_same_training(config(*options), tmp_path, *cuts)


@pytest.mark.parametrize(("options", "place"), [([], (0, 5)), (["+trainer.accumulate_grad_batches=2"], (0, 4))])
def test_a_training_cut_in_its_validation_repeats_one_step(config, tmp_path, options, place):
    fit(config("save_every=1000", *options), tmp_path, Cut(validations=0))
    content = read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")[PLACE_KEY]
    assert (content["epoch"], content["batch"]) == place


def test_a_training_that_stopped_early_stays_stopped(config, tmp_path):
    cfg = config("patience=1", "optimizer.lr=0.5", "trainer.max_epochs=50")
    trainer, model = fit(cfg, tmp_path)
    assert 1 < trainer.current_epoch < 50
    again, resumed = fit(cfg, tmp_path)
    assert (again.current_epoch, again.global_step) == (trainer.current_epoch, trainer.global_step)
    assert torch.equal(model.bias, resumed.bias)


def test_a_checkpoint_carries_where_it_comes_from(config, tmp_path):
    """Bug: the encoders were lists of Python texts, seconds to read for a large vocabulary; they are one text."""
    cfg = config("trainer.max_epochs=1")
    fit(cfg, tmp_path)
    data = prepared(cfg)
    for name in ("best", "last"):
        content = read_checkpoint(tmp_path / "checkpoints" / f"{name}.ckpt")
        assert Encoders.from_dict(json.loads(content[ENCODERS_KEY])) == data.store.encoders
        assert FeatureSchema.parse(content["hyper_parameters"]["schema"]) == data.schema
        assert content[CONFIG_KEY] == OmegaConf.to_container(cfg, resolve=True)
        assert content[DATA_KEY] == data.state
        assert (PLACE_KEY in content) == (name == "last")


def test_the_state_of_the_data_is_its_content(config, tmp_path):
    first = prepared(config()).state
    for table in tmp_path.glob("*.csv"):
        table.write_bytes(table.read_bytes())  # newer files, so another store
    assert prepared(config()).state == first
    (tmp_path / "goods.csv").write_text((tmp_path / "goods.csv").read_text().replace(",a,", ",b,", 1))
    changed = prepared(config()).state
    assert changed["events"] == first["events"]
    assert changed["fingerprint"] != first["fingerprint"]


def test_a_moved_run_keeps_its_best_checkpoint(config, tmp_path):
    cfg = config()
    fit(cfg, tmp_path / "old", Cut(validations=2))
    (tmp_path / "old").rename(tmp_path / "new")
    trainer, _ = fit(cfg, tmp_path / "new")
    assert Path(trainer.checkpoint_callback.best_model_path) == tmp_path / "new" / "checkpoints" / "best.ckpt"
    assert not (tmp_path / "old").exists()


def test_a_run_without_its_best_checkpoint_is_refused(config, tmp_path):
    fit(config(), tmp_path, Cut(validations=1))
    (tmp_path / "checkpoints" / "best.ckpt").unlink()
    with pytest.raises(FileNotFoundError, match=r"best\.ckpt', the best one of the run to resume"):
        fit(config(), tmp_path)


def test_another_number_of_processes_is_refused(config, tmp_path):
    fit(config(), tmp_path, Cut(4))
    last = tmp_path / "checkpoints" / "last.ckpt"
    content = read_checkpoint(last)
    content[PLACE_KEY]["random"]["cpu"] = content[PLACE_KEY]["random"]["cpu"].repeat(2, 1)
    torch.save(content, last)
    with pytest.raises(ValueError, match=r"has 2 process\(es\); start as many, not 1"):
        fit(config(), tmp_path)


@pytest.mark.parametrize(("every", "asked"), [(1000, [16, 32, 48, 64, 65]), (20, [16, 20, 32, 40, 48, 60, 64, 65])])
def test_processes_ask_each_other_only_now_and_then(monkeypatch, tmp_path, every, asked):
    """Bug: several processes exchanged a message after every step.

    Of 66 steps with a validation at their end: every 16th, where a save is due, and the last but one, which is saved.
    """
    found: list[int] = []
    strategy = SimpleNamespace(reduce_boolean_decision=lambda stop, **_: found.append(trainer.global_step) or stop)
    batches = {"accumulate_grad_batches": 1, "num_training_batches": 66, "val_check_batch": 66}
    trainer = SimpleNamespace(world_size=2, strategy=strategy, current_epoch=0, global_step=0, **batches)
    last = LastCheckpoint(tmp_path / "last.ckpt", every)
    monkeypatch.setattr(last, "_save", lambda trainer, *_: setattr(last, "_saved", trainer.global_step))
    for batch in range(66):
        trainer.global_step = batch + 1
        last.on_train_batch_end(trainer, None, None, None, batch)
    assert found == asked


def test_a_checkpoint_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "last.ckpt"
    WholeCheckpoints().save_checkpoint({"weight": torch.arange(3)}, path)
    with pytest.raises(AttributeError, match="local object"):
        WholeCheckpoints().save_checkpoint({"weight": torch.arange(10**6), "bad": lambda: None}, path)
    assert torch.equal(torch.load(path)["weight"], torch.arange(3))
    assert list(tmp_path.iterdir()) == [path]


def test_the_log_of_a_resumed_run_drops_what_is_done_again(tmp_path):
    path = tmp_path / "log" / "metrics.csv"
    log = MetricsLog(path)
    for step in (0, 9, 19):
        log.log_metrics({"epoch": step // 10, "train/loss": step / 10}, step)
    MetricsLog(path, 19).log_metrics({"epoch": 1, "train/loss": 0.5, "valid/auc": 0.6}, 19)
    assert read_curves(path) == {"train/loss": [(0, 0.0), (0, 0.9), (1, 0.5)], "valid/auc": [(1, 0.6)]}
    MetricsLog(path).log_metrics({"epoch": 0, "train/loss": 0.25}, 0)
    assert read_curves(path) == {"train/loss": [(0, 0.25)]}


def test_a_worker_lost_after_a_signal_leaves_no_trace(tmp_path, capsys, monkeypatch):
    """Bug: on a loaded machine the loader ended its workers late and printed a traceback before the message."""
    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)

    class Loader:
        def __init__(self, message: str) -> None:
            self.message = message

        def __del__(self) -> None:
            raise RuntimeError(self.message)

    monkeypatch.setattr(signal, "signal", lambda *_: None)
    LastCheckpoint(tmp_path / "last.ckpt", 1)._receive(signal.SIGTERM, None)
    del_me = Loader("DataLoader worker (pid 7) is killed by signal: Terminated.")
    del del_me
    assert capsys.readouterr().err == ""
    del_me = Loader("something else")
    del del_me
    assert "something else" in capsys.readouterr().err
