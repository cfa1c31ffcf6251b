"""Every classical model as graphs: equal to the model for all users and items, warm, cold, unseen and missing."""

import dataclasses
import functools
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import pytest
from hydra.utils import get_class
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from export import classical, places
from export.artifact import Served, check_parity, model_scores, tolerance_of, write_artifact, write_graphs
from export.places import in_float32
from export.rows import RawRows
from export.runtime import Bundle
from export.vocabularies import MISSING_INT
from recsys.classical.base import Classical
from recsys.data.module import DataModule, DataSpec

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
CLASSES = {path.stem: get_class(OmegaConf.load(path)["_target_"]) for path in (CONFIGS / "model").glob("*.yaml")}
MODELS = sorted(name for name, found in CLASSES.items() if issubclass(found, Classical))
FEEDBACK = {"binary": {"ratings", "implicit"}, "implicit": {"implicit"}, "rating": {"ratings"}}
CASES = [(n, kind, {}) for n in MODELS for kind in FEEDBACK if FEEDBACK[kind] & {*CLASSES[n].feedback}]
CASES += [
    ("item_knn", "rating", {"table": 4, "k": 2}),
    ("user_knn", "rating", {"table": 6, "k": 3, "deviations": "zero", "min_k": 2}),
    ("item_knn", "rating", {"k": 3, "deviations": "zscore", "similarity": "msd"}),
    ("user_knn", "rating", {"k": 3, "deviations": "mean", "over": "common"}),
    ("item_knn", "implicit", {"k": 2}),
    ("truncated_svd", "rating", {"centre": "user"}),
]


@pytest.fixture(scope="module")
def shops(tiny_in, tmp_path_factory):
    """The tiny shop whose test part brings two users and two items that training rows do not hold, by kind of label.

    The catalogue holds one more item, which nobody met.
    """
    labels = {
        "binary": {"kind": "binary", "column": "bought"},
        "rating": {"kind": "rating", "column": "stars", "range": [1, 5]},
        "implicit": {"kind": "implicit"},
        "points": {"kind": "rating", "column": "points", "range": [200, 1000]},
    }

    @functools.cache
    def make(kind: str) -> DataModule:
        folder = tmp_path_factory.mktemp(kind)
        spec = tiny_in(folder) | {"label": labels[kind]}
        visits, goods = pd.read_csv(folder / "visits.csv"), pd.read_csv(folder / "goods.csv")
        late = {"shopper": ["q1", "q2", "p1", "q1"], "sku": [100, 900, -7, -7], "when": 501}
        visits = pd.concat([visits, pd.DataFrame({**late, "bought": [0, 1, 1, 0], "device": "desk"})])
        visits["stars"] = np.random.default_rng(0).integers(1, 6, len(visits))
        visits["points"] = 200 * visits["stars"]
        visits.to_csv(folder / "visits.csv", index=False)
        with (folder / "people.csv").open("a") as people:
            people.write("q1,20\nq2,30\n")
        pd.concat([goods, pd.DataFrame({"sku": [900, -7, 55]})]).to_csv(folder / "goods.csv", index=False)
        data = DataModule(DataSpec.parse(spec), cache=folder)
        data.prepare_data()
        data.setup()
        return data

    return make


@pytest.fixture(scope="module")
def made(shops, exported_of, tmp_path_factory):
    """A model of a kind of shop with its graphs."""

    @functools.cache
    def make(name: str, kind: str, options: tuple):
        return exported_of(shops(kind), RawRows.read(shops(kind)), tmp_path_factory.mktemp(name), name, dict(options))

    return lambda name, kind, options=None: make(name, kind, tuple((options or {}).items()))


