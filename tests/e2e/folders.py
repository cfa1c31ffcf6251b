"""What the end-to-end tests read of the folders of runs, and how they name what lies there."""

import gc
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from export.runtime import Bundle
from recsys.checkpoints import PLACE_KEY
from recsys.models.base import read_checkpoint

KEY = bytes(range(32))  # of encrypted bundles


def everything(folder: Path) -> dict[Path, tuple[int, int]]:
    """Every path with its size and time of change, without what an ended process would have removed."""
    gc.collect()
    return {p: (p.stat().st_size, p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}


def checkpoint(run: Path) -> str:
    """The option that names a run's model."""
    return f"checkpoint={run}/checkpoints/best.ckpt"


def scores(bundle: Path, run: Path, key: bytes | None = None) -> np.ndarray:
    """What a bundle says to the run's labelled rows."""
    rows = pd.read_parquet(run / "test_rows.parquet").drop(columns="label")
    return Bundle.load(bundle, key).score(rows)


def metrics(run: Path) -> dict[str, Any]:
    """metrics.json without what a clock says."""
    content = json.loads((run / "metrics.json").read_text())
    return {name: value for name, value in content.items() if name != "seconds"}


def place(run: Path, name: str = "last") -> tuple[int, int]:
    """Epoch and batch of a run's last.ckpt (or another), (-1, 0) before there is one."""
    path = run / "checkpoints" / f"{name}.ckpt"
    if not path.exists():
        return -1, 0
    content = read_checkpoint(path)[PLACE_KEY]
    return content["epoch"], content["batch"]
