"""Surprise's models on given folds, as its manual does; runs in an environment of its own (.venv-peers).

python benchmarks/surprise_folds.py folds.npz result.npz
"""

import sys
import time

import numpy as np
from surprise import NMF, SVD, AlgoBase, Dataset, KNNBaseline, KNNBasic, Reader

MODELS = {
    "item_knn": lambda: KNNBaseline(sim_options={"name": "pearson_baseline", "user_based": False}, verbose=False),
    "user_knn": lambda: KNNBasic(sim_options={"name": "pearson", "user_based": True}, verbose=False),
    "svd": lambda: SVD(random_state=0),
    "nmf": lambda: NMF(random_state=0),
}


def main(source: str, target: str) -> None:
    """Write each model's seconds, for all folds together, and its RMSE, the mean of the folds'."""
    ratings, found = dict(np.load(source)), {}
    for name, make in MODELS.items():
        seconds, errors = zip(*(fold_figures(make(), ratings, fold) for fold in range(5)), strict=True)
        found[name] = [sum(seconds), np.mean(errors)]
    np.savez(target, **found)


def fold_figures(model: AlgoBase, ratings: dict[str, np.ndarray], fold: int) -> tuple[float, float]:
    """Seconds of `fit` and `test`, and RMSE; what makes its sets of the rows is not counted."""
    rows = list(zip(*(ratings[name].tolist() for name in ("user", "item", "rating", "fold")), strict=True))
    train = [(user, item, rating, None) for user, item, rating, at in rows if at != fold]
    test = [(user, item, rating) for user, item, rating, at in rows if at == fold]
    trainset = Dataset(Reader(rating_scale=(1, 5))).construct_trainset(train)
    started = time.perf_counter()
    predictions = model.fit(trainset).test(test)
    seconds = time.perf_counter() - started
    return seconds, float(np.sqrt(np.mean([(p.est - p.r_ui) ** 2 for p in predictions])))


if __name__ == "__main__":
    main(*sys.argv[1:])
