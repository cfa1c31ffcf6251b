"""Search for good settings on validation rows: python scripts/tune.py model=item_knn data=ml100k trials=30"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not scripts/, whose export.py would hide export/

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from recsys.cli import launch, run_folder
from recsys.config import check
from recsys.run_files import show
from recsys.tuning import best_settings, tune
from recsys.tuning_files import command, plot, study_table, write_experiment


def search(cfg: DictConfig) -> float:
    """Go on with the study in the output folder, or begin one; returns the best value of the watched metric."""
    hydra = HydraConfig.get()
    check(cfg, hydra.overrides.task)
    study, folder = tune(cfg, run_folder()), run_folder()
    plot(study, folder / "plots" / "study.png")
    path = write_experiment(folder, study, best_settings(study, cfg), hydra)
    show(study_table(study), f"experiment: {path}")
    show(command(path, hydra), markup=False)
    return study.best_value


if __name__ == "__main__":
    launch("tune", search)
