"""The evaluation callback: whole-part metrics, full ranking, independence of batch size, the best possible score."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from sklearn.metrics import f1_score, log_loss, ndcg_score, roc_auc_score

from recsys.data.batches import Batch, Rows
from recsys.data.candidates import EXCLUDED, Candidates
from recsys.data.module import DataModule, DataSpec
from recsys.data.split import TEST, VALID
from recsys.evaluation import Evaluation, best_possible, evaluate, monitor_of
from recsys.models.base import Recommender


class ByIds(Recommender):
    """A fixed function of the ids, so that its scores can be worked out by hand."""

    def forward(self, batch: Batch) -> torch.Tensor:
        weight_F = torch.tensor([2, 3, 5, 7, 11]).double().sqrt()  # so that no two rows tie
        return torch.sin((batch.ids_BF * weight_F).sum(1)).float()


class Constant(Recommender):
    """Knows nothing."""

    def forward(self, batch: Batch) -> torch.Tensor:
        return torch.zeros(len(batch))


def opened(mapping: dict, cache: Path, **options: int) -> DataModule:
    data = DataModule(DataSpec.parse(mapping), cache=cache, **options)
    data.prepare_data()
    data.setup()
    return data


def scored(
    model_class: type[Recommender], data: DataModule, k: tuple[int, ...] = (3,), **limits: int
) -> dict[str, Any]:
    trainer = pl.Trainer(
        accelerator="cpu",
        callbacks=[Evaluation(k)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **limits,
    )
    return evaluate(trainer, model_class(data.schema), data)


@pytest.mark.parametrize("candidates", [None, 3])
def test_a_loop_cut_short_is_judged_by_what_it_scored(tiny, tmp_path, candidates):
    """Bug: scores of the first batches met users and rows of the whole part."""
    size = 17
    data = opened(tiny, tmp_path, eval_batch_size=size, candidates=candidates)
    found = scored(ByIds, data, limit_val_batches=2, limit_test_batches=3)
    for part, name, count in ((VALID, "valid", 2 * size), (TEST, "test", 3 * size)):
        batch = Rows(data.store, part)[np.arange(count)]
        logit_B = ByIds(data.schema)(batch)
        assert found[name]["auc"] == pytest.approx(roc_auc_score(batch.label_B, logit_B), abs=1e-9)
    assert sum(group["rows"] for group in found["groups"]["users"].values()) == 3 * size
    queries = data.queries(TEST)
    whole = 3 * max(1, size // queries.width)  # queries in three batches
    first = queries[np.arange(whole * queries.width)]
    label_QI, score_QI = (x.view(whole, -1) for x in (first.label_B, ByIds(data.schema)(first)))
    wins_QI = (label_QI == 0) & (score_QI > score_QI.masked_fill(label_QI != 1, -2).amax(1, keepdim=True))
    assert found["test"][f"mrr{queries.note}"] == pytest.approx((1 / (1 + wins_QI.sum(1))).mean().item())


def test_a_loop_too_short_for_one_query_is_refused(tiny, tmp_path):
    data = opened(tiny, tmp_path, eval_batch_size=5)
    with pytest.raises(ValueError, match="no query was scored in whole: each has 12 items"):
        scored(ByIds, data, limit_test_batches=2)


def test_a_loop_cut_short_needs_one_process(tiny, tmp_path, monkeypatch):
    data = opened(tiny, tmp_path, eval_batch_size=17)
    monkeypatch.setattr("recsys.evaluation._gather", lambda mine: [mine, mine])
    with pytest.raises(ValueError, match=r"2 processes scored 34 of \d+ rows or queries; `trainer.limit_val_batches`"):
        scored(ByIds, data, limit_val_batches=1)


def test_labelled_metrics_equal_scikit_learn_over_the_whole_part(tiny, tmp_path):
    data = opened(tiny, tmp_path, eval_batch_size=7)
    found = scored(ByIds, data)
    for part, name in ((VALID, "valid"), (TEST, "test")):
        rows = Rows(data.store, part)
        batch = rows[np.arange(len(rows))]
        probability = ByIds(data.schema).score(batch).detach().double().numpy()
        assert found[name]["auc"] == pytest.approx(roc_auc_score(batch.label_B, probability), abs=1e-9)
        assert found[name]["logloss"] == pytest.approx(log_loss(batch.label_B, probability), abs=1e-6)


def test_f1_uses_the_threshold_of_the_validation_part(tiny, tmp_path):
    data = opened(tiny, tmp_path)
    found = scored(ByIds, data)
    best, threshold = -1.0, 0.0
    rows = {p: Rows(data.store, p) for p in (VALID, TEST)}
    score = {p: ByIds(data.schema).score(r[np.arange(len(r))]).detach().numpy() for p, r in rows.items()}
    label = {p: r[np.arange(len(r))].label_B.numpy() for p, r in rows.items()}

    def f1(part: int, at: float) -> float:
        chosen = score[part] >= at
        hits = float((label[part] * chosen).sum())
        return 2 * hits / (chosen.sum() + label[part].sum())

    for at in np.unique(score[VALID]):
        if f1(VALID, at) >= best:
            best, threshold = f1(VALID, at), at
    assert found["valid"]["f1"] == pytest.approx(best)
    assert found["test"]["f1"] == pytest.approx(f1(TEST, threshold))


def test_a_model_that_has_learned_the_validation_rows_is_not_judged_by_them(tiny, tmp_path, monkeypatch):
    data = opened(tiny, tmp_path)
    rows = Rows(data.store, TEST)
    batch = rows[np.arange(len(rows))]
    monkeypatch.setattr(ByIds, "threshold", 0.25)
    found = scored(ByIds, data)
    assert found["valid"] == {}
    assert found["test"]["f1"] == pytest.approx(f1_score(batch.label_B, ByIds(data.schema)(batch) >= 0.25))
    monkeypatch.undo()
    assert scored(ByIds, data)["test"]["f1"] != found["test"]["f1"]


def test_ranking_equals_a_loop_over_users(tiny, tmp_path):
    data = opened(tiny, tmp_path, eval_batch_size=5)
    found = scored(ByIds, data)["test"]
    candidates = Candidates(data.store, TEST)
    batch = candidates[np.arange(len(candidates))]
    score_QI = ByIds(data.schema).score(batch).detach().view(-1, 12).numpy()
    label_QI = batch.label_B.view(-1, 12).numpy()
    ndcg, hit, precision, reciprocal = [], [], [], []
    for score, label in zip(score_QI, label_QI, strict=True):
        keep = label != EXCLUDED
        ndcg.append(ndcg_score([label[keep]], [score[keep]], k=3))
        ranked = label[keep][np.argsort(-score[keep])]
        hit.append(float(ranked[:3].any()))
        precision.append(float(ranked[:3].sum()) / 3)
        reciprocal.append(1 / (1 + ranked.argmax()))
    for name, values in {"ndcg@3": ndcg, "hit_rate@3": hit, "precision@3": precision, "mrr": reciprocal}.items():
        assert found[name] == pytest.approx(np.mean(values), abs=1e-9), name


@pytest.mark.parametrize("size", [1, 13, 10_000])
def test_metrics_do_not_depend_on_the_batch_size(tiny, tmp_path, size):
    whole = scored(ByIds, opened(tiny, tmp_path))
    again = scored(ByIds, opened(tiny, tmp_path, eval_batch_size=size))
    for part in ("valid", "test"):
        assert again[part] == pytest.approx(whole[part], abs=1e-7)


def test_a_constant_scorer_finds_nothing_before_all_else_is_gone(tiny, tmp_path):
    data = opened(tiny, tmp_path)
    found = scored(Constant, data, k=(1,))["test"]
    candidates = Candidates(data.store, TEST)
    label_QI = candidates[np.arange(len(candidates))].label_B.view(-1, 12)
    wrong_Q = (label_QI == 0).sum(1).numpy()
    assert wrong_Q.min() > 0
    assert found["auc"] == 0.5
    assert found["hit_rate@1"] == found["ndcg@1"] == 0.0
    assert found["mrr"] == pytest.approx(np.mean(1 / (1 + wrong_Q)))


def test_implicit_data_is_validated_by_ranking(tiny, tmp_path):
    tiny |= {"label": {"kind": "implicit"}, "split": {"by": "leave_one_out"}}
    found = scored(ByIds, opened(tiny, tmp_path))
    assert set(found["valid"]) == set(found["test"]) >= {"ndcg@10", "mrr"}
    assert "auc" not in found["valid"]


def test_ratings_are_judged_by_error_and_ranked_only_with_a_threshold(tiny, tmp_path):
    lines = (tmp_path / "visits.csv").read_text().splitlines()
    rated = [f"{line},{n % 50}" for n, line in enumerate(lines[1:])]
    (tmp_path / "visits.csv").write_text("\n".join([lines[0] + ",mark", *rated]))
    tiny["label"] = {"kind": "rating", "column": "mark", "range": [0, 100]}
    assert set(scored(ByIds, opened(tiny, tmp_path))["test"]) == {"rmse", "mae"}
    tiny["label"]["positive_from"] = 25
    assert {"rmse", "mae", "ndcg@10"} <= set(scored(ByIds, opened(tiny, tmp_path))["test"])


def test_best_possible_scores_the_true_probability(tiny, tmp_path):
    tiny["label"]["oracle"] = "chance"
    lines = (tmp_path / "visits.csv").read_text().splitlines()
    chance = [f"{line},{0.9 if line.split(',')[3] == '1' else 0.1}" for line in lines[1:]]
    (tmp_path / "visits.csv").write_text("\n".join([lines[0] + ",chance", *chance]))
    data = opened(tiny, tmp_path)
    assert best_possible(data, TEST) == pytest.approx({"auc": 1.0, "logloss": -np.log(0.9)})
    assert best_possible(opened({**tiny, "label": {**tiny["label"], "oracle": None}}, tmp_path), TEST) == {}


def test_monitor_names():
    assert monitor_of("binary", None) == ("valid/auc", "max")
    assert monitor_of("binary", "logloss") == ("valid/logloss", "min")
    assert monitor_of("rating", None) == ("valid/rmse", "min")
    assert monitor_of("implicit", None) == ("valid/ndcg@10", "max")
    with pytest.raises(ValueError, match="did you mean 'auc'"):
        monitor_of("binary", "acu")


def test_implicit_bias_starts_at_the_share_of_positives(tiny, tmp_path):
    """Bug: all implicit labels are 1, so the bias started at +13.8 and every probability was 1: nothing but ties."""
    tiny |= {"label": {"kind": "implicit", "negatives": 4}, "split": {"by": "leave_one_out"}}
    model = Constant(opened(tiny, tmp_path).schema)
    assert model.bias.sigmoid().item() == pytest.approx(1 / (1 + 4))


def test_saturated_probabilities_do_not_tie(tiny, tmp_path):
    class Confident(ByIds):
        def forward(self, batch: Batch) -> torch.Tensor:
            return super().forward(batch) + 40

    data = opened(tiny, tmp_path)
    assert Confident(data.schema).score(data.test_dataloader()[0].dataset[np.arange(9)]).unique().tolist() == [1.0]
    sure, plain = scored(Confident, data)["test"], scored(ByIds, data)["test"]
    assert sure["auc"] == pytest.approx(plain["auc"], abs=1e-3)
    assert sure["ndcg@10"] == pytest.approx(plain["ndcg@10"], abs=1e-3)
