"""Models on equal terms: python scripts/compare.py data=ml100k models=[popularity,item_knn,svd,mf,deepfm] trials=20"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not scripts/, whose export.py would hide export/

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, ListConfig

from recsys.cli import launch, run_folder
from recsys.comparison import comparison_table, enter, verdict, write_files
from recsys.config import check
from recsys.run_files import show

OWN = ("models", "model", "search", "hydra.run.dir")


def compare(cfg: DictConfig) -> None:
    """Tune, train and test every model, then one table, one plot, one page and what may be said of them."""
    if not isinstance(cfg.models, ListConfig) or len({*cfg.models}) != len(cfg.models) or len(cfg.models) < 2:
        raise ValueError(f"`models` must list two models or more, each once, got {cfg.models}.")
    typed = [o for o in HydraConfig.get().overrides.task if o.partition("=")[0] not in OWN]
    searchpath = [o for o in HydraConfig.get().overrides.hydra if o.startswith("hydra.searchpath")]
    configs = {name: compose("tune", [*searchpath, *typed, f"model={name}"]) for name in cfg.models}
    for config in configs.values():
        check(config)
    entries = [enter(name, config, run_folder()) for name, config in configs.items()]
    page = write_files(entries, run_folder())
    show(comparison_table(entries), verdict(entries), f"report: {page}")


if __name__ == "__main__":
    launch("compare", compare)
