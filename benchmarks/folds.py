"""How fast the classical models learn and predict the ratings of MovieLens-100k in five folds, beside Surprise."""

import os
import statistics
import subprocess
import time
from pathlib import Path

import numpy as np
import pandas as pd

from recsys.classical.base import Classical
from recsys.classical.knn import ItemKNN, UserKNN
from recsys.classical.nmf import NMF
from recsys.classical.ratings import Ratings
from recsys.classical.svd import SVD

FOLDS = 5
MODELS: dict[str, Classical] = {
    "item_knn": ItemKNN(similarity="pearson_baseline", over="common", shrinkage=100.0),
    "user_knn": UserKNN(over="common", deviations="zero"),
    "svd": SVD(),
    "nmf": NMF(),
}
Row = tuple[str, str, str]


def folds_file() -> Path:
    """The table of ratings with their folds. Raises ValueError where there is none."""
    path = Path(os.environ.get("RECSYS_DATA", "data")) / "ml-100k" / "folds.parquet"
    if not path.is_file():
        raise ValueError(f"`folds` needs {path}: set RECSYS_DATA to the folder of datasets.")
    return path


def check_surprise(python: Path | None) -> None:
    """Raise ValueError unless the peers' environment has Surprise."""
    if not python or subprocess.run([python, "-c", "import surprise"], capture_output=True, check=False).returncode:
        raise ValueError("`folds` with `peers` needs Surprise; `make bench-peers` installs it into .venv-peers.")


def measure_folds(path: Path, folder: Path, runs: int, peer: Path | None = None) -> list[Row]:
    """Seconds and RMSE of every model, five folds in all; in turns with the peer, whose Python is `peer`."""
    frame = pd.read_parquet(path)
    ratings = {name: frame[name].to_numpy() for name in ("user", "item", "rating", "fold")}
    own: dict[str, list[float]] = {name: [] for name in MODELS}
    theirs: dict[str, list[float]] = {name: [] for name in MODELS}
    errors: dict[str, tuple[float, float]] = {}
    for _ in range(runs):
        surprise = run_surprise(peer, ratings, folder) if peer else {}
        for name, model in MODELS.items():
            seconds, error = figures(model, ratings)
            own[name].append(seconds)
            if peer:
                theirs[name].append(surprise[name][0])
            errors[name] = error, surprise[name][1] if peer else np.nan
    rows = []
    for name in MODELS:
        seconds = statistics.median(own[name])
        rows.append((f"{name}, MovieLens-100k", f"{FOLDS} folds, RMSE {errors[name][0]:.4f}", f"{seconds:.2f} s"))
        if peer:
            ratio = statistics.median(t / o for t, o in zip(theirs[name], own[name], strict=True))
            setting = f"RMSE {errors[name][1]:.4f}, {statistics.median(theirs[name]):.2f} s"
            rows.append(("  Surprise's, to ours", setting, f"{ratio:.1f}x"))
    return rows


def figures(model: Classical, ratings: dict[str, np.ndarray]) -> tuple[float, float]:
    """Seconds of making ratings, fitting and predicting, for all folds together, and the mean RMSE."""
    user, item, value, fold = (ratings[name] for name in ("user", "item", "rating", "fold"))
    seconds, errors = 0.0, []
    for n in range(FOLDS):
        train, test = fold != n, fold == n
        started = time.perf_counter()
        given = Ratings.from_events(
            user[train], item[train], value[train], users=user.max() + 1, items=item.max() + 1, scale=(1, 5)
        )
        score = model.fit(given).score(user[test], item[test])
        seconds += time.perf_counter() - started
        errors.append(np.sqrt(np.mean((score - value[test]) ** 2)))
    return seconds, float(np.mean(errors))


def run_surprise(python: Path, ratings: dict[str, np.ndarray], folder: Path) -> dict[str, np.ndarray]:
    """What benchmarks/surprise_folds.py says, in an environment of its own: seconds and RMSE by model."""
    source, target = folder / "folds.npz", folder / "surprise.npz"
    np.savez(source, **ratings)
    subprocess.run([python, Path(__file__).with_name("surprise_folds.py"), source, target], check=True)
    return dict(np.load(target))
