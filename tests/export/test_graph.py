"""The three forms of every model on raw rows: equal to the model, at ease with whatever comes in."""

import copy
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from omegaconf import OmegaConf

from export import graph
from export.artifact import check_parity
from export.catalogue import Catalogue
from export.graph import open_graph, ranker_graph, write_graph
from export.measure import file_size
from export.multiply_out import MultipliedDeepFM
from export.quantize import quantize_dense
from export.rows import RawRows
from export.vocabularies import MISSING_INT
from recsys.data.batches import make_batch
from recsys.data.module import DataModule, DataSpec
from recsys.data.split import TEST
from recsys.schema import RESERVED, history_name

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
TARGETS = {path.stem: OmegaConf.load(path)["_target_"] for path in (CONFIGS / "model").glob("*.yaml")}
MODELS = sorted(name for name, target in TARGETS.items() if target.startswith("recsys.models."))
CASES = [(name, {}) for name in MODELS] + [("ncf", {"branch": "gmf"})]
CASES += [("deepfm", {"history": True})]
CASES += [(name, {"label": "rating"}) for name in ("mf", "deepfm")]  # which end in a clip in place of a sigmoid


@pytest.mark.parametrize(("name", "options"), CASES)
def test_raw_rows_and_requests_score_as_the_model(name, options, exported):
    made = exported(name, **options)
    assert check_parity(made.model, made.raw, made.paths) <= 1e-5
    assert set(made.paths) == {"recommender", "ranker", *(["retriever"] if made.model.separable else [])}
    for path in made.paths.values():
        graph = onnx.load(path)
        assert {"EmbeddingBag", "Loop", "If", "SequenceConstruct"}.isdisjoint(n.op_type for n in graph.graph.node)
        props = {p.key: p.value for p in graph.metadata_props}
        assert props["opset"] == "20"
        assert props["torch"] == torch.__version__
        assert "dynamo" in props["exporter"]
        schema = made.model.schema
        raw = {c.name for c in schema.columns} | {history_name(c.name) for c in schema.histories}
        raw |= {schema.time.column} if schema.time else set()
        assert {v.name for v in (*graph.graph.input, *graph.graph.output)} - raw <= set(RESERVED)


def test_graphs_say_nothing_of_the_machine_that_made_them(exported):
    """Bug: torch's exporter notes for every node the lines of the files behind it."""
    for path in exported("din").paths.values():
        content = path.read_bytes()
        assert str(CONFIGS.parent).encode() not in content
        assert b"stack_trace" not in content


def test_a_changed_model_is_not_exported(exported):
    made = exported("deepfm")
    changed = copy.deepcopy(made.model)
    with torch.no_grad():
        changed.bias += 1e-3
    with pytest.raises(ValueError, match="differ from the model"):
        check_parity(changed, made.raw, made.paths)


def test_other_tables_than_the_store_was_made_of_are_refused(tiny, tmp_path):
    data = DataModule(DataSpec.parse(tiny), cache=tmp_path)
    data.prepare_data()
    data.setup()
    path = Path(data.spec.tables.behaviour.path)
    path.write_text("\n".join(path.read_text().splitlines()[:-5]))
    with pytest.raises(ValueError, match="tables have changed"):
        RawRows.read(data)


