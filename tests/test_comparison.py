"""Who may be called best."""

import pytest
from rich.console import Console

from recsys.comparison import Entry, comparison_table, ranked, verdict
from recsys.run_files import show


def entry(model: str, value: float, half: float = 0.01, metric: str = "ndcg@10", **changes) -> Entry:
    facts = {
        "trials": 3,
        "settings": {},
        "monitor": metric,
        "valid": value,
        "test": {metric: value},
        "intervals": {metric: [value - half, value + half]},
        "tune_seconds": 1.0,
        "train_seconds": 1.0,
        "score_seconds": 1.0,
    }
    return Entry(model=model, **{**facts, **changes})


BASELINES = (entry("popularity", 0.2), entry("item_knn", 0.3))


def test_a_model_apart_from_all_others_is_best():
    assert verdict([*BASELINES, entry("ease", 0.5)]).startswith("ease is best by ndcg@10")
    assert verdict([*BASELINES, entry("ease", 0.1)]).startswith("item_knn is best")


def test_less_error_is_better():
    entries = [
        entry("popularity", 1.0, metric="rmse"),
        entry("item_knn", 0.9, metric="rmse"),
        entry("svd", 0.95, metric="rmse"),
    ]
    assert [e.model for e in ranked(entries)] == ["item_knn", "svd", "popularity"]
    assert verdict(entries).startswith("item_knn is best by rmse")


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ([*BASELINES, entry("ease", 0.305)], "interval of ease overlaps with item_knn"),
        ([*BASELINES, entry("ease", 0.5), entry("mf", 0.4, half=0.2)], "interval of ease overlaps with mf"),
        ([*BASELINES, entry("ease", 0.5, half=0.0)], "overlaps with item_knn, popularity"),
        ([*BASELINES, entry("ease", 0.5, intervals={})], "overlaps with item_knn, popularity"),
        ([entry("ease", 0.5), entry("mf", 0.1)], "popularity and item_knn, simple baselines, are not"),
        ([BASELINES[0], entry("ease", 0.5)], "No model is called best: item_knn, simple baselines"),
    ],
)
def test_nobody_is_best_without_baselines_or_where_intervals_overlap(entries, reason):
    found = verdict(entries)
    assert found.startswith("No model is called best")
    assert reason in found


def test_the_table_begins_with_the_leader():
    table = comparison_table([*BASELINES, entry("ease", 0.5)])
    assert list(table.columns[0].cells) == ["ease", "item_knn", "popularity"]
    assert next(iter(table.columns[3].cells)) == "0.4900 to 0.5100"


def test_no_figure_is_cut_where_the_terminal_is_narrow(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr("recsys.run_files.console", Console(soft_wrap=True))
    show(comparison_table([*BASELINES, entry("a_model_with_a_long_name", 0.5)]))
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("a_model_with_a_long_name", "0.4900 to 0.5100", "tune, train, score s"))
