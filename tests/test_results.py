"""Results of a part against loops over users and items: groups, intervals, beyond accuracy, sampled candidates."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

from recsys.data.batches import Rows
from recsys.data.candidates import EXCLUDED, Candidates, FewCandidates
from recsys.data.module import DataModule, DataSpec
from recsys.data.split import TEST, TRAIN
from recsys.data.store import Store
from recsys.metrics import GROUPS, activity_groups, ranked_hits, ranking_metrics
from recsys.results import K, Results, labelled_results, merge_results, ranking_results


def opened(mapping: dict, cache: Path) -> Store:
    data = DataModule(DataSpec.parse(mapping), cache=cache)
    data.prepare_data()
    data.setup()
    return data.store


@pytest.fixture
def store(tiny: dict, tmp_path: Path) -> Store:
    """The tiny shop with newcomers in the test part."""
    visits = pd.read_csv(tmp_path / "visits.csv")
    late = visits["when"] > visits["when"].quantile(0.9)
    visits.loc[late & (visits["shopper"].isin(["p1", "p2", "p3"])), "shopper"] = "p29"
    visits = visits[late | (visits["shopper"] != "p29")]
    visits.to_csv(tmp_path / "visits.csv", index=False)
    return opened(tiny, tmp_path)


def training_events(store: Store, of_E: np.ndarray, size: int) -> np.ndarray:
    counts = np.zeros(size, dtype=int)
    for n, part in zip(of_E, store.part_E, strict=True):
        counts[n] += part == TRAIN
    return counts


def judged(store: Store) -> tuple[Results, np.ndarray, torch.Tensor, torch.Tensor]:
    rows = Rows(store, TEST).rows
    logit_B = torch.from_numpy(np.random.default_rng(1).normal(size=len(rows)))
    label_B = torch.from_numpy(np.array(store.label_E[rows]))
    results = labelled_results(store, rows, logit_B, logit_B.sigmoid(), label_B, 0.0, details=True)
    return results, rows, logit_B, label_B


@pytest.mark.parametrize("side", ["users", "items"])
def test_labelled_rows_are_judged_by_activity(store, side):
    results, rows, logit_B, label_B = judged(store)
    of_E, size = (store.user_E, store.users) if side == "users" else (store.item_E, store.items)
    group_N = activity_groups(torch.from_numpy(training_events(store, of_E, size))).numpy()
    found = getattr(results, side)
    assert sum(group["rows"] for group in found.values()) == len(rows)
    for number, name in enumerate(GROUPS):
        mine = group_N[of_E[rows]] == number
        if not mine.any():
            assert name not in found
            continue
        assert found[name]["rows"] == mine.sum()
        assert found[name][side] == len(set(of_E[rows][mine].tolist()))
        assert found[name]["auc"] == pytest.approx(roc_auc_score(label_B[mine], logit_B[mine]))
    if side == "users":
        assert "cold" in found, "p29 appears only at the end"


def test_intervals_are_named_like_the_metrics_and_hold_them(store):
    results, *_ = judged(store)
    assert set(results.intervals) == {*results.metrics} - {"calibration_error"}
    for name in ("auc", "logloss", "precision", "recall", "f1"):
        low, high = results.intervals[name]
        assert low <= results.metrics[name] <= high


def test_a_group_of_one_class_has_no_auc(store):
    rows = Rows(store, TEST).rows
    label_B = torch.from_numpy(np.array(store.label_E[rows]))
    users = training_events(store, store.user_E, store.users)
    label_B[torch.from_numpy(users[store.user_E[rows]] == 0)] = 1.0
    logit_B = torch.linspace(-1, 1, len(rows)).double()
    found = labelled_results(store, rows, logit_B, logit_B.sigmoid(), label_B, 0.0, details=True).users["cold"]
    assert np.isnan(found["auc"])
    assert found["logloss"] > 0


def ranked(queries: Candidates) -> tuple[Results, np.ndarray, np.ndarray]:
    """Results of random scores, with the ranked items of every query by hand."""
    batch = queries[np.arange(len(queries))]
    score_QI = torch.from_numpy(np.random.default_rng(2).normal(size=(len(queries.rows_Q), queries.width)))
    label_QI = batch.label_B.view(score_QI.shape)
    hit_QI, place_QI = ranked_hits(score_QI, label_QI == 1, label_QI == EXCLUDED)
    values = ranking_metrics(hit_QI, [K])
    results = ranking_results(queries, values, place_QI[:, :K], hit_QI[:, :K], details=True)
    return results, score_QI.numpy(), label_QI.numpy()


def test_full_rankings_are_judged_beyond_accuracy(store):
    queries = Candidates(store, TEST)
    results, score_QI, label_QI = ranked(queries)
    liked = (store.part_E == TRAIN) & store.liked_E
    count_I = np.bincount(store.item_E[liked], minlength=store.items)
    lists, profiles = [], []
    for score, label, row in zip(score_QI, label_QI, queries.rows_Q, strict=True):
        lists.append([i for i in np.argsort(-score) if label[i] != EXCLUDED][:K])
        mine = liked & (store.user_E == store.user_E[row])
        profiles.append(count_I[store.item_E[mine]].mean() if mine.any() else np.nan)
    metrics = results.metrics
    assert metrics[f"coverage@{K}"] == len({int(i) for items in lists for i in items}) / store.items
    information = -np.log2((count_I + 1) / (count_I.sum() + store.items))
    assert metrics[f"novelty@{K}"] == pytest.approx(np.mean([information[items].mean() for items in lists]))
    known = ~np.isnan(profiles)
    listed = np.mean([count_I[items].mean() for items, k in zip(lists, known, strict=True) if k])
    assert metrics[f"popularity_lift@{K}"] == pytest.approx(listed / np.mean(np.array(profiles)[known]) - 1)
    assert 0 < metrics[f"diversity@{K}"] < 1
    assert set(results.intervals) == {*metrics} - {f"coverage@{K}", f"popularity_lift@{K}"}


def test_rankings_are_judged_by_activity_of_users_and_popularity_of_liked_items(store):
    queries = Candidates(store, TEST)
    results, score_QI, label_QI = ranked(queries)
    group_U = activity_groups(torch.from_numpy(training_events(store, store.user_E, store.users))).numpy()
    group_I = activity_groups(torch.from_numpy(training_events(store, store.item_E, store.items))).numpy()
    recall, found, total = {}, dict.fromkeys(GROUPS, 0), dict.fromkeys(GROUPS, 0)
    for score, label, row in zip(score_QI, label_QI, queries.rows_Q, strict=True):
        top = [i for i in np.argsort(-score) if label[i] != EXCLUDED][:K]
        right = np.flatnonzero(label == 1)
        group = GROUPS[group_U[store.user_E[row]]]
        recall.setdefault(group, []).append(len(set(top) & set(right)) / len(right))
        for item in right:
            total[GROUPS[group_I[item]]] += 1
            found[GROUPS[group_I[item]]] += item in top
    assert {g: results.users[g][f"recall@{K}"] for g in recall} == pytest.approx(
        {g: np.mean(r) for g, r in recall.items()}
    )
    expected = {g: found[g] / n for g, n in total.items() if n}
    assert {g: values[f"recall@{K}"] for g, values in results.items.items()} == pytest.approx(expected)


def test_sampled_rankings_carry_the_note_in_every_name(store):
    queries = FewCandidates(store, TEST, 3, given=False)
    results, *_ = ranked(queries)
    names = {*results.metrics, *results.intervals, *(n for g in results.users.values() for n in g if n != "users")}
    assert all(name.endswith("[3 sampled]") for name in names)
    assert f"ndcg@{K}[3 sampled]" in names


def test_results_merge_by_group():
    one = Results(metrics={"auc": 0.5}, users={"cold": {"auc": 0.4}})
    two = Results(metrics={"mrr": 0.1}, users={"cold": {"recall@10": 0.2}, "hot": {"recall@10": 0.3}})
    merged = merge_results([one, two])
    assert merged.metrics == {"auc": 0.5, "mrr": 0.1}
    assert merged.users == {"cold": {"auc": 0.4, "recall@10": 0.2}, "hot": {"recall@10": 0.3}}
    assert dataclasses.asdict(one)["metrics"] == {"auc": 0.5}
