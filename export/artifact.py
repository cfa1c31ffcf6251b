"""From a trained model to what is served: its graphs, checked against the model, and the bundle around them."""

import importlib.metadata
import json
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from export.bundle import write_bundle
from export.catalogue import Catalogue
from export.classical import classical_graphs
from export.core import row_core, user_core
from export.graph import open_graph, ranker_graph, recommender_graph, retriever_graph, save_graph
from export.multiply_out import multiply_out
from export.quality import Judge
from export.quantize import dense_nodes, float_where_better, quantize_dense
from export.rows import RawRows, plain
from export.tables import Int8Table
from export.verify import LABEL, measure
from recsys.classical.fitted import Fitted
from recsys.data.batches import make_batch
from recsys.data.candidates import EXCLUDED
from recsys.data.encoders import Encoders
from recsys.data.module import DataModule
from recsys.data.split import TEST
from recsys.files import whole_file
from recsys.models.base import Recommender
from recsys.run_files import Trained

FLOAT = "float32"
TOLERANCE = 1e-5
INT8_SHARE = 2000  # times as much with INT8 layers: other processors round sums of integers in other places
CHECKED_ROWS, CHECKED_REQUESTS, CHECKED_RETRIEVALS, CANDIDATES = 2000, 20, 3, 100
LABELLED_ROWS, SAMPLE_ROWS, SAMPLE_CANDIDATES = 10_000, 3, 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A model as it is to be served, under a variant's `name`: by its `encoders`, with float or INT8 dense layers.

    A classical model has no encoders of its own, no variants and no layers.
    """

    model: Trained
    encoders: Encoders
    name: str = FLOAT
    int8_layers: bool = False


def write_graphs(served: Served, raw: RawRows, folder: Path) -> dict[str, Path]:
    """Write the graphs of all forms that the model has to `folder`, with the shop's items as their catalogue."""
    model = served.model
    catalogue = Catalogue.build(model.schema, served.encoders, raw.events.items)
    if isinstance(model, Fitted):
        graphs = classical_graphs(model, raw.events, catalogue)
    else:
        graphs = deep_graphs(model, served.encoders, catalogue, half=served.int8_layers)
    paths = {name: folder / f"{name}.onnx" for name in graphs}
    for name, graph in graphs.items():
        save_graph(graph, paths[name], model)
        if served.int8_layers:
            quantize_layers(paths[name], raw)
    return paths


def deep_graphs(
    model: Recommender, encoders: Encoders, catalogue: Catalogue, *, half: bool
) -> dict[str, onnx.ModelProto]:
    """The row and the request form (see `ranker_graph` for `half`), and for a separable model the retrieval form."""
    graphs = {
        "recommender": recommender_graph(row_core(model), model, encoders),
        "ranker": ranker_graph(model, encoders, catalogue, half=half),
    }
    if model.separable:
        graphs["retriever"] = retriever_graph(user_core(model), model, encoders, catalogue)
    return graphs


def quantize_layers(path: Path, raw: RawRows) -> bool:
    """Turn the dense layers of a graph into INT8, but for those that real rows show to be slower or to suffer by it.

    Returns whether there was such a layer; without one the file stays as it is.
    """
    layers = dense_nodes(path)
    keep = float_where_better(path, [raw.example(open_graph(path))]) if layers else []
    if len(keep) == len(layers):
        return False
    quantize_dense(path, path, keep_float=keep)
    return True


def check_parity(model: Trained, raw: RawRows, graphs: Mapping[str, Path]) -> float:
    """The greatest difference between the model's scores and its graphs' on raw test rows, requests and retrievals.

    Raises ValueError when it is more than `tolerance_of` the scores.
    """
    checks = {"recommender": _row_difference, "ranker": _request_difference, "retriever": _retrieval_difference}
    worst = max(check(model, raw, graphs[name]) for name, check in checks.items() if name in graphs)
    if worst > (most := tolerance_of(raw, open_graph(graphs["recommender"]))):
        raise ValueError(f"the exported graphs differ from the model by {worst:.2e}, more than {most:.0e}.")
    return worst


def tolerance_of(raw: RawRows, session: onnxruntime.InferenceSession) -> float:
    """1e-5, or a millionth of a graph's greatest score of some test rows: float32 has seven digits."""
    row_B = np.flatnonzero(raw.store.part_E == TEST)[:CHECKED_ROWS]
    return max(TOLERANCE, 1e-6 * float(np.abs(session.run(["score"], raw.feed(session, row_B))[0]).max()))