@pytest.mark.parametrize(("name", "kind", "options"), CASES, ids=str)
def test_all_pairs_score_as_the_model_and_all_items_rank_as_it_says(made, name, kind, options):
    of = made(name, kind, options)
    raw, store = of.raw, of.raw.store
    assert check_parity(of.model, raw, of.paths) <= 1e-5
    counts = of.model.model.learned["count_U"], of.model.model.learned["count_I"]
    assert [int((count == 0).sum()) for count in counts] == [2, 3], "there must be someone and something cold"
    users = raw.events.users["shopper"].to_numpy(object)
    skus = raw.events.items["sku"].to_numpy("int64")
    user_B, item_B = (side.ravel() for side in np.indices((store.users, store.items)))
    score_B = of.open("recommender").run(["score"], {"shopper": users[user_B], "sku": skus[item_B]})[0]
    row_U = np.array([np.flatnonzero(store.user_E == user)[0] for user in range(store.users)])
    expected_B = model_scores(of.model, raw, row_U[user_B], item_B)
    np.testing.assert_allclose(score_B, expected_B, atol=1e-5)
    assert np.ptp(expected_B) > 0.01, "a constant would hide mistakes"
    score_UI, rank_UI = expected_B.reshape(store.users, -1), of.model.model.score_items(np.arange(store.users))
    ranker, retriever = of.open("ranker"), of.open("retriever")
    for user in (0, int(np.flatnonzero(counts[0] == 0)[0])):
        request = {"shopper": users[[user]], "k": np.array([4])}
        score_N, top_K = ranker.run(None, request | {"candidates": skus[::-1]})
        np.testing.assert_allclose(score_N, score_UI[user, ::-1], atol=1e-5)
        np.testing.assert_allclose(rank_UI[user, ::-1][top_K], np.sort(rank_UI[user])[::-1][:4], atol=1e-6)
        seen = np.argsort(-rank_UI[user], kind="stable")[[0, 2, 2]]
        top_items, top_scores = retriever.run(None, request | {"seen_items": skus[seen]})
        place_K = np.array([np.flatnonzero(skus == key)[0] for key in top_items])
        left_I = np.delete(rank_UI[user], np.unique(seen))
        np.testing.assert_allclose(rank_UI[user][place_K], np.sort(left_I)[::-1][:4], atol=1e-6)
        np.testing.assert_allclose(top_scores, score_UI[user][place_K], atol=1e-5)
        assert not {*skus[seen]} & {*top_items}


@pytest.mark.parametrize("name", MODELS)
def test_graphs_hold_no_control_flow_and_take_two_keys(made, name):
    of = made(name, "binary")
    assert list(of.paths) == ["recommender", "ranker", "retriever"]
    assert [i.name for i in of.open("recommender").get_inputs()] == ["shopper", "sku"]
    for path in of.paths.values():
        graph = onnx.load(path)
        assert {"EmbeddingBag", "Loop", "If", "SequenceConstruct"}.isdisjoint(n.op_type for n in graph.graph.node)
        props = {p.key: p.value for p in graph.metadata_props}
        assert (props["model"], props["exporter"].split()[0]) == (CLASSES[name].__name__, "spox")


@pytest.mark.parametrize("name", ["item_knn", "svd", "nmf"])
def test_whatever_keys_come_in_are_answered_as_the_model_answers_the_cold(made, name):
    of = made(name, "rating")
    raw, score = of.raw, of.model.model.score
    user_of = {key: n for n, key in enumerate(raw.events.users["shopper"])}
    item_of = {int(key): n for n, key in enumerate(raw.events.items["sku"])}
    sessions = {graph: of.open(graph) for graph in of.paths}
    texts = st.one_of(st.sampled_from([*user_of]), st.text(), st.sampled_from(["", " p1", "P1", "x" * 10_000]))
    keys = st.sampled_from([*item_of, 99, 0, -1, MISSING_INT, MISSING_INT + 1, 2**63 - 1])
    whole = st.one_of(keys, st.integers(-(2**63), 2**63 - 1))

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.tuples(texts, whole), min_size=1, max_size=8), st.integers(0, 20))
    def check(rows: list[tuple[str, int]], k: int) -> None:
        users, skus = np.array([u for u, _ in rows], dtype=object), np.array([s for _, s in rows])
        user_B = np.array([user_of.get(u.encode(errors="replace").decode(), -1) for u in users])
        item_B = np.array([item_of.get(int(s), -1) for s in skus])
        found = sessions["recommender"].run(["score"], {"shopper": users, "sku": skus})[0]
        np.testing.assert_allclose(found, score(user_B, item_B), atol=1e-5)
        request = {"shopper": users[:1], "k": np.array([k])}
        score_N, top_K = sessions["ranker"].run(None, request | {"candidates": skus})
        np.testing.assert_allclose(score_N, score(np.repeat(user_B[:1], len(rows)), item_B), atol=1e-5)
        assert len(top_K) == min(k, len(rows))
        items, _ = sessions["retriever"].run(None, request | {"seen_items": skus})
        assert len(items) == min(k, len(item_of) - len({*skus} & {*item_of}))

    check()


