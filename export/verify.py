"""Prove a bundle again: its files and sample, parity with the model it came from, quality on labelled rows.

A bundle that somebody changed on purpose, with new checksums and a new sample, loads; the last two still tell.
Letters: B rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from export.runtime import TOLERANCE, Bundle, BundleError
from recsys.declare import nearest
from recsys.metrics import auc, logloss, mae, rmse
from recsys.schema import FeatureSchema, Label

ROWS = 4096  # scored at once
LABEL = "label"  # the column of what is learned: 0 or 1, or the rating
QUALITY_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class Check:
    """One proof; `passed` is None where there was nothing to compare with."""

    name: str
    passed: bool | None
    detail: str


def check_files(path: Path, key: bytes | None) -> tuple[Check, Bundle | None]:
    """Whether every file is whole and the sample is answered; the bundle where they are."""
    name = "files and sample"
    try:
        bundle = Bundle.load(path, key)
    except BundleError as error:
        return Check(name, False, str(error)), None
    size = sum(file["bytes"] for file in bundle.manifest["files"].values()) / 2**20
    return Check(name, True, f"{len(bundle.manifest['files'])} files, {size:.1f} MiB"), bundle


def check_parity(
    bundle: Bundle, columns: Mapping[str, Any], expected_B: np.ndarray, tolerance: float = TOLERANCE
) -> Check:
    """Whether raw rows, given as `Bundle.score` takes them, score as the model itself scored them."""
    difference = float(np.abs(bundle.score(columns) - expected_B).max())
    passed = difference <= tolerance  # not so for NaN
    return Check("parity", passed, f"{len(expected_B):,} rows within {difference:.1e} of the checkpoint's scores")


def check_quality(bundle: Bundle, table: pd.DataFrame) -> list[Check]:
    """Measure a table of labelled raw rows and compare with the manifest's `quality`, metric by metric.

    The table's columns are called as the inputs of recommender.onnx; the label is `label` (0 or 1, or the rating), or
    the raw column that the schema names. `quality` is {"rows": ..., "auc": ..., "logloss": ...} or {"rmse": ...,
    "mae": ...}, with the `tolerance` of each (1e-3 if absent).

    Raises:
        ValueError: a column is missing, a label cannot be read, or the scores are not numbers.
    """
    schema = FeatureSchema.parse(bundle.manifest["schema"])
    scores, labels = score_table(bundle, table), read_label(schema.label, table)
    measured = measure(schema.label, scores, labels, probable=bundle.manifest.get("probabilities", True))
    recorded = bundle.manifest.get("quality") or {}
    tolerance = recorded.get("tolerance", QUALITY_TOLERANCE)
    return [_compare(name, value, len(table), recorded, tolerance) for name, value in measured.items()]


def _compare(name: str, value: float, rows: int, recorded: Mapping[str, Any], tolerance: float) -> Check:
    detail = f"{value:.5f} on {rows:,} rows"
    if name not in recorded:
        return Check(name, None, f"{detail}; the manifest records none")
    where = f" on {recorded['rows']:,}" if "rows" in recorded else ""
    passed = abs(value - recorded[name]) <= tolerance
    return Check(name, passed, f"{detail}; recorded {recorded[name]:.5f}{where}, tolerance {tolerance}")


def score_table(bundle: Bundle, table: pd.DataFrame) -> np.ndarray:
    """Scores (B,) of a table's rows. Raises ValueError where it lacks a column that the graph takes."""
    wanted = list(bundle.graphs["recommender"].columns)
    for name in wanted:
        if name not in table.columns:
            raise ValueError(
                f"`rows` has no column {name!r}, which recommender.onnx takes: {nearest(name, map(str, table.columns))}"
            )
    scores = [np.zeros(0, np.float32)]
    for start in range(0, len(table), ROWS):
        part = table.iloc[start : start + ROWS]
        scores.append(bundle.score({name: part[name] for name in wanted}))
    return np.concatenate(scores)


def read_label(label: Label, table: pd.DataFrame) -> np.ndarray:
    """The label float64 (B,) of a table's rows: 0 or 1, or the rating. Raises ValueError where it cannot be read."""
    name = LABEL if LABEL in table.columns or label.column is None else label.column
    if name not in table.columns:
        raise ValueError(f"`rows` has no label column {name!r}: {nearest(name, map(str, table.columns))}")
    value_B = pd.to_numeric(table[name], errors="coerce").to_numpy("float64", na_value=np.nan)
    if not np.isfinite(value_B).all():
        row = int(np.flatnonzero(~np.isfinite(value_B))[0])
        raise ValueError(f"`rows`: the label {name!r} of row {row} is no number, {table[name].iloc[row]!r}.")
    raw = label.kind == "threshold" and name != LABEL
    return (value_B >= label.positive_from).astype("float64") if raw else value_B


def measure(label: Label, score_B: np.ndarray, label_B: np.ndarray, *, probable: bool = True) -> dict[str, float]:
    """RMSE and MAE of ratings, else AUC and, for scores that are probabilities, logloss."""
    scores, labels = torch.from_numpy(score_B), torch.from_numpy(label_B)
    if label.kind == "rating":
        return {"rmse": rmse(scores, labels), "mae": mae(scores, labels)}
    return {"auc": auc(scores, labels)} | ({"logloss": logloss(scores, labels)} if probable else {})
