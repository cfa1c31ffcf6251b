"""The catalogue inside a graph: every item's columns under its key, and what an unknown item shows."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pytest

from export.builder import GraphBuilder
from export.catalogue import MISSING, UNKNOWN, Catalogue
from export.rows import RawRows
from export.vocabularies import MISSING_INT
from recsys.data.module import DataModule, DataSpec


@pytest.fixture(params=["integers", "texts"])
def raw(request: pytest.FixtureRequest, tiny: dict[str, Any], tmp_path: Path) -> RawRows:
    """The tiny shop with and without digits for keys; a shelf that is not known is `c`, a cost 0.25."""
    if request.param == "texts":
        for name in ("visits", "goods"):
            table = pd.read_csv(tmp_path / f"{name}.csv")
            table.assign(sku="ü" + table["sku"].astype(str)).to_csv(tmp_path / f"{name}.csv", index=False)
    tiny["columns"]["shelf"]["fill"] = "c"
    tiny["columns"]["cost"]["fill"] = 0.25
    data = DataModule(DataSpec.parse(tiny), cache=tmp_path / "cache")
    data.prepare_data()
    data.setup()
    return RawRows.read(data)


@pytest.fixture
def catalogue(raw: RawRows) -> Catalogue:
    return Catalogue.build(raw.store.schema, raw.store.encoders, raw.events.items)


def test_items_stand_in_the_stores_order_behind_an_unknown_one(catalogue, raw):
    schema, side, stored = raw.store.schema, catalogue.side, raw.store.sides["item"]
    assert catalogue.keys.tolist() == raw.events.items["sku"].tolist()
    np.testing.assert_array_equal(side.ids[1:], stored.ids)
    np.testing.assert_array_equal(side.numbers[1:], stored.numbers)
    np.testing.assert_array_equal(side.tags["labels"][1:], stored.tags["labels"])
    shelf = raw.store.encoders.columns["shelf"].encode(pd.Series(["c"], dtype="str"))[0]
    assert side.ids[0].tolist() == [schema.offset("sku"), schema.offset("shelf") + shelf]
    cost = raw.store.encoders.columns["cost"]
    assert side.numbers[0, 0] == pytest.approx((0.25 - cost.mean) / cost.scale, abs=1e-6)
    assert not side.tags["labels"][0].any()


def test_a_batch_of_items_holds_them_in_order(catalogue):
    batch = catalogue.batch(slice(1, 5))
    np.testing.assert_array_equal(batch.ids_BF, catalogue.side.ids[1:5])
    np.testing.assert_array_equal(batch.numbers_BN, catalogue.side.numbers[1:5])
    np.testing.assert_array_equal(batch.lists["labels"], catalogue.side.tags["labels"][1:5])


def test_keys_find_their_places_and_columns_inside_a_graph(catalogue):
    graph, keys = GraphBuilder(), catalogue.keys
    places = catalogue.places(graph.input("keys", keys.dtype.type, ("n",)))
    known = catalogue.places(graph.input("known", keys.dtype.type, ("m",)))
    columns = {"ids": catalogue.ids(graph, known), "numbers": catalogue.numbers(graph, known)}
    model = graph.build({"places": places, **columns, "labels": catalogue.tags(graph, "labels", known)})
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    nothing, stranger = (MISSING_INT, 99) if keys.dtype == np.int64 else ("", "stranger")
    kind = np.int64 if keys.dtype == np.int64 else object
    asked = np.array([keys[7], nothing, stranger, keys[0], keys[7]], dtype=kind)
    feed = {"keys": asked, "known": np.array(keys[::-1], dtype=kind)}
    found = dict(zip([o.name for o in session.get_outputs()], session.run(None, feed), strict=True))
    assert found["places"].tolist() == [8, MISSING, UNKNOWN, 1, 8]
    np.testing.assert_array_equal(found["ids"], catalogue.side.ids[:0:-1])
    np.testing.assert_array_equal(found["numbers"], catalogue.side.numbers[:0:-1])
    np.testing.assert_array_equal(found["labels"], catalogue.side.tags["labels"][:0:-1])
    assert found["ids"].dtype == found["labels"].dtype == np.int64
