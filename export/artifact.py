"""From a trained model to what is served: its graphs, checked against the model, and the bundle around them."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import torch

from export.bundle import write_bundle
from export.catalogue import Catalogue
from export.core import request_core, row_core, user_core
from export.graph import open_graph, ranker_graph, recommender_graph, retriever_graph, save_graph
from export.quality import Judge
from export.rows import RawRows
from recsys.data.batches import make_batch
from recsys.data.encoders import Encoders
from recsys.data.split import TEST
from recsys.files import whole_file
from recsys.models.base import Recommender

TOLERANCE = 1e-5
CHECKED_ROWS, CHECKED_REQUESTS, CANDIDATES = 2000, 20, 100
JUDGED_ROWS = 10_000
Rewrite = Callable[[onnx.ModelProto], onnx.ModelProto]


def write_graphs(
    model: Recommender, encoders: Encoders, items: pd.DataFrame, folder: Path, dense: Rewrite = lambda core: core
) -> dict[str, Path]:
    """Write the graphs of all forms that the model has to `folder`; `dense` rewrites a core, as INT8 does."""
    catalogue = Catalogue.build(model.schema, encoders, items)
    graphs = {
        "recommender": recommender_graph(dense(row_core(model)), model, encoders),
        "ranker": ranker_graph(dense(request_core(model)), model, encoders, catalogue),
    }
    if model.separable:
        graphs["retriever"] = retriever_graph(user_core(model), model, encoders, catalogue)
    paths = {name: folder / f"{name}.onnx" for name in graphs}
    for name, graph in graphs.items():
        save_graph(graph, paths[name], model)
    return paths


def check_parity(model: Recommender, raw: RawRows, graphs: Mapping[str, Path]) -> float:
    """The greatest difference between the model's scores and its graphs' on raw test rows and requests.

    Raises ValueError when it is more than 1e-5.
    """
    worst = max(_row_difference(model, raw, graphs["recommender"]), _request_difference(model, raw, graphs["ranker"]))
    if worst > TOLERANCE:
        raise ValueError(f"the exported graphs differ from the model by {worst:.2e}, more than {TOLERANCE}.")
    return worst


def _row_difference(model: Recommender, raw: RawRows, path: Path) -> float:
    row_B = np.flatnonzero(raw.store.part_E == TEST)[:CHECKED_ROWS]
    session = open_graph(path)
    return _difference(model, raw, row_B, raw.store.item_E[row_B], session.run(["score"], raw.feed(session, row_B))[0])


def _request_difference(model: Recommender, raw: RawRows, path: Path) -> float:
    rng, session, worst = np.random.default_rng(0), open_graph(path), 0.0
    for row in np.flatnonzero(raw.store.part_E == TEST)[:: max(1, len(raw.store.part_E) // CHECKED_REQUESTS)]:
        item_N = rng.integers(0, raw.store.items, CANDIDATES)
        score_N, _ = session.run(None, raw.request(session, row, item_N, 10))
        worst = max(worst, _difference(model, raw, np.repeat(row, CANDIDATES), item_N, score_N))
    return worst


def _difference(model: Recommender, raw: RawRows, row_B: np.ndarray, item_B: np.ndarray, score_B: np.ndarray) -> float:
    """The greatest distance of `score_B` to the model's own scores of events with these items."""
    batch = make_batch(raw.store, raw.store.user_E[row_B], item_B, row_B, np.zeros(len(row_B)))
    with torch.no_grad():
        return float(np.abs(model.score(batch).numpy() - score_B).max())