def test_ten_thousand_nasty_rows(exported):
    """No error, finite scores, and an unseen id scores as any other unseen one."""
    made = exported("din")
    raw, session = made.raw, made.open("recommender")
    rng, rows = np.random.default_rng(0), 10_000
    test = np.flatnonzero(raw.store.part_E == TEST)
    feed = raw.feed(session, rng.choice(test, rows))
    unseen: dict[type, list[list]] = {
        object: [["never seen", "\u202eбез", "x" * 10_000, " p1", "P1"], [""]],
        np.int64: [[-1, 0, 2**63 - 1, MISSING_INT + 1, 99], [MISSING_INT]],
        np.float32: [[np.inf, -np.inf, np.nan, 3.4e38, -3.4e38, 1e-45], [np.nan]],
    }
    worse, canonical = {}, {}
    for name, values in feed.items():
        strange, _ = unseen[object if values.dtype == object else values.dtype.type]
        hit = rng.random(values.shape) < 0.3
        drawn = np.array(strange, dtype=values.dtype)[rng.integers(0, len(strange), values.shape)]
        worse[name] = np.where(hit, drawn, values).astype(values.dtype)
        same = worse[name] if values.dtype == np.float32 or name == "when" else np.where(hit, drawn.flat[0], values)
        canonical[name] = same.astype(values.dtype)
    score_B, again_B = (session.run(["score"], f)[0] for f in (worse, canonical))
    assert score_B.shape == (rows,)
    assert np.isfinite(score_B).all()
    np.testing.assert_allclose(score_B, again_B, atol=1e-6)


