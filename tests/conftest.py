"""Shared fixtures: a schema with every kind of column, and configurations composed as the scripts do."""

import functools
import gc
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import torch
import torch.multiprocessing
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from torch.onnx._internal.exporter._registration import ONNXRegistry

from export.core import Inputs
from recsys.data.batches import Batch
from recsys.schema import FeatureSchema

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"


@pytest.fixture
def schema() -> FeatureSchema:
    """Users with an age bucket, items with a category, a price and tags, an hour, and a history of all three."""
    return FeatureSchema.parse(
        {
            "user": "user",
            "item": "item",
            "time": {"column": "at"},
            "label": {"kind": "binary", "column": "clicked"},
            "columns": {
                "user": {"role": "user", "kind": "category"},
                "age": {"role": "user", "kind": "number", "buckets": 4},
                "item": {"role": "item", "kind": "category"},
                "category": {"role": "item", "kind": "category"},
                "price": {"role": "item", "kind": "number"},
                "tags": {"role": "item", "kind": "tags", "length": 3},
                "hour": {"role": "scene", "kind": "category", "part": "hour"},
            },
            "history": {"columns": ["item", "category", "tags"], "length": 6},
            "sizes": {"user": 11, "age": 6, "item": 21, "category": 5, "tags": 7, "hour": 25},
            "label_mean": 0.3,
        }
    )


@pytest.fixture
def every_role(schema: FeatureSchema) -> FeatureSchema:
    """The same, and fields, numbers and tags of the user and the scene too."""
    content = schema.to_dict()
    columns = [
        {"name": "noise", "role": "scene", "kind": "number"},
        {"name": "height", "role": "user", "kind": "number"},
        {"name": "hobbies", "role": "user", "kind": "tags", "length": 2},
    ]
    sizes = {**content["sizes"], "hobbies": 5}
    return FeatureSchema.parse({**content, "columns": [*content["columns"], *columns], "sizes": sizes})


@pytest.fixture(scope="session")
def composed() -> Callable[..., DictConfig]:
    """Compose the training configuration with overrides."""

    def make(*overrides: str, name: str = "train") -> DictConfig:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            return compose(name, overrides=list(overrides))

    return make


@pytest.fixture
def real_data() -> Path:
    """The folder of real datasets; tests that need it are skipped without one."""
    folder = os.environ.get("RECSYS_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("RECSYS_DATA names no folder with datasets")
    return Path(folder)


@pytest.fixture
def run_core() -> Callable[..., np.ndarray]:
    """Run an exported core on batches, each beside the `Inputs` that name its tensors."""

    def run(core: onnx.ModelProto, *parts: tuple[Inputs, Batch]) -> np.ndarray:
        session = onnxruntime.InferenceSession(core.SerializeToString(), providers=["CPUExecutionProvider"])
        named = {name: tensor for inputs, batch in parts for name, tensor in inputs.tensors(batch).items()}
        return session.run(None, {i.name: named[i.name].numpy() for i in session.get_inputs()})[0]

    return run


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Small tensors are quicker on one thread, and sums come out the same everywhere."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _imported_for_good() -> None:
    """No collection of garbage looks through what was imported, which takes a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _operators_listed_once() -> Iterator[None]:
    """torch lists its ONNX operators anew for every export, which takes a second too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(functools.cache(ONNXRegistry.from_torchlib)))
        yield


@pytest.fixture
def two_processes(tmp_path: Path) -> Callable[..., list[Any]]:
    """Run `work(*arguments)` in two CPU processes that find each other as torchrun's do; returns what each returns."""

    def run(work: Callable[..., Any], *arguments: Any) -> list[Any]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        torch.multiprocessing.start_processes(
            _one_of_two, (work, arguments, port, tmp_path), nprocs=2, start_method="fork"
        )
        return [torch.load(tmp_path / f"process_{rank}.pt", weights_only=False) for rank in range(2)]

    return run


def _one_of_two(rank: int, work: Callable[..., Any], arguments: tuple[Any, ...], port: int, folder: Path) -> None:
    places = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    os.environ |= {name: str(value) for name, value in places.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test"}
    torch.save(work(*arguments), folder / f"process_{rank}.pt")


@pytest.fixture
def tiny(tmp_path: Path) -> dict[str, Any]:
    """30 shoppers, 12 goods, 600 visits with a random verdict; returns the data configuration as a mapping."""
    return write_tiny(tmp_path)


@pytest.fixture(scope="session")
def tiny_in() -> Callable[[Path], dict[str, Any]]:
    """The same in any folder, for fixtures that outlive a test."""
    return write_tiny


def write_tiny(folder: Path) -> dict[str, Any]:
    """Write the tables of `tiny` to a folder."""
    rng = np.random.default_rng(0)
    pd.DataFrame(
        {
            "shopper": [f"p{n}" for n in rng.integers(0, 30, 600)],
            "sku": rng.integers(100, 112, 600),
            "when": np.sort(rng.integers(0, 500, 600)),
            "bought": rng.integers(0, 2, 600),
            "device": rng.choice(["phone", "desk"], 600),
        }
    ).drop_duplicates(["shopper", "sku", "device"]).to_csv(folder / "visits.csv", index=False)
    pd.DataFrame(
        {
            "sku": range(100, 112),
            "shelf": rng.choice(["a", "b", "c"], 12),
            "cost": rng.random(12).round(3),
            "labels": rng.choice(["x", "x|y", "z|y|x", ""], 12),
        }
    ).to_csv(folder / "goods.csv", index=False)
    pd.DataFrame({"shopper": [f"p{n}" for n in range(30)], "years": rng.integers(18, 80, 30)}).to_csv(
        folder / "people.csv", index=False
    )
    return {
        "name": "tiny",
        "tables": {
            "behaviour": {"path": str(folder / "visits.csv")},
            "items": {"path": str(folder / "goods.csv"), "key": "sku"},
            "users": {"path": str(folder / "people.csv"), "key": "shopper"},
        },
        "user": "shopper",
        "item": "sku",
        "time": {"column": "when"},
        "label": {"kind": "binary", "column": "bought"},
        "columns": {
            "shopper": {"role": "user", "kind": "category"},
            "years": {"role": "user", "kind": "number", "buckets": 4},
            "sku": {"role": "item", "kind": "category"},
            "shelf": {"role": "item", "kind": "category"},
            "cost": {"role": "item", "kind": "number"},
            "labels": {"role": "item", "kind": "tags", "length": 2},
            "device": {"role": "scene", "kind": "category"},
        },
        "history": {"columns": ["sku", "shelf", "labels"], "length": 4},
        "split": {"by": "time", "valid": 0.2, "test": 0.2},
    }
