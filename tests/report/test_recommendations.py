"""The recommendations of evaluation.json against a plain loop over all items."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from recsys.data.batches import make_batch
from recsys.data.module import DataModule, DataSpec
from recsys.data.store import Store
from recsys.models.mf import MF
from recsys.report import evaluation_summary
from recsys.report.recommendations import _spread, recommendations

ITEMS, USERS = 14, 6


@pytest.fixture
def visits() -> pd.DataFrame:
    """User n has n training visits, one validation visit and two test visits, the first of them a liked one."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(USERS):
        for when, item in enumerate(rng.permutation(ITEMS)[: user + 3].tolist()):
            split = ["train"] * user + ["valid", "test", "test"]
            bought = when % 2 if when <= user else int(when == user + 1)
            rows.append({"user": user, "item": item, "when": when, "split": split[when], "bought": bought})
    return pd.DataFrame(rows)


@pytest.fixture
def store_of(visits, tmp_path) -> Callable[..., Store]:
    """The store of the visits, with changes to the declaration; item n is called "Good n"."""
    visits.to_csv(tmp_path / "visits.csv", index=False)
    items = pd.DataFrame({"item": range(ITEMS), "name": [f"Good {n}" for n in range(ITEMS)]})
    items.to_csv(tmp_path / "items.csv", index=False)
    declared = {
        "name": "visits",
        "tables": {
            "behaviour": {"path": str(tmp_path / "visits.csv")},
            "items": {"path": str(tmp_path / "items.csv"), "key": "item"},
        },
        "user": "user",
        "item": "item",
        "title": "name",
        "time": {"column": "when"},
        "label": {"kind": "binary", "column": "bought"},
        "columns": {"user": {"role": "user", "kind": "category"}, "item": {"role": "item", "kind": "category"}},
        "history": {"columns": ["item"]},
        "split": {"by": "column"},
    }

    def make(**changes: Any) -> Store:
        data = DataModule(DataSpec.parse(declared | changes), cache=tmp_path / "cache")
        data.prepare_data()
        data.setup()
        return data.store

    return make


def titles(items: Iterable[int]) -> list[str]:
    return [f"Good {n}" for n in items]


LABELS = {
    "binary": {"kind": "binary", "column": "bought"},
    "implicit": {"kind": "implicit"},
    "rating": {"kind": "rating", "column": "bought", "positive_from": 1},
}


@pytest.mark.parametrize("history", [{"columns": ["item"]}, None])
@pytest.mark.parametrize("label", LABELS)
def test_recommendations_by_loop(store_of, visits, label, history):
    store = store_of(label=LABELS[label], history=history)
    model = MF(store.schema).eval()
    found = recommendations(model, store)
    assert [user["events"] for user in found] == [0, 1, 2, 4, 5]  # of as many users, 0 to 5
    for user in found:
        mine = visits[visits["user"] == user["events"]]
        liked = mine if label == "implicit" else mine[mine["bought"] == 1]
        past = liked[liked["split"] != "test"] if history else liked[liked["split"] == "train"]
        assert user["history"] == titles(past["item"][::-1])
        seen = mine.loc[mine["split"] != "test", "item"].tolist()
        row = mine.index[mine["split"] == "test"][0]
        at = np.arange(ITEMS)
        batch = make_batch(store, np.full(ITEMS, user["events"]), at, np.full(ITEMS, row), np.zeros(ITEMS))
        with torch.inference_mode():
            score_I = model.score(batch)
        best = [n for n in score_I.argsort(descending=True, stable=True).tolist() if n not in seen][:10]
        assert [item["title"] for item in user["items"]] == titles(best)
        assert [item["score"] for item in user["items"]] == pytest.approx(score_I[best].tolist())
        wanted = liked.loc[liked["split"] == "test", "item"].tolist()
        assert [item["liked"] for item in user["items"]] == [n in wanted for n in best]


def test_ratings_without_a_threshold_recommend_nothing(store_of):
    store = store_of(label={"kind": "rating", "column": "bought"})
    assert recommendations(MF(store.schema).eval(), store) == []


@pytest.mark.parametrize(
    ("events", "picked"),
    [
        ([], []),
        ([3, 1, 2], [1, 2, 3]),
        ([0] * 9, [0] * 5),
        ([0, 0, 0, 0, 0, 0, 4, 7], [0, 0, 0, 4, 7]),
        (list(range(0, 90, 10)) + [0] * 50, [0, 20, 40, 60, 80]),
    ],
)
def test_picked_users_are_spread_over_activity(events, picked):
    events_Q = np.array(events, dtype="int64")
    found = _spread(events_Q)
    assert events_Q[found].tolist() == picked
    assert len({*found.tolist()}) == len(found)


def test_evaluation_summary_counts_training_events(store_of, visits):
    store = store_of()
    label_B = torch.tensor(visits.loc[visits["split"] == "test", "bought"].to_numpy())
    model = MF(store.schema).eval()
    found = evaluation_summary(model, store, (torch.full((len(label_B),), 0.5), label_B))
    assert found["size"] == {"users": USERS, "items": ITEMS, "train": 0 + 1 + 2 + 3 + 4 + 5, "valid": 6, "test": 2 * 6}
    assert [(row["events"], row["rows"]) for row in found["by_user_activity"]] == [(str(n), 2) for n in range(USERS)]
    assert [row["auc"] for row in found["by_user_activity"]] == [0.5] * USERS
    assert len(found["recommendations"]) == 5
    assert "roc" not in evaluation_summary(model, store, None)