def test_an_unseen_id_scores_with_the_unseen_row(exported):
    made = exported("deepfm")
    raw, session = made.raw, made.open("recommender")
    row_B = np.flatnonzero(raw.store.part_E == TEST)[:20]
    feed = raw.feed(session, row_B)
    feed["shopper"] = np.array(["nobody"] * 20, dtype=object)
    store = raw.store
    batch = make_batch(store, store.user_E[row_B], store.item_E[row_B], row_B, np.zeros(20))
    place = [c.name for c in store.schema.fields].index("shopper")
    batch.ids_BF[:, place] = store.schema.offset("shopper")
    np.testing.assert_allclose(session.run(["score"], feed)[0], made.model.score(batch).detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("count", [1, 12, 40])
@pytest.mark.parametrize("k", [0, 1, 7, 1000])
def test_the_request_forms_order_is_the_scores(count, k, exported):
    made = exported("din")
    raw, session = made.raw, made.open("ranker")
    item_N = np.random.default_rng(k).integers(0, raw.store.items, count)
    feed = raw.request(session, int(np.flatnonzero(raw.store.part_E == TEST)[-1]), item_N, k)
    score_N, top_K = session.run(["score", "top"], feed)
    assert score_N.shape == (count,)
    assert top_K.tolist() == np.argsort(-score_N, kind="stable")[:k].tolist()


def test_a_request_ranks_items_that_the_catalogue_does_not_hold(exported):
    """They score as a row whose item is unseen and whose attributes are missing; so do unknown items of the past."""
    made = exported("din")
    raw, ranker, recommender = made.raw, made.open("ranker"), made.open("recommender")
    row = int(np.flatnonzero(raw.store.part_E == TEST)[-1])
    request = raw.request(ranker, row, np.zeros(2, dtype="int64"), 2)
    request["candidates"] = np.array([-5, MISSING_INT])
    past = raw.feed(recommender, np.array([row]))
    skus = (100, MISSING_INT, 77, 103)
    request["history.sku"] = np.array([skus])
    past["history.sku"] = request["history.sku"]
    items = raw.events.items.set_index("sku")
    shelf = [items["shelf"].get(sku, "") for sku in skus]
    past["history.shelf"] = np.array([shelf], dtype=object)
    labels = [[] if sku not in items.index or items["labels"].isna()[sku] else items["labels"][sku] for sku in skus]
    width = max(1, *map(len, labels))
    past["history.labels"] = np.array([[[*own, *[""] * (width - len(own))] for own in labels]], dtype=object)
    past |= {"sku": np.array([-5]), "shelf": np.array([""], dtype=object), "labels": np.array([[""]], dtype=object)}
    past["cost"] = np.array([np.nan], dtype="float32")
    (score_B,) = recommender.run(["score"], past)
    score_N, _ = ranker.run(None, request)
    np.testing.assert_allclose(score_N, score_B[[0, 0]], atol=1e-6)


def test_large_weights_lie_beside_the_graph(exported, tmp_path, monkeypatch):
    """Written again, and made smaller in place, they take the place of what lay there."""
    made = exported("ncf")
    path, outside = tmp_path / "recommender.onnx", tmp_path / "recommender.onnx.data"
    whole = onnx.load(made.paths["recommender"])
    feed = made.raw.feed(made.open("recommender"), np.arange(50))
    expected = made.open("recommender").run(["score"], feed)[0]
    monkeypatch.setattr(graph, "OUTSIDE", 2**14)
    for _ in range(2):
        write_graph(copy.deepcopy(whole), path)
        np.testing.assert_array_equal(open_graph(path).run(["score"], feed)[0], expected)
    assert path.stat().st_size < 0.5 * made.paths["recommender"].stat().st_size
    before = file_size(path)
    quantize_dense(path, path)
    assert file_size(path) < before
    np.testing.assert_allclose(open_graph(path).run(["score"], feed)[0], expected, atol=0.02)
    write_graph(onnx.helper.make_model(onnx.helper.make_graph([], "empty", [], [])), path)
    assert not outside.exists()


@pytest.mark.parametrize("half", [True, False])
def test_a_request_scores_the_same_whether_or_not_items_are_summed_in_advance(half, exported, monkeypatch):
    """Bug: a model whose items' sums are too many was multiplied out twice."""
    made, scores, multiplied = exported("deepfm"), {}, []
    prepare = MultipliedDeepFM.prepare
    monkeypatch.setattr(MultipliedDeepFM, "prepare", lambda model: (multiplied.append(model), prepare(model)))
    raw = made.raw
    catalogue = Catalogue.build(made.model.schema, raw.store.encoders, raw.events.items)
    for limit in (graph.READY, 0):
        monkeypatch.setattr(graph, "READY", limit)
        content = ranker_graph(made.model, raw.store.encoders, catalogue, half=half)
        assert ("catalogue/sums" in {tensor.name for tensor in content.graph.initializer}) == (limit > 0)
        session = onnxruntime.InferenceSession(content.SerializeToString())
        request = raw.request(session, int(np.flatnonzero(raw.store.part_E == TEST)[0]), np.arange(raw.store.items), 5)
        request["candidates"] = np.append(request["candidates"], [-5, MISSING_INT])
        scores[limit], _ = session.run(None, request)
    assert len(multiplied) == 2, "once for each limit"
    np.testing.assert_allclose(*scores.values(), atol=2e-3 if half else 1e-5)
    assert np.ptp(scores[0]) > 0.1


@pytest.mark.parametrize(
    ("name", "options"), [("mf", {}), ("ncf", {"branch": "gmf"}), ("mf", {"label": "rating"})], ids=str
)
def test_retrieval_is_the_whole_catalogue_ranked_without_the_seen(name, options, exported):
    made = exported(name, **options)
    model, raw, session, store = made.model, made.raw, made.open("retriever"), made.raw.store
    row, items = int(np.flatnonzero(store.part_E == TEST)[0]), np.arange(store.items)
    batch = make_batch(store, np.repeat(store.user_E[row], store.items), items, np.repeat(row, store.items), items)
    with torch.no_grad():
        logit_I, score_I = model(batch).numpy(), model.score(batch).numpy()
    for seen in ([], [3], [0, 5, 5, 11], list(range(store.items))):
        for k in (0, 1, 5, 100):
            feed = raw.request(session, row, np.array(seen, dtype="int64"), k)
            top_items, top_scores = session.run(["top_items", "top_scores"], feed)
            best = [i for i in np.argsort(-logit_I, kind="stable") if i not in seen][:k]
            assert top_items.tolist() == raw.events.items["sku"].iloc[best].tolist()
            np.testing.assert_allclose(top_scores, score_I[best], atol=1e-5)
    feed = raw.request(session, row, np.array([0]), 3) | {"seen_items": np.array([-77, MISSING_INT])}
    assert (
        session.run(["top_items"], feed)[0].tolist() == raw.events.items["sku"].iloc[np.argsort(-logit_I)[:3]].tolist()
    )


def test_inputs_that_the_model_does_not_read_are_left_out(exported):
    assert [i.name for i in exported("mf").open("recommender").get_inputs()] == ["shopper", "sku"]
