"""A hand-made recommender of three graphs whose scores a few lines of Python can say; the tiny shop's models exported.

Exports take seconds: each is made once and shared by all tests, which leave it as it is.
"""

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from onnx import TensorProto as T
from onnx import helper, numpy_helper

from export.artifact import Served, write_graphs
from export.bundle import write_bundle
from export.graph import open_graph
from export.rows import RawRows
from export.runtime import Bundle, open_session
from recsys.classical.fitted import Fitted
from recsys.data.module import DataModule, DataSpec
from recsys.models.base import Recommender
from recsys.run_files import Trained

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
LABELS: dict[str, dict[str, Any]] = {
    "binary": {"kind": "binary", "column": "bought"},
    "rating": {"kind": "rating", "column": "bought", "range": [0, 1]},
    "implicit": {"kind": "implicit", "negatives": 2},
}

USERS = {"ann": 0.5, "böb": -0.25, "secret-customer": 1.0}
ITEMS = {"i1": 0.1, "i2": -0.7, "i3": 0.9, "i4": 0.3}
SHELVES = {7: 0.25, -3: -0.5}
TAGS = {"red": 0.125, "blue": -0.0625}
SAMPLE: dict[str, Any] = {
    "score": {"user": ["ann", "nobody"], "item": ["i1", "i3"], "price": [2.0, None], "tags": [["red"], []]},
    "rank": {"user": {"user": "secret-customer", "history.item": ["i1"]}, "candidates": ["i2", "i3", "new"], "k": 2},
    "retrieve": {"user": {"user": "ann"}, "seen": ["i3"], "k": 2},
}
MANIFEST: dict[str, Any] = {
    "name": "toys",
    "model": "Sums",
    "variant": "float",
    "metrics": {"test": {"auc": 0.75, "gauc": float("nan")}},
    "variants": [{"variant": "float", "MiB": 1.5, "auc": 0.75}, {"variant": "int8", "MiB": 0.5, "auc": 0.74}],
    "schema": {
        "user": "user",
        "item": "item",
        "time": {"column": "at"},
        "label": {"kind": "binary", "column": "clicked"},
        "columns": {
            "user": {"role": "user", "kind": "category"},
            "item": {"role": "item", "kind": "category"},
            "shelf": {"role": "item", "kind": "category"},
            "price": {"role": "item", "kind": "number", "clip": [0, float("inf")]},
            "tags": {"role": "item", "kind": "tags"},
            "hour": {"role": "scene", "kind": "category", "part": "hour"},
        },
        "history": {"columns": ["item"]},
    },
}


def sigmoid(logit: float) -> np.float32:
    return np.float32(1 / (1 + np.exp(-logit)))


def expected_score(
    user: Any = None, item: Any = None, shelf: Any = None, price: Any = None, tags: Any = (), history: Any = ()
) -> np.float32:
    """The oracle: a sum of what is known of a row, through a sigmoid."""
    logit = USERS.get(user, 0.0) + ITEMS.get(item, 0.0) + SHELVES.get(shelf, 0.0) + 0.1 * (price or 0.0)
    return sigmoid(logit + sum(TAGS.get(t, 0.0) for t in tags) + sum(ITEMS.get(i, 0.0) for i in history))


