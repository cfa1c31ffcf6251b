"""A small shop with other column names than any built-in dataset."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest


@pytest.fixture
def tiny(tmp_path: Path) -> dict[str, Any]:
    """30 shoppers, 12 goods, 600 visits with a random verdict; returns the data configuration as a mapping."""
    rng = np.random.default_rng(0)
    pd.DataFrame(
        {
            "shopper": [f"p{n}" for n in rng.integers(0, 30, 600)],
            "sku": rng.integers(100, 112, 600),
            "when": np.sort(rng.integers(0, 500, 600)),
            "bought": rng.integers(0, 2, 600),
            "device": rng.choice(["phone", "desk"], 600),
        }
    ).drop_duplicates(["shopper", "sku", "when"]).to_csv(tmp_path / "visits.csv", index=False)
    pd.DataFrame(
        {
            "sku": range(100, 112),
            "shelf": rng.choice(["a", "b", "c"], 12),
            "cost": rng.random(12).round(3),
            "labels": rng.choice(["x", "x|y", "z|y|x", ""], 12),
        }
    ).to_csv(tmp_path / "goods.csv", index=False)
    pd.DataFrame({"shopper": [f"p{n}" for n in range(30)], "years": rng.integers(18, 80, 30)}).to_csv(
        tmp_path / "people.csv", index=False
    )
    return {
        "name": "tiny",
        "tables": {
            "behaviour": {"path": str(tmp_path / "visits.csv")},
            "items": {"path": str(tmp_path / "goods.csv"), "key": "sku"},
            "users": {"path": str(tmp_path / "people.csv"), "key": "shopper"},
        },
        "user": "shopper",
        "item": "sku",
        "time": {"column": "when"},
        "label": {"kind": "binary", "column": "bought"},
        "columns": {
            "shopper": {"role": "user", "kind": "category"},
            "years": {"role": "user", "kind": "number", "buckets": 4},
            "sku": {"role": "item", "kind": "category"},
            "shelf": {"role": "item", "kind": "category"},
            "cost": {"role": "item", "kind": "number"},
            "labels": {"role": "item", "kind": "tags", "length": 2},
            "device": {"role": "scene", "kind": "category"},
        },
        "history": {"columns": ["sku", "shelf", "labels"], "length": 4},
        "split": {"by": "time", "valid": 0.2, "test": 0.2},
    }
