"""How quickly the graphs of a large DeepFM answer: 39 columns, 1.1 million ids, synthetic weights, one thread.

Letters: B rows, F fields, N numbers.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from export.catalogue import Catalogue
from export.core import example_batch, row_core
from export.graph import open_graph, ranker_graph, recommender_graph, save_graph
from export.measure import file_size, load_figures
from export.prune import prune_hidden
from export.quantize import float_where_better, quantize_dense
from export.tables import quantize_tables
from recsys.data.batches import Batch
from recsys.data.encoders import Encoders, Standardiser, Vocabulary
from recsys.models.base import Recommender
from recsys.models.deepfm import DeepFM
from recsys.models.mf import MF
from recsys.schema import FeatureSchema

Row = tuple[str, str, str]
Feed = dict[str, np.ndarray]
FIELDS, NUMBERS = {"user": 12, "item": 10, "scene": 4}, {"user": 6, "item": 5, "scene": 2}
IDS, USERS, ITEMS, TEXTS = 1_100_000, 300_000, 100_000, 1_000_000
BATCH, CANDIDATES, KEEP = 256, 1000, 0.5
FEEDS, WARM = (
    16,
    2,
)  # different inputs, so that rows are not in the cache from the last time; each block runs all of them
VARIANTS = {"float": "float32", "int8": "half width, INT8"}


def serve(folder: Path, rounds: int = 20) -> list[Row]:
    """The table's rows for batches of 256, for 1,000 candidates of one user, and for a million string ids."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    schema, encoders = wide_schema()
    items = draw(schema, rng, ITEMS, "item") | {"item": np.arange(ITEMS)}
    feeds = [draw(schema, rng, BATCH) for _ in range(FEEDS)]
    requests = [draw_request(schema, rng) for _ in range(FEEDS)]
    torch.manual_seed(0)
    model = DeepFM(schema).eval()
    paths = write_variants(model, encoders, items, {"rows": feeds[0], "request": requests[0]}, folder)
    ms = time_blocks(works(model, paths, feeds, requests, items), rounds)
    return [*batch_rows(ms, paths), *request_rows(ms), *text_rows(folder)]