@dataclass
class Sketch:
    """Nodes and weights of a graph in the making."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)

    def add(self, kind: str, *inputs: str, name: str, domain: str = "", **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [name], domain=domain, **attributes))
        return name

    def constant(self, name: str, values: Any, kind: int) -> str:
        array = np.asarray(values, helper.tensor_dtype_to_np_dtype(kind))
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def ids(self, column: str, values: dict[Any, float]) -> str:
        """Row of a value, 0 for the unseen."""
        kind = "strings" if isinstance(next(iter(values)), str) else "int64s"
        return self.add(
            "LabelEncoder",
            column,
            name=f"{column}.id",
            domain="ai.onnx.ml",
            **{f"keys_{kind}": list(values)},
            values_int64s=list(range(1, len(values) + 1)),
            default_int64=0,
        )

    def looked_up(self, column: str, values: dict[Any, float], table: str, *, pooled: bool = False) -> str:
        if not any(weight.name == table for weight in self.weights):
            self.constant(table, [0.0, *values.values()], T.FLOAT)
        found = self.add("Gather", table, self.ids(column, values), name=f"{column}.value")
        if not pooled:
            return found
        return self.add(
            "ReduceSum", found, self.constant(f"{column}.axis", [1], T.INT64), name=f"{column}.sum", keepdims=0
        )

    def finish(self, inputs: dict[str, tuple[int, list]], outputs: dict[str, tuple[int, list]]) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "sums",
            [helper.make_tensor_value_info(n, *v) for n, v in inputs.items()],
            [helper.make_tensor_value_info(n, *v) for n, v in outputs.items()],
            self.weights,
        )
        opsets = [helper.make_opsetid("", 20), helper.make_opsetid("ai.onnx.ml", 4)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10, producer_name="hand")
        onnx.checker.check_model(model)
        return model


def recommender(scale: float = 1.0) -> onnx.ModelProto:
    """Raw columns to scores; `scale` damages the items' weights."""
    s = Sketch()
    items = {key: value * scale for key, value in ITEMS.items()}
    missing = s.add("IsNaN", "price", name="price.missing")
    price = s.add("Where", missing, s.constant("zero", 0.0, T.FLOAT), "price", name="price.known")
    parts = [
        s.looked_up("user", USERS, "users"),
        s.looked_up("item", items, "items"),
        s.looked_up("shelf", SHELVES, "shelves"),
        s.add("Mul", price, s.constant("slope", 0.1, T.FLOAT), name="price.value"),
        s.looked_up("tags", TAGS, "labels", pooled=True),
        s.looked_up("history.item", items, "items", pooled=True),
    ]
    s.add("Sigmoid", s.add("Sum", *parts, name="logit"), name="score")
    inputs = {
        "user": (T.STRING, ["batch"]),
        "item": (T.STRING, ["batch"]),
        "shelf": (T.INT64, ["batch"]),
        "price": (T.FLOAT, ["batch"]),
        "tags": (T.STRING, ["batch", "tags"]),
        "history.item": (T.STRING, ["batch", "length"]),
    }
    return s.finish(inputs, {"score": (T.FLOAT, ["batch"])})


def ranker() -> onnx.ModelProto:
    s = Sketch()
    parts = [
        s.looked_up("user", USERS, "users"),
        s.looked_up("candidates", ITEMS, "items"),
        s.looked_up("history.item", ITEMS, "items", pooled=True),
    ]
    score = s.add("Sigmoid", s.add("Sum", *parts, name="logit"), name="score")
    count = s.add("Min", "k", s.add("Shape", score, name="count"), name="wanted")
    s.nodes.append(helper.make_node("TopK", [score, count], ["best", "top"]))
    inputs = {
        "user": (T.STRING, [1]),
        "history.item": (T.STRING, [1, "length"]),
        "candidates": (T.STRING, ["candidates"]),
        "k": (T.INT64, [1]),
    }
    return s.finish(inputs, {"score": (T.FLOAT, ["candidates"]), "top": (T.INT64, ["best"])})


def retriever() -> onnx.ModelProto:
    """Seen items score minus infinity; row 0, the unseen item, is cut off."""
    s = Sketch()
    seen = s.ids("seen_items", ITEMS)
    s.constant("items", [0.0, *ITEMS.values()], T.FLOAT)
    all_items = s.add("Add", "items", s.looked_up("user", USERS, "users"), name="all")
    score = s.add("Sigmoid", all_items, name="all.score")
    s.constant("lowest", [-np.inf], T.FLOAT)
    hidden = s.add("Expand", "lowest", s.add("Shape", seen, name="seen.count"), name="hidden")
    masked = s.add("ScatterElements", score, seen, hidden, name="masked")
    known = s.add("Slice", masked, s.constant("one", [1], T.INT64), s.constant("end", [99], T.INT64), name="known")
    count = s.add("Min", "k", s.constant("catalogue", [len(ITEMS)], T.INT64), name="wanted")
    s.nodes.append(helper.make_node("TopK", [known, count], ["top_scores", "places"]))
    s.add("Gather", s.constant("keys", list(ITEMS), T.STRING), "places", name="top_items")
    inputs = {"user": (T.STRING, [1]), "seen_items": (T.STRING, ["seen"]), "k": (T.INT64, [1])}
    return s.finish(inputs, {"top_items": (T.STRING, ["best"]), "top_scores": (T.FLOAT, ["best"])})


Write = Callable[..., Path]


@pytest.fixture
def toys() -> ModuleType:
    """This file, for its tables, graphs and oracle."""
    return sys.modules[__name__]


def open_here(**models: onnx.ModelProto) -> Bundle:
    """A bundle of graphs in memory."""
    return Bundle({name: open_session(model.SerializeToString(), 1) for name, model in models.items()}, {})


@pytest.fixture
def bundle() -> Bundle:
    """The three graphs without any file."""
    return open_here(recommender=recommender(), ranker=ranker(), retriever=retriever())