def test_scores_of_many_digits_may_differ_in_the_last_of_float32(made, tmp_path):
    of, rating = made("item_knn", "points"), made("item_knn", "rating")
    served = Served(model=of.model, encoders=of.raw.store.encoders)
    content = write_artifact(served, of.raw, tmp_path / "bundle", manifest={"name": "points"})
    assert 1e-5 < content["parity"] < content["tolerance"] <= 1e-3
    assert Bundle.load(tmp_path / "bundle").manifest["tolerance"] == content["tolerance"]
    assert tolerance_of(rating.raw, rating.open("recommender")) == 1e-5


def test_a_catalogue_too_large_to_score_at_once_has_no_retriever(made, monkeypatch, tmp_path):
    of = made("user_knn", "rating")
    monkeypatch.setattr(classical, "LARGEST", 100)
    served = Served(model=of.model, encoders=of.raw.store.encoders)
    assert list(write_graphs(served, of.raw, tmp_path)) == ["recommender", "ranker"]


def test_ten_thousand_rows_at_once(made):
    of = made("user_knn", "rating")
    users, skus = (
        np.array([*of.raw.events.users["shopper"], "", "nobody"], object),
        np.array([100, 900, 5, MISSING_INT]),
    )
    rng = np.random.default_rng(0)
    feed = {"shopper": rng.choice(users, 10_000), "sku": rng.choice(skus, 10_000)}
    assert np.isfinite(of.open("recommender").run(["score"], feed)[0]).all()


def test_similarities_of_too_many_and_models_without_a_graph_are_refused_with_a_way_out(
    made, shops, monkeypatch, tmp_path
):
    class Strange(Classical):
        _fit, _score = Classical.fit, Classical.score

    of = made("item_knn", "rating")
    served = Served(model=of.model, encoders=of.raw.store.encoders)
    monkeypatch.setattr(places, "LARGEST", 3)
    with pytest.raises(ValueError, match=r"up to 3 items to each other, got 15; give model.table=100"):
        write_graphs(served, of.raw, tmp_path)
    strange = dataclasses.replace(of.model, model=Strange.restore({}, of.model.model.learned))
    with pytest.raises(ValueError, match=r"Strange has no graph: give it `vectors`, or .* export=false"):
        write_graphs(dataclasses.replace(served, model=strange), of.raw, tmp_path)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.lists(st.integers(0, 5), max_size=30))
def test_float32_keeps_every_difference(values, steps):
    """Also those of a few units in the last place of float64."""
    close = [1 / 3 + step * 2**-54 for step in steps]
    row = np.array([[*values, *close, 0.0, 1.0]])
    rounded = in_float32(row)
    assert rounded.dtype == np.float32
    np.testing.assert_array_equal(np.sign(rounded[0][:, None] - rounded[0]), np.sign(row[0][:, None] - row[0]))
    np.testing.assert_allclose(rounded, row, rtol=1e-5, atol=1e-40)
