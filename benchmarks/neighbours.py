"""Time and memory of neighbours among 100 thousand items from 20 million interactions, in a process of its own."""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from recsys.classical.knn import ItemKNN
from recsys.classical.ratings import Ratings

EVENTS, USERS, ITEMS, K = 20_000_000, 1_000_000, 100_000, 100
Row = tuple[str, str, str]


def measure_neighbours() -> list[Row]:
    """Seconds of a fit, and the peak memory of a child process with everything in it."""
    root = Path(__file__).resolve().parents[1]
    command = [sys.executable, "-m", "benchmarks.neighbours"]
    found = json.loads(subprocess.run(command, cwd=root, check=True, stdout=subprocess.PIPE).stdout)
    setting = f"{EVENTS:,} interactions, {USERS:,} users, {ITEMS:,} items, {K} neighbours"
    return [
        ("fit item_knn", setting, f"{found['seconds']:.0f} s"),
        ("  memory of the process", f"at most; {found['pairs']:,} distinct pairs", f"{found['peak'] / 2**30:.2f} GiB"),
    ]


def fit(events: int = EVENTS, users: int = USERS, items: int = ITEMS) -> dict[str, float]:
    """Fit on users drawn evenly and items drawn by a power law, n = floor(items * u^2)."""
    rng = np.random.default_rng(0)
    user_E = rng.integers(0, users, events, dtype="int32")
    item_E = (items * rng.random(events, dtype="float32") ** 2).astype("int32")
    started = time.perf_counter()
    ratings = Ratings.from_events(user_E, item_E, users=users, items=items)
    ItemKNN(k=K).fit(ratings)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": seconds, "peak": peak, "pairs": len(ratings.user_N)}


if __name__ == "__main__":
    print(json.dumps(fit()))  # noqa: T201 - read by the parent