@pytest.fixture
def graphs(tmp_path: Path) -> dict[str, Path]:
    """The three graphs as files; the ranker's tables lie outside it, under a name of their own."""
    folder = tmp_path / "graphs"
    folder.mkdir()
    paths = {name: folder / f"{name}-draft.onnx" for name in ("recommender", "ranker", "retriever")}
    onnx.save(recommender(), paths["recommender"])
    onnx.save(ranker(), paths["ranker"], save_as_external_data=True, location="tables.bin", size_threshold=45)
    onnx.save(retriever(), paths["retriever"])
    return paths


@pytest.fixture
def write(tmp_path: Path, graphs: dict[str, Path]) -> Write:
    """Write the bundle to a folder of this name."""

    def make(name: str = "toys", **changed: Any) -> Path:
        arguments = {"graphs": graphs, "manifest": MANIFEST, "sample": SAMPLE, **changed}
        return write_bundle(tmp_path / name, **arguments)

    return make


@pytest.fixture
def folder(write: Write) -> Path:
    """The bundle, written."""
    return write()


KEY = bytes(range(32))


@pytest.fixture
def locked(write: Write) -> Path:
    """The bundle, written with KEY."""
    return write("locked", key=KEY)


Datasets = Callable[[str], DataModule]


@pytest.fixture(scope="session")
def datasets(tiny_in: Callable[[Path], dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Datasets:
    """The tiny shop with the hour of its visits, opened, by the kind of its label."""

    @functools.cache
    def make(kind: str) -> DataModule:
        folder = tmp_path_factory.mktemp(kind)
        spec = {**tiny_in(folder), "label": LABELS[kind]}
        spec["columns"]["hour"] = {"role": "scene", "kind": "category", "part": "hour"}
        data = DataModule(DataSpec.parse(spec), cache=folder)
        data.prepare_data()
        data.setup()
        return data

    return make


@pytest.fixture(scope="session")
def raw_rows(datasets: Datasets) -> Callable[[str], RawRows]:
    """The raw rows of each of these."""
    return functools.cache(lambda kind: RawRows.read(datasets(kind)))


@pytest.fixture(scope="session")
def build() -> Callable[..., Recommender]:
    """Make a model of configs/model for a dataset, with options, as `random_model`."""
    return random_model


def random_model(data: DataModule, name: str, **options: Any) -> Recommender:
    """A model with random weights everywhere; zero rows would hide mistakes."""
    torch.manual_seed(0)
    config = {**OmegaConf.load(CONFIGS / "model" / f"{name}.yaml"), **options}
    model = instantiate(config, schema=data.schema, _convert_="all").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(
                torch.randn(parameter.shape) * (parameter.shape[-1] ** -0.5 if parameter.dim() > 1 else 0.3)
            )
        for module in model.modules():
            if isinstance(module, torch.nn.Embedding):
                module.weight[0] = 0.0
    return model


def fitted_model(data: DataModule, name: str, **options: Any) -> Fitted:
    """A classical model of few factors, fitted to the training rows; its probabilities differ, whatever it learned."""
    config = {**OmegaConf.to_container(OmegaConf.load(CONFIGS / "model" / f"{name}.yaml")), **options}
    small = {key: value for key, value in {"embedding_dim": 3, "seed": 0}.items() if key in config}
    model = instantiate({**config, **small}, _convert_="all")
    return replace(Fitted.fit(model, data.store), slope=1.5, intercept=-0.25)


@dataclass(frozen=True)
class Exported:
    """A model of the tiny shop, the raw rows of its data, and its graphs."""

    model: Trained
    raw: RawRows
    paths: dict[str, Path]

    def open(self, graph: str) -> onnxruntime.InferenceSession:
        """A session of one of the graphs, on one thread."""
        return open_graph(self.paths[graph], threads=1)


def export_model(data: DataModule, raw: RawRows, folder: Path, name: str, options: dict[str, Any]) -> Exported:
    """A model of configs/model with random weights, or fitted, and its graphs in a folder."""
    target = OmegaConf.load(CONFIGS / "model" / f"{name}.yaml")["_target_"]
    make = fitted_model if target.startswith("recsys.classical.") else random_model
    model = make(data, name, **options)
    return Exported(model, raw, write_graphs(Served(model=model, encoders=data.store.encoders), raw, folder))


@pytest.fixture(scope="session")
def exported_of() -> Callable[..., Exported]:
    """`export_model`, for shops of a test's own."""
    return export_model


@pytest.fixture(scope="session")
def exported(
    datasets: Datasets, raw_rows: Callable[[str], RawRows], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Exported]:
    """Export a model of configs/model with these options (lists as tuples) for a kind of label."""

    @functools.cache
    def export(name: str, label: str, options: frozenset[tuple[str, Any]]) -> Exported:
        return export_model(datasets(label), raw_rows(label), tmp_path_factory.mktemp(name), name, dict(options))

    return lambda name, label="binary", **options: export(name, label, frozenset(options.items()))
