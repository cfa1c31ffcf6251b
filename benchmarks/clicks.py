"""A million clicks of the usual shape, 26 id columns and 13 numbers, drawn from a known click probability.

Letters: E events, F id columns, N numbers, K factors.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recsys.data.module import DataModule, DataSpec

FIELDS = [f"id{n:02}" for n in range(26)]
NUMBERS = [f"number{n:02}" for n in range(13)]
EVENTS = {"train": 1_000_000, "valid": 10_000, "test": 100_000}
LARGEST = 415_000  # values of the largest column; all columns' values together make a table of 1.1 million rows


def declaration(path: Path) -> dict[str, Any]:
    """The data configuration; the two largest columns are the user and the item, all others scene."""
    roles = dict.fromkeys(FIELDS, "scene") | {FIELDS[-1]: "user", FIELDS[-2]: "item"}
    columns = {name: {"role": role, "kind": "category"} for name, role in roles.items()}
    columns |= {name: {"role": "scene", "kind": "number"} for name in NUMBERS}
    return {
        "name": "clicks",
        "tables": {"behaviour": {"path": str(path), "duplicates": "keep"}},
        "user": FIELDS[-1],
        "item": FIELDS[-2],
        "label": {"kind": "binary", "column": "clicked", "oracle": "probability"},
        "columns": columns,
        "split": {"by": "column", "column": "part"},
    }


def prepare_clicks(folder: Path, batch_size: int, seed: int = 0) -> DataModule:
    """The set as a prepared data module; written and encoded once per folder."""
    path = folder / f"clicks-{seed}.parquet"
    if not path.exists():
        draw_clicks(seed).to_parquet(path, index=False)
    data = DataModule(DataSpec.parse(declaration(path)), cache=folder, batch_size=batch_size, ranking=False)
    data.prepare_data()
    data.setup()
    return data


def draw_clicks(seed: int) -> pd.DataFrame:
    """Events with their true click probability.

    Ids follow a power law, n = floor(size * u^2). The logit is a sum of one effect per value, of products of the
    values' factors in neighbouring columns, of linear effects of the numbers, and of a constant.
    """
    rng = np.random.default_rng(seed)
    count = sum(EVENTS.values())
    sizes = np.geomspace(10, LARGEST, len(FIELDS)).astype("int64")
    ids_FE = [(size * rng.random(count) ** 2).astype("int32") for size in sizes]
    numbers_NE = rng.standard_normal((len(NUMBERS), count), dtype="float32")
    logit_E = -1.5 + _effects(rng, sizes, ids_FE) + _products(rng, sizes, ids_FE)
    logit_E += rng.normal(0, 0.15, len(NUMBERS)) @ numbers_NE
    probability_E = 1 / (1 + np.exp(-logit_E))
    return pd.DataFrame(
        dict(zip(FIELDS, ids_FE, strict=True))
        | dict(zip(NUMBERS, numbers_NE, strict=True))
        | {"probability": probability_E, "clicked": (rng.random(count) < probability_E).astype("int8")}
        | {"part": np.repeat(list(EVENTS), list(EVENTS.values()))}
    )


def _effects(rng: np.random.Generator, sizes: np.ndarray, ids_FE: list[np.ndarray]) -> np.ndarray:
    """The sum (E,) of one normal effect per value."""
    return sum(rng.normal(0, 0.2, size)[ids_E] for size, ids_E in zip(sizes, ids_FE, strict=True))


def _products(rng: np.random.Generator, sizes: np.ndarray, ids_FE: list[np.ndarray], factors: int = 4) -> np.ndarray:
    """The sum (E,) of the dot products of neighbouring columns' factors."""
    tables = [rng.normal(0, 0.3, (size, factors)) for size in sizes]
    total_E = np.zeros(len(ids_FE[0]))
    for left, right in zip(range(len(sizes) - 1), range(1, len(sizes)), strict=True):
        total_E += np.einsum("ek,ek->e", tables[left][ids_FE[left]], tables[right][ids_FE[right]])
    return total_E
