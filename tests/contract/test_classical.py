"""What every classical model promises as a run; models are found by globbing configs/model."""

import inspect
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from sklearn.metrics import roc_auc_score

from recsys.classical.base import Classical
from recsys.classical.fitted import Fitted
from recsys.config import build_classical, checkpoint_config, reopen, resolve
from recsys.data.batches import Rows
from recsys.data.candidates import Candidates
from recsys.data.split import TEST, TRAIN, VALID
from recsys.metrics import ndcg_at_k, ranked_hits
from recsys.models.base import load_model
from recsys.scoring import evaluate_fitted
from recsys.training import train

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
TARGETS = {path.stem: OmegaConf.load(path)["_target_"] for path in (CONFIGS / "model").glob("*.yaml")}
CLASSES = {name: get_class(target) for name, target in TARGETS.items()}
MODELS = sorted(name for name, found in CLASSES.items() if issubclass(found, Classical))
SMALL = {"embedding_dim": 3}
LABELS = {
    "binary": {"kind": "binary", "column": "bought"},
    "implicit": {"kind": "implicit"},
    "rating": {"kind": "rating", "column": "bought", "range": [0, 1], "positive_from": 1},
}
FEEDBACK = {"binary": {"ratings", "implicit"}, "implicit": {"implicit"}, "rating": {"ratings"}}
CASES = [(n, kind) for n in MODELS for kind in LABELS if not FEEDBACK[kind].isdisjoint(CLASSES[n].feedback)]
cases = pytest.mark.parametrize(("name", "kind"), CASES)


@pytest.fixture
def run(composed, tiny, tmp_path):
    """Train a model on the tiny shop with labels of a kind; returns its folder."""

    def make(name: str, kind: str, **more: object) -> Path:
        (tmp_path / "visits.csv").rename(tmp_path / "all.csv")
        lines = (tmp_path / "all.csv").read_text().splitlines()
        once = {line.rsplit(",", 4)[0] + line.split(",")[1]: line for line in lines}  # each pair once
        (tmp_path / "visits.csv").write_text("\n".join(once.values()) + "\n")
        cfg = composed(
            f"model={name}", f"cache={tmp_path}/cache", "export=false", *(f"{k}={v}" for k, v in more.items())
        )
        declared = {**tiny, "label": LABELS[kind], "split": {"by": "random", "valid": 0.2, "test": 0.2}}
        OmegaConf.set_struct(cfg, False)
        cfg.data = declared
        small = {key: value for key, value in SMALL.items() if key in cfg.model}
        cfg = OmegaConf.merge(cfg, {"model": small})
        assert isinstance(cfg, DictConfig)
        train(cfg, tmp_path / "run", lambda *_: None)
        return tmp_path / "run"

    return make


@pytest.mark.parametrize("name", MODELS)
def test_the_yaml_lists_every_keyword_with_its_default(composed, name):
    model = composed(f"model={name}").model
    keywords = inspect.signature(CLASSES[name]).parameters
    assert {key: value for key, value in resolve(model).items() if key != "_target_"} == {
        key: parameter.default for key, parameter in keywords.items()
    }
    build_classical(composed(f"model={name}"))


@cases
def test_a_run_leaves_what_any_run_leaves_and_its_model_file_scores_the_same(run, name, kind):
    folder = run(name, kind)
    metrics = json.loads((folder / "metrics.json").read_text())
    expected = {"binary": {"auc", "logloss", "f1", "ndcg@10"}, "implicit": {"ndcg@10"}, "rating": {"rmse", "ndcg@10"}}
    assert expected[kind] <= metrics["test"].keys()
    assert metrics["monitor"].removeprefix("valid/") in metrics["valid"]
    assert all(value is not None for value in metrics["valid"].values())
    assert metrics["seconds"].keys() == {"train", "score"}
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert f"{metrics['test']['ndcg@10']:.4f}" in page
    assert len(json.loads((folder / "evaluation.json").read_text())["recommendations"]) == 5
    assert (folder / "plots" / "roc.png").exists() == (kind == "binary")
    path = folder / "checkpoints" / "best.ckpt"
    assert torch.load(path, weights_only=True)["recsys_encoders"]
    data, model = reopen(path, checkpoint_config(path))
    assert isinstance(model, Fitted)
    again = evaluate_fitted(model, data, (5, 10, 20))
    for part in ("valid", "test"):
        assert again[part] == pytest.approx(metrics[part], nan_ok=True)
    with pytest.raises(ValueError, match="which is not a Recommender"):
        load_model(path)


