"""What is refused before any data is read."""

import pytest
import pytorch_lightning as pl
import torch

from recsys.callbacks import CONFIG_KEY
from recsys.config import carried, check, checkpoint_config
from recsys.models.base import CLASS_KEY
from recsys.models.mf import MF

REFUSED = {
    "evaluation.k=10": "`evaluation.k` must be a list of positive integers such as \\[5,10,20\\], got 10",
    "model=svd evaluation.k=null": "`evaluation.k` must be a list of positive integers",
    "seed=-1": "`seed` must be an integer from 0 to 4294967295, got -1",
    "model=svd seed=-1": "`seed` must be an integer from 0 to 4294967295, got -1",
    "model=svd model.seed=-1": "`model.seed` must be an integer from 0 to",
    "embedding_weight_decay=abc": "`embedding_weight_decay` must be a number or null, got 'abc'",
    "model.batch_norm=true batch_size=1": "`batch_size` must be at least 2 where `model.batch_norm`",
    "+trainer.fast_dev_run=true": "`trainer.fast_dev_run` writes no checkpoint",
    "pretrained=outputs/x.ckpt": r"`pretrained` must be a list of two checkpoints .*, got 'outputs/x\.ckpt'",
    "+trainer.val_check_interval=5 +trainer.check_val_every_n_epoch=null": "`.*_every_n_epoch` must be an integer",
}


@pytest.mark.parametrize("options", REFUSED)
def test_a_wrong_option_is_refused_by_name(composed, options):
    """Bug: a path given as `pretrained` was read letter by letter; validations across epochs did not resume exactly.

    Bug: others came out as an error of Python's or torch's, some after the run had begun.
    """
    with pytest.raises(ValueError, match=REFUSED[options]):
        check(composed("trainer=cpu", *options.split()))


def test_a_trainer_of_one_process_is_not_started_as_many(composed, monkeypatch):
    """Bug: under torchrun, each of the processes trained a model of its own into the same folder."""
    monkeypatch.setenv("WORLD_SIZE", "8")
    with pytest.raises(ValueError, match="for one process and 8 were started"):
        check(composed())
    check(composed("trainer=ddp"))


def test_seeds_are_not_for_several_processes(composed):
    with pytest.raises(ValueError, match="`seeds` repeats new runs in one process"):
        check(composed("trainer=ddp", "seeds=2"))


def test_a_validation_inside_an_epoch_is_accepted(composed):
    check(composed("trainer=cpu", "+trainer.val_check_interval=0.5"))


@pytest.mark.parametrize("limit", ["max_steps=9", "max_time=00:01:00:00"])
def test_a_second_training_is_as_long_in_epochs(composed, limit):
    check(composed("trainer=cpu", f"+trainer.{limit}"))
    with pytest.raises(ValueError, match=r"`refit` trains again for as many epochs"):
        check(composed("trainer=cpu", "refit=true", f"+trainer.{limit}"))


def test_a_checkpoint_follows_the_cache_and_the_folder_of_its_tables(composed, tmp_path, monkeypatch):
    """Bug: it held the paths of its training, whatever the environment said by now."""
    monkeypatch.setenv("RECSYS_CACHE", str(tmp_path / "one"))
    monkeypatch.setenv("RECSYS_DATA", str(tmp_path / "one"))
    for data in ("shop", "ml100k"):
        content = {CLASS_KEY: "recsys.models.mf.MF", CONFIG_KEY: carried(composed(f"data={data}", "seed=3"))}
        torch.save(content, tmp_path / f"{data}.ckpt")
    monkeypatch.setenv("RECSYS_CACHE", str(tmp_path / "two"))
    monkeypatch.setenv("RECSYS_DATA", str(tmp_path / "two"))
    shop = checkpoint_config(tmp_path / "shop.ckpt")
    assert (shop.cache, shop.seed) == (str(tmp_path / "two"), 3)
    assert shop.data.tables.users.path == f"{tmp_path}/two/shop-100000-0/user_data.csv"
    assert checkpoint_config(tmp_path / "ml100k.ckpt").data.tables.users.path == f"{tmp_path}/two/ml-100k/ml-100k.user"
    moved = composed("checkpoint=x", "cache=three", "data.root=four", name="evaluate")
    assert checkpoint_config(tmp_path / "ml100k.ckpt", moved).data.tables.users.path == "four/ml-100k.user"
    moved = composed("checkpoint=x", "cache=three", "bundle=x", name="verify")
    assert checkpoint_config(tmp_path / "shop.ckpt", moved).data.generate.folder == "three/shop-100000-0"


def test_what_has_learned_the_validation_rows_is_no_start(composed, schema, tmp_path):
    model = MF(schema, embedding_dim=2)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.connect(model)
    for threshold, name in ((None, "selected"), (0.0, "best")):
        model.threshold = threshold
        trainer.save_checkpoint(tmp_path / f"{name}.ckpt")
    check(composed("model=ncf", "trainer=cpu", f"pretrained=[{tmp_path}/selected.ckpt]"))
    with pytest.raises(ValueError, match=r"best\.ckpt has learned the validation rows .*; give the selected\.ckpt"):
        check(composed("model=ncf", "trainer=cpu", f"pretrained=[{tmp_path}/selected.ckpt,{tmp_path}/best.ckpt]"))
