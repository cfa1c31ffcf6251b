"""A run's folder written by hand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

METRICS = {
    "valid": {"auc": 0.7125, "logloss": 0.5},
    "test": {"auc": 0.7034, "logloss": 0.512, "ndcg@10": 0.0815},
    "best_possible": {"auc": 0.8042},
    "intervals": {"test": {"auc": [0.6911, 0.7157], "logloss": None}},
    "groups": {
        "users": {"cold": {"users": 1234, "rows": 4321, "auc": 0.6543}, "hot": {"users": 5, "rows": 6, "auc": None}},
        "items": None,
    },
    "seed": 17,
    "epochs": 3,
    "interrupted": None,
    "monitor": "valid/auc",
    "data": {"name": "bookshop", "fingerprint": "abc"},
    "cleaning": {
        "rows": {"behaviour": {"read": 12345, "kept": 12300}},
        "entries": [
            {"table": "behaviour", "column": "mark", "rule": "label outside [1, 5]", "rows": 45, "action": "dropped"}
        ],
    },
}
EVALUATION = {
    "size": {"users": 40, "items": 30, "train": 10000, "valid": 1100, "test": 1200},
    "roc": {"false_positive_rate": [0, 0.5, 1], "true_positive_rate": [0, 0.8, 1]},
    "calibration": [
        {"predicted": 0.2, "observed": 0.25, "rows": 600},
        {"predicted": 0.6, "observed": 0.5, "rows": 600},
    ],
    "histogram": {"edges": [0, 0.5, 1], "negative": [10, 3], "positive": [0, 0]},
    "by_user_activity": [
        {"events": "0", "rows": 100, "auc": None, "logloss": 0.6},
        {"events": "1-4", "rows": 1100, "auc": 0.7, "logloss": 0.5},
    ],
    "by_item_popularity": [{"events": "2-9", "rows": 1200, "auc": None, "logloss": 0.5}],
    "recommendations": [
        {"events": 0, "history": [], "items": [{"title": "Das Schloss", "score": 0.75, "liked": False}]},
        {"events": 1, "history": ["红楼梦"], "items": [{"title": "Solaris", "score": 0.5, "liked": True}]},
    ],
}
LOG = "epoch,step,train/loss,valid/auc\n0,9,,0.6\n0,9,0.7,\n1,19,,0.7\n1,19,0.6,\n2,20,,0.7\n"
CONFIG = "seed: 17\nmodel:\n  _target_: recsys.models.din.DIN\n  hidden:\n  - 8\ndata:\n  name: bookshop\n"


@pytest.fixture
def run_folder(tmp_path: Path) -> Callable[..., Path]:
    """Write a run's folder; a file given as None is left out."""

    def make(
        name: str = "run",
        metrics: dict[str, Any] | None = METRICS,
        evaluation: dict[str, Any] | None = EVALUATION,
        log: str | None = LOG,
        config: str | None = CONFIG,
    ) -> Path:
        folder = tmp_path / name
        (folder / "log").mkdir(parents=True)
        files = {
            "metrics.json": metrics and json.dumps(metrics),
            "evaluation.json": evaluation and json.dumps(evaluation),
            "log/metrics.csv": log,
            "config.yaml": config,
        }
        for path, text in files.items():
            if text is not None:
                (folder / path).write_text(text, encoding="utf-8")
        return folder

    return make
