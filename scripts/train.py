"""Train, evaluate and export a recommender: python scripts/train.py model=deepfm data=shop"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not scripts/, whose export.py would hide export/

from omegaconf import DictConfig

from export.graph import export_graph
from recsys.cli import launch, run_folder
from recsys.config import check
from recsys.models.base import Recommender
from recsys.training import console, train, train_seeds


def main(cfg: DictConfig) -> float:
    """One run, or one per seed; returns the best value of the watched validation metric."""
    check(cfg)

    def finish(model: Recommender, folder: Path) -> None:
        if cfg.export:
            difference = export_graph(model, folder / "model.onnx")
            size = (folder / "model.onnx").stat().st_size / 2**20
            console.print(f"model.onnx: {size:.1f} MiB, within {difference:.1e} of the model's scores")

    return (train if cfg.seeds == 1 else train_seeds)(cfg, run_folder(), finish)


if __name__ == "__main__":
    launch("train", main)
