"""The README of a bundle, for the people who serve it: no Python needed to understand it."""

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from export.runtime import SMALLEST
from recsys.report.render import number
from recsys.schema import HISTORY, FeatureSchema

MISSING = {"string": '`""` (empty)', "int64": f"`{SMALLEST}`", "float32": "`NaN`"}
PLACEHOLDERS: dict[str, list[Any]] = {"string": ["a", "b"], "int64": [1, 2], "float32": [1.5, 2.5]}
SHOWN = 4  # columns in the example; the others are missing there
RUNTIME = "1.20"  # the oldest ONNX Runtime that the project allows


def render_readme(manifest: Mapping[str, Any], sample: Mapping[str, Any], *, encrypted: bool) -> str:
    """Markdown from a manifest (without its files) and the answered sample, whose values an encrypted bundle hides.

    Raises ValueError where the manifest's schema cannot be read.
    """
    schema = FeatureSchema.parse(manifest["schema"])
    environment = Environment(
        loader=PackageLoader("export"), trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    environment.filters["number"] = number
    environment.filters["cell"] = lambda value: str(value).replace("|", "\\|").replace("\n", " ")
    return environment.get_template("bundle.md.j2").render(
        manifest=manifest,
        graphs={
            name: _tables(graph, schema, probable=manifest.get("probabilities", True))
            for name, graph in manifest["graphs"].items()
        },
        metrics=_flat(manifest.get("metrics", {})),
        variants=manifest.get("variants") or [],
        example=_example(manifest["graphs"]["recommender.onnx"], None if encrypted else sample),
        encrypted=encrypted,
        item=schema.item,
        histories=any(HISTORY in i["name"] for graph in manifest["graphs"].values() for i in graph["inputs"]),
        runtime=RUNTIME,
    )


def _tables(graph: Mapping[str, Any], schema: FeatureSchema, *, probable: bool) -> dict[str, Any]:
    """A graph's description with, for every input and output, what it means and how a missing value is written."""
    inputs = [
        {**value, "missing": MISSING.get(value["type"], ""), "meaning": meaning(value["name"], schema)}
        for value in graph["inputs"]
    ]
    for value in inputs:
        if value["name"] == "k":
            value["missing"] = ""
    outputs = [{**v, "meaning": meaning(v["name"], schema, probable=probable)} for v in graph["outputs"]]
    return {**graph, "inputs": inputs, "outputs": outputs}


def meaning(name: str, schema: FeatureSchema, *, probable: bool = True) -> str:
    """What an input or output of a graph stands for, in words."""
    score = "chance of a positive, between 0 and 1" if probable else "how well they fit: more is better"
    score = "predicted rating" if schema.label.kind == "rating" else score
    fixed = {
        "candidates": f"keys of the items to rank (values of `{schema.item}`)",
        "seen_items": f"keys of items that must not come back (values of `{schema.item}`)",
        "k": "how many of the best are wanted, at least 1",
        "score": f"{score}, one per row or candidate",
        "top": "positions of the best candidates, best first, counted from 0",
        "top_items": "keys of the best items, best first",
        "top_scores": f"their scores: {score}",
    }
    if name in fixed:
        return fixed[name]
    if name.startswith(HISTORY):
        return f"`{name.removeprefix(HISTORY)}` of the items that the user liked before, oldest first"
    if schema.time and name == schema.time.column:
        return _moment(schema)
    if name not in {column.name for column in schema.columns}:
        return {schema.item: "the item's key", schema.user: "the user's key"}.get(name, "")
    column = schema.column(name)
    kind = {"category": "one value", "number": "a number", "tags": f"several values, the first {column.length} count"}
    return f"of the {column.role}: {kind[column.kind]}"


def _moment(schema: FeatureSchema) -> str:
    assert schema.time is not None
    unit = {"s": "seconds", "ms": "milliseconds"}[schema.time.unit]
    parts = ", ".join(f"`{column.name}`" for column in schema.columns if column.part)
    return f"the moment in {unit} since 1970-01-01 UTC" + (f"; gives {parts}" if parts else "")


def _flat(metrics: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested metrics by dotted name."""
    flat: dict[str, Any] = {}
    for name, value in metrics.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def _example(graph: Mapping[str, Any], sample: Mapping[str, Any] | None) -> dict[str, str]:
    """Two rows of a few columns as Python text: the sample's, or placeholders."""
    request = sample["score"]["request"] if sample else {}
    shown: dict[str, Any] = {}
    for value in graph["inputs"][:SHOWN]:
        values = PLACEHOLDERS[value["type"]]
        for _ in value["shape"][1:]:
            values = [values, []]
        shown[value["name"]] = request.get(value["name"], values)[:2]
    rows = min(map(len, shown.values()))
    return {name: repr(values[:rows]) for name, values in shown.items()}