def wide_schema() -> tuple[FeatureSchema, Encoders]:
    """26 columns of integer ids, 1.1M in all, and 13 numbers: the user's, the item's and the scene's."""
    sizes = {"user": USERS, "item": ITEMS}
    others = [f"{role}{n}" for role, count in FIELDS.items() for n in range(1 - (role == "scene"), count)]
    sizes |= dict.fromkeys(others, (IDS - sum(sizes.values())) // len(others))
    numbers = [f"{role}_x{n}" for role, count in NUMBERS.items() for n in range(count)]
    ids = {name: Vocabulary(values=list(range(size)), counts=[1] * size) for name, size in sizes.items()}
    standard = dict.fromkeys(numbers, Standardiser(count=2, mean=0.0, square=2.0))
    return fitted(Encoders(columns={**ids, **standard}))


def fitted(encoders: Encoders) -> tuple[FeatureSchema, Encoders]:
    """The schema of columns whose names begin with their role."""
    columns = {
        name: {
            "role": next(role for role in FIELDS if name.startswith(role)),
            "kind": "category" if isinstance(encoder, Vocabulary) else "number",
        }
        for name, encoder in encoders.columns.items()
    }
    declared = {"user": "user", "item": "item", "label": {"kind": "binary", "column": "clicked"}, "columns": columns}
    return FeatureSchema.parse(declared).fitted(sizes=encoders.sizes(), label_mean=0.3, encoders=""), encoders


def draw(schema: FeatureSchema, rng: np.random.Generator, rows: int, *roles: str) -> Feed:
    """Raw columns of some roles (by default all); ids follow a power law, n = floor(size * u^2)."""
    return {
        c.name: rng.standard_normal(rows, dtype="float32")
        if c.kind == "number"
        else ((schema.size(c.name) - 1) * rng.random(rows) ** 2).astype("int64")
        for c in schema.columns
        if c.role in (roles or FIELDS)
    }


def draw_request(schema: FeatureSchema, rng: np.random.Generator) -> Feed:
    """One user in one scene and 1,000 items."""
    candidates = draw(schema, rng, CANDIDATES, "item")["item"]
    return draw(schema, rng, 1, "user", "scene") | {"candidates": candidates, "k": np.array([10])}


def as_rows(request: Feed, items: Feed) -> Feed:
    """The rows that a request stands for."""
    user = {name: np.repeat(value, CANDIDATES) for name, value in request.items() if name not in ("candidates", "k")}
    return user | {name: values[request["candidates"]] for name, values in items.items()}


def encoded(schema: FeatureSchema, feed: Feed) -> Batch:
    """What the model itself reads of raw rows, ready-made."""
    ids_BF = np.stack([feed[c.name] + schema.offset(c.name) + 1 for c in schema.fields], 1)
    numbers_BN = np.stack([feed[c.name] for c in schema.numbers], 1)
    return Batch(torch.from_numpy(ids_BF), torch.from_numpy(numbers_BN), {}, torch.zeros(len(ids_BF)))


def write_variants(
    model: DeepFM, encoders: Encoders, items: Feed, examples: Mapping[str, Feed], folder: Path
) -> dict[str, Path]:
    """The graphs `float rows`, `float request`, `int8 rows` and `int8 request`; int8 is pruned to half width too."""
    batches = [example_batch(model.schema, 1024, seed=seed) for seed in range(4)]
    variants = {"float": model, "int8": quantize_tables(prune_hidden(model, batches, KEEP))}
    catalogue = Catalogue.build(model.schema, encoders, pd.DataFrame(items).astype({"item": "Int64"}))
    paths = {}
    for name, variant in variants.items():
        graphs = {
            "rows": recommender_graph(row_core(variant), variant, encoders),
            "request": ranker_graph(variant, encoders, catalogue, half=name == "int8"),
        }
        for form, graph in graphs.items():
            paths[f"{name} {form}"] = path = folder / f"{name}-{form}.onnx"
            save_graph(graph, path, variant)
            if name == "int8":
                quantize_dense(path, path, keep_float=float_where_better(path, [examples[form]]))
    return paths


def works(
    model: Recommender, paths: Mapping[str, Path], feeds: list[Feed], requests: list[Feed], items: Feed
) -> dict[str, Callable[[int], object]]:
    """What is timed, by name: functions of the number of the input."""
    batches = [encoded(model.schema, feed) for feed in feeds]
    long = [as_rows(request, items) for request in requests]
    sessions = {name: open_graph(path, threads=1) for name, path in paths.items()}

    def eager(n: int) -> object:
        with torch.inference_mode():
            return model.score(batches[n])

    def run(name: str, inputs: list[Feed]) -> Callable[[int], object]:
        return lambda n: sessions[name].run(["score"], inputs[n])

    timed: dict[str, Callable[[int], object]] = {"eager": eager}
    for variant in VARIANTS:
        timed[f"{variant} {BATCH}"] = run(f"{variant} rows", feeds)
        timed[f"{variant} rows"] = run(f"{variant} rows", long)
        timed[f"{variant} request"] = run(f"{variant} request", requests)
    return timed


def time_blocks(timed: Mapping[str, Callable[[int], object]], rounds: int) -> dict[str, np.ndarray]:
    """Milliseconds of every run, by name.

    The candidates take turns in blocks: what disturbs the machine for a while disturbs all of them, yet each keeps the
    processor's caches for itself while it runs, as it would in a service.
    """
    ms: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(rounds):
        for name, work in timed.items():
            for n in range(FEEDS):
                started = time.perf_counter()
                work(n)
                if n >= WARM:
                    ms[name].append(1e3 * (time.perf_counter() - started))
    return {name: np.array(values) for name, values in ms.items()}


def batch_rows(ms: Mapping[str, np.ndarray], paths: Mapping[str, Path]) -> list[Row]:
    """A batch of 256: the model itself, its graph, and the graph at half width in INT8."""
    whole, small = (file_size(paths[f"{name} rows"]) for name in VARIANTS)
    ratio = float(np.median(ms[f"float {BATCH}"]) / np.median(ms[f"int8 {BATCH}"]))
    times = float(np.median(ms["eager"]) / np.median(ms[f"int8 {BATCH}"]))
    return [
        (f"serve {BATCH} rows, torch", "DeepFM, 1.1M ids, encoded batch", spread(ms["eager"])),
        (f"serve {BATCH} rows, float32", f"raw columns, {whole:.1f} MiB", spread(ms[f"float {BATCH}"])),
        (
            f"serve {BATCH} rows, half width, INT8",
            f"raw columns, {small:.1f} MiB ({small / whole:.0%}); {ratio:.1f}x float32, {times:.1f}x torch",
            spread(ms[f"int8 {BATCH}"]),
        ),
    ]


def request_rows(ms: Mapping[str, np.ndarray]) -> list[Row]:
    """1,000 candidates of one user, as rows and as a request."""
    rows = []
    for name, words in VARIANTS.items():
        long, short = ms[f"{name} rows"], ms[f"{name} request"]
        share = np.percentile(short, 99) / np.percentile(long, 99)
        rows.append((f"rank {CANDIDATES:,}, {words}", "as rows", spread(long)))
        rows.append((f"rank {CANDIDATES:,}, {words}", f"as a request; p99 {share:.0%} of the rows'", spread(short)))
    return rows


def spread(ms: np.ndarray) -> str:
    """The median, and the 99th percentile."""
    return f"{np.median(ms):.3f} ms (p99 {np.percentile(ms, 99):.3f})"


def text_rows(folder: Path) -> list[Row]:
    """Loading a graph with a million texts as ids in a fresh process; up to 15 letters need no memory of their own."""
    rows = []
    for prefix in ("user-", "customer-"):
        names = [f"{prefix}{n:07}" for n in range(TEXTS)]
        columns = {"user": Vocabulary(values=names, counts=[1] * TEXTS), "item": Vocabulary(values=[1], counts=[1])}
        schema, encoders = fitted(Encoders(columns={**columns}))
        model, path = MF(schema, embedding_dim=16).eval(), folder / "texts.onnx"
        save_graph(recommender_graph(row_core(model), model, encoders), path, model)
        figures, size = load_figures(path), file_size(path)
        memory = f"{figures['rss_mb'] / size:.1f}x the file's {size:.0f} MiB in memory"
        what = f"{TEXTS:,} string ids of {len(names[0])} letters x 16; {memory}"
        rows.append(("load a graph", what, f"{figures['load_s']:.2f} s"))
    return rows
