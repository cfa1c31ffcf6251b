"""Compression: settings refused by name, the choice among variants by hand-made figures, and real trials."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from export import compress
from export.compress import Compression, Trials, Variant, calibration, choose
from export.graph import open_graph
from export.measure import BATCHES
from export.quantize import dense_nodes
from export.rows import RawRows
from recsys.data.split import TRAIN, VALID
from recsys.declare import declare
from recsys.models.base import Recommender


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": -1}, "`compress.budget` must be a loss of the metric, at least 0, got -1"),
        ({"budget": float("nan")}, "`compress.budget` must be a loss of the metric, at least 0, got nan"),
        ({"target": "speed"}, "`compress.target`.*latency"),
        ({"keep": [1.0, 0.0]}, r"`compress.keep` must be shares of the hidden units in \(0, 1\], got \(1.0, 0.0\)"),
        ({"keep": [1.5]}, "`compress.keep` must be shares"),
        ({"keep": 0.5}, "`compress.keep`"),
        ({"dims": [2]}, r"`compress.dims` must be shares of the embedding dimensions in \(0, 1\], got \(2.0,\)"),
        ({"min_count": [0]}, r"`compress.min_count` must be counts of at least 1, got \(0,\)"),
        ({"epochs": -1}, "`compress.epochs` must be at least 0, got -1"),
        ({"rows": 0}, "`compress.rows` must be at least 1, got 0"),
        ({"tables": ["int4"]}, "`compress.tables.*int4.*int8"),
        ({"dense": ["float16"]}, "`compress.dense.*float16.*float32"),
        ({"dense": "int8"}, "`compress.dense`"),
        ({"bugdet": 1}, "`compress` has no option 'bugdet': did you mean 'budget'"),
    ],
)
def test_impossible_settings_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        declare(Compression, options, "compress")


def variant(number: int, loss: float, latency: float, size: float) -> Variant:
    """A variant of which only these figures matter."""
    figures = {"p50_ms@256": latency, "size_mb": size}
    nothing: Any = None
    return Variant(
        min_count=number, model=nothing, encoders=nothing, path=Path(), figures=figures, metrics={}, loss=(loss, 0, 0)
    )


FLOAT = variant(1, 0.0, 10.0, 100.0)
SMALL = variant(2, 0.0009, 9.9, 25.0)
QUICK = variant(3, 0.001, 5.0, 90.0)
QUICKER = variant(4, 0.0011, 2.0, 10.0)
BETTER = variant(5, -0.01, 6.0, 80.0)


@pytest.mark.parametrize(
    ("target", "budget", "tried", "expected"),
    [
        ("latency", 0.001, [SMALL, QUICK, QUICKER, BETTER], QUICK),
        ("size", 0.001, [SMALL, QUICK, QUICKER, BETTER], SMALL),
        ("latency", 0.01, [SMALL, QUICK, QUICKER, BETTER], QUICKER),
        ("latency", 0.0, [SMALL, QUICK, BETTER], BETTER),
        ("latency", 0.001, [SMALL, QUICKER], None),  # one is not clearly quicker, the other loses too much
        ("latency", 0.0, [SMALL, QUICK, QUICKER], None),
        ("size", 0.001, [variant(6, 0.0, 1.0, 95.1)], None),
        ("size", 0.001, [variant(6, 0.0, 11.0, 95.0)], variant(6, 0.0, 11.0, 95.0)),
        ("latency", 1.0, [variant(6, float("nan"), 1.0, 1.0)], None),
        ("latency", 1.0, [], None),
    ],
)
def test_the_best_inside_the_budget_is_chosen_if_it_is_worth_it(target, budget, tried, expected):
    assert choose([FLOAT, *tried], Compression(target=target, budget=budget)) == expected


def test_a_variant_is_named_by_what_differs():
    assert FLOAT.name == "float32"
    changed = dataclasses.replace(FLOAT, keep=0.5, min_count=3, tables="int8", dense="int8")
    assert changed.name == "width x0.5, counts from 3, int8 tables, int8 layers"
    assert changed.served.int8_layers
    assert changed.row() == {
        "variant": changed.name,
        "p50_ms@256": 10.0,
        "size_mb": 100.0,
        "loss": 0.0,
        "interval": [0, 0],
    }


Try = Callable[..., tuple[list[Variant], list[Recommender]]]


@pytest.fixture
def attempt(raw_rows, datasets, tmp_path, monkeypatch, build) -> Try:
    """Try the combinations for a model of the tiny shop, measured by a stub; returns them and what was taught."""

    def measured(path: Path, feed: dict[str, np.ndarray]) -> dict[str, float]:
        assert {len(values) for values in feed.values()} == {BATCHES[-1]}
        return {"p50_ms@256": 1.0, "size_mb": path.stat().st_size / 2**20}

    monkeypatch.setattr(compress, "measure", measured)

    def make(name: str, kind: str, options: dict[str, Any] | None = None, **settings: Any) -> Any:
        tuned: list[Recommender] = []

        def taught(model: Recommender, _: Recommender) -> Recommender:
            tuned.append(model)
            return model

        trials = Trials(settings=Compression(**settings), raw=raw_rows(kind), folder=tmp_path, distill=taught)
        return list(trials.run(build(datasets(kind), name, **(options or {})))), tuned

    return make


def test_every_combination_is_tried_the_trained_model_first(attempt, raw_rows):
    found, tuned = attempt(
        "deepfm", "binary", {"hidden": (32, 16)}, keep=(0.5,), tables=("int8",), dense=("float32",), rows=10**6
    )
    assert [v.name for v in found] == ["float32", "int8 tables", "width x0.5", "width x0.5, int8 tables"]
    assert [list(model.hparams["hidden"]) for model in tuned] == [[16, 8]]
    assert found[0].loss == (0, 0, 0)
    sizes = {v.name: v.figures["size_mb"] for v in found}
    assert sizes["width x0.5"] < sizes["float32"]
    assert sizes["width x0.5, int8 tables"] < sizes["int8 tables"]
    store = raw_rows("binary").store
    rows = np.flatnonzero(store.part_E == VALID)
    scores = []
    for v in found:
        session = open_graph(v.path)
        scores.append(session.run(["score"], raw_rows("binary").feed(session, rows))[0])
        assert v.metrics["auc"] == pytest.approx(roc_auc_score(store.label_E[rows], scores[-1]))
        assert v.loss[0] == pytest.approx(found[0].metrics["auc"] - v.metrics["auc"])
    assert len({v.path for v in found}) == 4
    assert 0 < np.abs(scores[1] - scores[0]).max() < 0.05


def test_shorter_vectors_are_taught_with_and_without_fewer_units(attempt):
    settings: dict[str, Any] = {"keep": (1.0, 0.5), "dims": (0.5,), "tables": ("float32",), "dense": ("float32",)}
    found, tuned = attempt("deepfm", "binary", {"hidden": (32, 16), "embedding_dim": 16}, **settings)
    assert [v.name for v in found] == ["float32", "dims x0.5", "width x0.5, dims x0.5"]
    assert [(m.hparams["embedding_dim"], list(m.hparams["hidden"])) for m in tuned] == [(8, [32, 16]), (8, [16, 8])]
    sizes = [v.figures["size_mb"] for v in found]
    assert sizes == sorted(sizes, reverse=True)
    assert len({v.path for v in found}) == 3


@pytest.mark.parametrize("kind", ["implicit", "rating"])
def test_models_without_hidden_layers_are_tried_by_their_tables_alone(attempt, kind):
    """Bug: `keep` below 1, which the default asks for, ended the command for MF."""
    settings = {"keep": (1.0, 0.5), "dims": (0.5,), "min_count": (1, 3), "tables": ("float32",), "rows": 500}
    found, tuned = attempt("mf", kind, **settings)
    assert [v.name for v in found] == ["float32", "counts from 3"]
    assert tuned == []
    metric = "rmse" if kind == "rating" else "ndcg@10[99 sampled]"
    assert all(next(iter(v.metrics)) == metric for v in found)
    sign = 1 if kind == "rating" else -1
    assert found[1].loss[0] == pytest.approx(sign * (found[1].metrics[metric] - found[0].metrics[metric]))
    assert found[1].encoders.sizes()["shopper"] <= found[0].encoders.sizes()["shopper"]


def test_int8_layers_are_a_variant_only_where_a_layer_became_int8(attempt, monkeypatch):
    settings: dict[str, Any] = {"keep": (1.0,), "tables": ("float32",), "dense": ("int8",)}
    monkeypatch.setattr("export.artifact.float_where_better", lambda path, _: list(dense_nodes(path)))
    assert [v.name for v in attempt("ncf", "binary", {"hidden": (16,)}, **settings)[0]] == ["float32"]
    monkeypatch.setattr("export.artifact.float_where_better", lambda *_: [])
    found, _ = attempt("ncf", "binary", {"hidden": (16,)}, **settings)
    assert [v.name for v in found] == ["float32", "int8 layers"]
    assert found[1].path.stat().st_size < found[0].path.stat().st_size


def test_calibration_rows_are_training_rows_and_the_same_every_time(raw_rows, monkeypatch):
    raw: RawRows = raw_rows("binary")
    train = int((raw.store.part_E == TRAIN).sum())
    first, again = calibration(raw), calibration(raw)
    assert sum(map(len, first)) == train
    assert all(torch.equal(a.ids_BF, b.ids_BF) for a, b in zip(first, again, strict=True))
    total = sum(float(batch.label_B.sum()) for batch in first)
    assert total == raw.store.label_E[raw.store.part_E == TRAIN].sum()
    monkeypatch.setattr(compress, "CALIBRATION_ROWS", 50)
    monkeypatch.setattr(compress, "BLOCK", 32)
    assert [len(batch) for batch in calibration(raw)] == [32, 18]
