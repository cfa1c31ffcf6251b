"""Train, evaluate and export a recommender: python scripts/train.py model=deepfm data=shop"""

import logging
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not scripts/, whose export.py would hide export/

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from export.artifact import Served, facts_of_run, summary, write_artifact
from export.places import NoGraph
from export.rows import RawRows
from recsys.cli import Job, launch, run_folder
from recsys.config import check
from recsys.data.module import DataModule
from recsys.report import read_run, sweep_table
from recsys.run_files import Trained, console, show
from recsys.training import train, train_seeds

log = logging.getLogger(__name__)


def main(cfg: DictConfig) -> float:
    """One run, or one per seed; returns the best value of the watched validation metric."""
    check(cfg, HydraConfig.get().overrides.task)

    def finish(model: Trained, data: DataModule, folder: Path) -> None:
        if not cfg.export:
            return
        served = Served(model=model, encoders=data.store.encoders)
        try:
            facts = facts_of_run(data, model, folder)
            content = write_artifact(served, RawRows.read(data), folder / "bundle", manifest=facts)
        except NoGraph as error:  # the model is trained all the same
            log.warning("no bundle: %s", error)
        else:
            show(summary(folder / "bundle", content))

    return (train if cfg.seeds == 1 else train_seeds)(cfg, run_folder(), finish)


def lay_side_by_side(jobs: list[Job]) -> None:
    """One table of the runs of a multirun."""
    console.print(sweep_table([(overrides, read_run(folder).metrics) for overrides, folder in jobs]))


if __name__ == "__main__":
    launch("train", main, lay_side_by_side)