@pytest.mark.parametrize("name", ["item_knn", "svd"])
def test_labelled_rows_are_scored_by_position(run, name):
    path = run(name, "binary") / "checkpoints" / "best.ckpt"
    data, model = reopen(path, checkpoint_config(path))
    rows = Rows(data.store, TEST)
    pairs = [(data.store.user_E[row], data.store.item_E[row]) for row in rows.rows]
    score_B = np.concatenate([model.model.score(np.array([user]), np.array([item])) for user, item in pairs])
    metrics = json.loads((path.parents[1] / "metrics.json").read_text())["test"]
    assert metrics["auc"] == pytest.approx(roc_auc_score(data.store.label_E[rows.rows], score_B))
    probability_B = model.to_score(torch.from_numpy(score_B)).numpy()
    assert ((probability_B > 0) & (probability_B < 1)).all()
    assert (np.diff(probability_B[np.argsort(score_B)]) >= 0).all()


@pytest.mark.parametrize("candidates", ["null", "4"])
def test_rankings_leave_out_what_was_met_and_judge_the_rest(run, candidates):
    path = run("ease", "implicit", **{"evaluation.candidates": candidates}) / "checkpoints" / "best.ckpt"
    data, model = reopen(path, checkpoint_config(path))
    queries: Candidates = data.queries(TEST)
    found = []
    for query in range(len(queries.rows_Q)):
        user = int(data.store.user_E[queries.rows_Q[query]])
        batch = queries[query * queries.width + np.arange(queries.width)]
        item_I = queries.items(np.full(queries.width, query), np.arange(queries.width))
        score_I = model.model.score_items(np.array([user]))[0, item_I]
        hit, _ = ranked_hits(
            torch.from_numpy(score_I)[None].float(), batch.label_B[None] == 1, batch.label_B[None] == -1
        )
        found.append(float(ndcg_at_k(hit, 10)))
    metrics = json.loads((path.parents[1] / "metrics.json").read_text())["test"]
    assert metrics[f"ndcg@10{queries.note}"] == pytest.approx(np.mean(found))


def test_refit_learns_the_validation_rows_and_nothing_else_changes(run):
    path = run("item_knn", "binary", refit=True) / "checkpoints" / "best.ckpt"
    data, model = reopen(path, checkpoint_config(path))
    store = data.store
    pairs = set(zip(store.user_E, store.item_E, strict=True))
    met = {
        (u, i) for u, i, part in zip(store.user_E, store.item_E, store.part_E, strict=True) if part in (TRAIN, VALID)
    }
    assert len(model.model.learned["seen_item_N"]) == len(met) < len(pairs)
    assert evaluate_fitted(model, data, (10,))["valid"] == {}
    metrics = json.loads((path.parents[1] / "metrics.json").read_text())
    plain = Fitted.fit(build_classical(checkpoint_config(path)), store).calibrated(store)
    assert (plain.slope, plain.intercept) == (model.slope, model.intercept)
    assert 0 < metrics["valid"]["auc"] < 1


def test_other_rows_are_refused(run, tmp_path):
    path = run("popularity", "binary") / "checkpoints" / "best.ckpt"
    lines = (tmp_path / "visits.csv").read_text().splitlines()
    lines[-1] = lines[-1].replace(",0,", ",2,").replace(",1,", ",0,").replace(",2,", ",1,")  # the last label turned
    (tmp_path / "visits.csv").write_text("\n".join(lines) + "\n")
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(ValueError, match=r"was fitted on other rows than 'tiny' holds|was trained on other data"):
        reopen(path, checkpoint_config(path))
