"""What the data module checks before training: that there is something to rank, and that settings are used."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl

from recsys.classical.fitted import Fitted
from recsys.classical.popularity import Popularity
from recsys.data.module import DataModule, DataSpec
from recsys.data.split import TEST, TRAIN
from recsys.models.deepfm import DeepFM
from recsys.models.din import DIN
from recsys.models.mf import MF
from recsys.scoring import judge


def opened(mapping: dict, cache: Path, **options: int) -> DataModule:
    data = DataModule(DataSpec.parse(mapping), cache=cache, **options)
    data.prepare_data()
    data.setup()
    return data


@pytest.mark.parametrize("kind", ["binary", "implicit"])
def test_with_valid_trains_on_the_rows_of_both_parts(tiny, tmp_path, kind):
    """Every row of both once, with its own history; negatives avoid the positives of both parts, and only these."""
    visits = pd.read_csv(tmp_path / "visits.csv").head(200)
    visits.to_csv(tmp_path / "visits.csv", index=False)
    label = {"kind": kind, "column": "bought"} if kind == "binary" else {"kind": kind, "negatives": 200}
    data = opened({**tiny, "label": label}, tmp_path, batch_size=16)
    data.start = (3, 2)
    both, store = data.with_valid(), data.store
    assert both.start == (0, 0)
    part_E = np.asarray(store.part_E)
    assert both.train_rows.rows.tolist() == np.flatnonzero(part_E != TEST).tolist()
    assert data.train_rows.rows.tolist() == np.flatnonzero(part_E == TRAIN).tolist()
    rows = [both.train_rows.rows[index] for index, _ in both.train_dataloader().sampler]
    assert sorted(np.concatenate(rows)) == both.train_rows.rows.tolist()
    data.check_leaks()
    if kind == "binary":
        return
    for module, known in ((data, part_E == TRAIN), (both, part_E != TEST)):
        met = {(u, i) for u, i in zip(store.user_E[known], store.item_E[known], strict=True)}
        batch = module.train_rows[np.arange(len(module.train_rows)), (0,)]
        user_B, item_B = (store.sides[role].ids[:, 0].tolist() for role in ("user", "item"))
        drawn = {(user_B.index(int(u)), item_B.index(int(i))) for u, i in batch.ids_BF[batch.label_B == 0][:, [0, 2]]}
        users, items = {u for u, _ in met}, {i for _, i in met}
        assert drawn == {(u, i) for u in users for i in items} - met


@pytest.mark.parametrize(("part", "name"), [("valid", "validation"), ("test", "test")])
def test_implicit_data_with_nothing_new_to_find_are_refused_before_training(tiny, tmp_path, part, name):
    """Bug: without a new item in the test part, `KeyError: 'test'` came after the whole training."""
    visits = pd.DataFrame({"shopper": "p0", "sku": range(100, 106), "when": range(6), "bought": 1, "device": "desk"})
    visits["split"] = ["train", "train", "valid", "valid", "test", "test"]
    visits.loc[visits["split"] == part, "sku"] = 100
    visits.to_csv(tmp_path / "visits.csv", index=False)
    data = opened({**tiny, "label": {"kind": "implicit"}, "split": {"by": "column"}}, tmp_path)
    with pytest.raises(ValueError, match=f"no {name} user meets an item for the first time, so there is nothing to"):
        data.check_evaluation()


def test_labelled_data_with_nothing_new_to_find_are_judged_without_rankings(tiny, tmp_path, caplog):
    """Bug: a classical model ended in an IndexError, and a deep one left the rankings out in silence."""
    visits = pd.read_csv(tmp_path / "visits.csv")
    train = pd.DataFrame({"shopper": "p0", "sku": range(100, 112), "when": -1, "bought": [0, 1] * 6, "device": "desk"})
    pd.concat([train, visits[visits["shopper"] == "p0"]]).to_csv(tmp_path / "visits.csv", index=False)
    data = opened(tiny, tmp_path)
    data.check_evaluation()
    assert "no test user meets a liked item for the first time, so rankings are left out" in caplog.text
    assert len(data.test_dataloader()) == 1
    metrics = judge(Fitted.fit(Popularity(), data.store), data, TEST, (10,)).results.metrics
    assert "auc" in metrics
    assert "ndcg@10" not in metrics


def test_a_long_ranking_is_named_before_the_training(tiny, tmp_path, caplog, monkeypatch):
    data = opened(tiny, tmp_path)
    data.check_evaluation()
    assert "ranks" not in caplog.text
    monkeypatch.setattr("recsys.data.module.LONG_RANKING", len(data.queries(TEST)) - 1)
    data.check_evaluation()
    users = len(data.queries(TEST).rows_Q)
    assert f"the test part ranks 12 items for {users} users, which may take hours" in caplog.text


def test_queries_that_were_checked_are_those_that_are_ranked(tiny, tmp_path):
    data = opened(tiny, tmp_path, candidates=3)
    data.check_evaluation()
    (ranked,) = [loader.dataset for loader in data.test_dataloader()[1:]]
    assert ranked is data.test_dataloader()[1].dataset


@pytest.mark.parametrize(
    ("label", "options", "ignored"),
    [
        ({"kind": "binary", "column": "bought"}, {}, False),
        ({"kind": "binary", "column": "bought"}, {"ranking": False}, True),
        ({"kind": "rating", "column": "bought"}, {}, True),
        ({"kind": "rating", "column": "bought", "positive_from": 1}, {}, False),
    ],
)
def test_candidates_that_no_ranking_uses_are_named(tiny, tmp_path, caplog, label, options, ignored):
    """Bug: `evaluation.candidates` was ignored in silence."""
    opened({**tiny, "label": label}, tmp_path, candidates=3, **options).check_evaluation()
    assert ("`evaluation.candidates` is ignored: the test part is not ranked" in caplog.text) is ignored


@pytest.mark.parametrize("count", [None, 3])
def test_a_table_of_candidates_that_no_ranking_uses_is_named(tiny, tmp_path, caplog, count):
    """Bug: the table was ignored in silence unless `evaluation.candidates` was set."""
    rows = {"shopper": np.repeat([f"p{n}" for n in range(30)], 12), "sku": [*range(100, 112)] * 30}
    pd.DataFrame(rows).to_csv(tmp_path / "given.csv", index=False)
    tiny["tables"]["candidates"] = {"path": str(tmp_path / "given.csv")}
    opened(tiny, tmp_path, candidates=count).check_evaluation()
    assert ("table `candidates` is ignored: set `evaluation.candidates`" in caplog.text) is (count is None)


@pytest.mark.parametrize(
    ("model", "lists"),
    [(MF, set()), (DeepFM, {"labels"}), (DIN, {"labels", "history.sku", "history.shelf", "history.labels"})],
)
def test_batches_hold_the_lists_that_the_trained_model_reads(tiny, tmp_path, model, lists):
    data, seen = opened(tiny, tmp_path, batch_size=128), []

    class Look(pl.Callback):
        def on_train_batch_start(self, *arguments):
            seen.append(set(arguments[2].lists))

    silent = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=2, callbacks=[Look()], limit_val_batches=0, enable_model_summary=False, **silent
    )
    trainer.fit(model(data.schema), datamodule=data)
    assert seen == [lists] * 2
