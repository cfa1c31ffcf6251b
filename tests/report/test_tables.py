"""The table of a multirun."""

from recsys.report import sweep_table


def test_runs_that_differ_by_seed_or_fold_share_a_row_of_means():
    runs = [
        (["experiment=x", f"model.k={k}", f"data.split.fold={fold}"], {"test": {"rmse": k + fold, "f1": 0.0}})
        for k in (1, 3)
        for fold in (0, 1)
    ]
    table = sweep_table(runs)
    assert [column.header for column in table.columns] == ["options", "runs", "rmse"]
    assert [list(column.cells) for column in table.columns] == [
        ["model.k=1", "model.k=3"],
        ["2", "2"],
        [f"{(1 + 2) / 2:.4f}", f"{(3 + 4) / 2:.4f}"],
    ]


def test_a_metric_that_some_runs_lack_stays_empty():
    table = sweep_table([(["model=a"], {"test": {"rmse": 1.0}}), (["model=b"], {"test": {"ndcg@10[9 sampled]": 0.5}})])
    assert [list(column.cells) for column in table.columns][2:] == [["1.0000", ""], ["", "0.5000"]]