def _row_difference(model: Trained, raw: RawRows, path: Path) -> float:
    row_B = np.flatnonzero(raw.store.part_E == TEST)[:CHECKED_ROWS]
    session = open_graph(path)
    return _difference(model, raw, row_B, raw.store.item_E[row_B], session.run(["score"], raw.feed(session, row_B))[0])


def _some_test_rows(raw: RawRows, count: int) -> np.ndarray:
    row_B = np.flatnonzero(raw.store.part_E == TEST)
    return row_B[:: max(1, len(row_B) // count)][:count]


def _request_difference(model: Trained, raw: RawRows, path: Path) -> float:
    rng, session, worst = np.random.default_rng(0), open_graph(path), 0.0
    for row in _some_test_rows(raw, CHECKED_REQUESTS):
        item_N = rng.integers(0, raw.store.items, CANDIDATES)
        score_N, _ = session.run(None, raw.request(session, row, item_N, 10))
        worst = max(worst, _difference(model, raw, np.repeat(row, CANDIDATES), item_N, score_N))
    return worst


def _retrieval_difference(model: Trained, raw: RawRows, path: Path) -> float:
    session, worst, item_I = open_graph(path), 0.0, np.arange(raw.store.items)
    for row in _some_test_rows(raw, CHECKED_RETRIEVALS):
        _, score_K = session.run(None, raw.request(session, row, item_I[:0], 10))
        score_I = model_scores(model, raw, np.repeat(row, len(item_I)), item_I)
        rank_I = model.model.score_items(raw.store.user_E[[row]])[0] if isinstance(model, Fitted) else score_I
        best_K = score_I[np.argsort(-rank_I, kind="stable")][: len(score_K)]
        worst = max(worst, float(np.abs(best_K - score_K).max()))
    return worst


def _difference(model: Trained, raw: RawRows, row_B: np.ndarray, item_B: np.ndarray, score_B: np.ndarray) -> float:
    return float(np.abs(model_scores(model, raw, row_B, item_B) - score_B).max())


def model_scores(model: Trained, raw: RawRows, row_B: np.ndarray, item_B: np.ndarray) -> np.ndarray:
    """The model's own scores (B,) of events with these items."""
    user_B = raw.store.user_E[row_B]
    if isinstance(model, Fitted):
        return model.to_score(torch.from_numpy(model.model.score(user_B, item_B)).float()).numpy()
    batch = make_batch(raw.store, user_B, item_B, row_B, np.zeros(len(row_B)))
    with torch.no_grad():
        return model.score(batch).numpy()


def write_artifact(
    served: Served,
    raw: RawRows,
    folder: Path,
    *,
    manifest: Mapping[str, Any],
    key: bytes | None = None,
) -> dict[str, Any]:
    """Write the bundle of a model to `folder`, and beside one in plain `test_rows.parquet` for who wants to verify it.

    Rows in plain would tell what an encrypted bundle hides: earlier ones are removed.
    The graphs of an unchanged model are checked against it. `manifest` adds to what is known here. Returns what the
    bundle's manifest says of it, with the greatest difference seen as `parity`.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
        graphs = write_graphs(served, raw, Path(scratch))
        comparable = not served.int8_layers and served.encoders is raw.store.encoders
        parity = check_parity(_as_exported(served.model), raw, graphs) if comparable else None
        sessions = {name: open_graph(path) for name, path in graphs.items()}
        tolerance = tolerance_of(raw, sessions["recommender"]) * (INT8_SHARE if served.int8_layers else 1)
        probable = served.model.probable
        rows, quality = labelled_rows(raw, sessions["recommender"], probable=probable)
        content = {
            **_named(served.model),
            "variant": served.name,
            "schema": served.model.schema.to_dict(),
            "vocabularies": served.encoders.sizes(),
            "code": code_version(),
            "tolerance": tolerance,
            "parity": parity,
            "quality": quality,
            "probabilities": probable,
            **manifest,
        }
        write_bundle(folder, graphs, manifest=content, sample=sample_requests(raw, sessions), key=key)
    path = folder.parent / "test_rows.parquet"
    if key is not None:
        path.unlink(missing_ok=True)
        return content
    with whole_file(path) as draft:
        pq.write_table(rows, draft)
    return content


def _named(model: Trained) -> dict[str, str]:
    """What the model is called, and for a classical one what its graphs remember of users: `keys`, or `events` too."""
    if not isinstance(model, Fitted):
        return {"model": type(model).__name__}
    return {"model": model.name, "remembers": "events" if model.model.vectors() is None else "keys"}


def _as_exported(model: Trained) -> Trained:
    """The model itself; with INT8 tables multiplied out as its graphs are, for products round to other numbers."""
    if isinstance(model, Recommender) and any(isinstance(m, Int8Table) for m in model.modules()):
        return multiply_out(model)
    return model


def facts_of_run(data: DataModule, model: Trained, folder: Path) -> dict[str, Any]:
    """What a run's folder says of its model: name and fingerprint of the data, metrics, calibration error.

    `saw_valid` says that the model has learned the validation rows too, and that the metrics on these are of another,
    which had not.
    """
    facts: dict[str, Any] = {"name": data.spec.name, "data": data.state, "saw_valid": model.saw_valid}
    if (folder / "metrics.json").is_file():
        found = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        facts["metrics"] = {part: found[part] for part in ("valid", "test") if part in found}
        facts["calibration"] = found.get("test", {}).get("calibration_error")
    return facts


def summary(folder: Path, content: Mapping[str, Any]) -> str:
    """A line about a bundle that was written."""
    size = sum(file.stat().st_size for file in folder.glob("*.onnx*")) / 2**20
    parity = content["parity"]
    close = "" if parity is None else f", within {parity:.1e} of the model's scores"
    return f"bundle: {folder} and {folder.name}.tar.gz ({content['variant']}, {size:.1f} MiB{close})"


def labelled_rows(
    raw: RawRows, session: onnxruntime.InferenceSession, *, probable: bool
) -> tuple[pa.Table, dict[str, float]]:
    """Up to 10,000 raw test rows with their labels as `scripts/verify.py` takes them, and how well they are scored.

    `probable` says whether the scores are probabilities.
    """
    judge = Judge(raw, TEST, LABELLED_ROWS)
    feed = raw.feed(session, judge.row_B, judge.item_B)
    columns = {name: pa.array(values, arrow_type(feed[name])) for name, values in plain(feed).items()}
    table = pa.table({**columns, LABEL: judge.label.numpy()})
    known = (judge.label != EXCLUDED).numpy()
    score_B, label_B = (values.numpy()[known] for values in (judge.scores(session), judge.label))
    return table.filter(pa.array(known)), {
        "rows": len(score_B),
        **measure(raw.store.schema.label, score_B, label_B.astype("float64"), probable=probable),
    }


def arrow_type(values: np.ndarray) -> pa.DataType:
    """The type of a column that an input came from: whole numbers with missing ones among them stay whole."""
    kind = {"O": pa.string(), "i": pa.int64(), "f": pa.float32()}[values.dtype.kind]
    for _ in range(values.ndim - 1):
        kind = pa.list_(kind)
    return kind


def sample_requests(raw: RawRows, sessions: Mapping[str, onnxruntime.InferenceSession]) -> dict[str, Any]:
    """A request to each graph, from the first test rows."""
    row_B = np.flatnonzero(raw.store.part_E == TEST)[:SAMPLE_ROWS]
    item_N = np.random.default_rng(0).integers(0, raw.store.items, SAMPLE_CANDIDATES)
    sample: dict[str, Any] = {"score": plain(raw.feed(sessions["recommender"], row_B))}
    for graph, verb, keys in (("ranker", "rank", "candidates"), ("retriever", "retrieve", "seen_items")):
        if graph in sessions:
            request = plain(raw.request(sessions[graph], row_B[0], item_N, 10))
            own = {"candidates": "candidates", "seen_items": "seen"}
            user = {name: values[0] for name, values in request.items() if name not in ("k", keys)}
            sample[verb] = {"user": user, own[keys]: request[keys], "k": 10}
    return sample


def code_version() -> dict[str, str]:
    """The version of this package, and the commit where it runs from a repository."""
    version = {"recsys": importlib.metadata.version("recsys")}
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return version | ({"commit": done.stdout.strip()} if done.returncode == 0 else {})
