"""Every deep model in all of its kinds, and every optimizer, for the tests of what runs on a GPU."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf

from recsys.models.base import Recommender
from recsys.optimizers import RowWise

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
TARGETS = {path.stem: OmegaConf.load(path)["_target_"] for path in (CONFIGS / "model").glob("*.yaml")}
MODELS = sorted(name for name, target in TARGETS.items() if issubclass(get_class(target), Recommender))
Rule = tuple[Callable[..., torch.optim.Optimizer], bool, float | None]
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "ncf": [{"branch": "gmf"}, {"branch": "mlp", "dropout": 0.3}],
    "deepfm": [{"batch_norm": True, "dropout": 0.3}, {"history": True}],
    "din": [{"activation": "prelu", "minibatch_aware_l2": 0.1}, {"activation": "relu", "softmax": True}],
}
CASES = [(name, options) for name in MODELS for options in ({}, *VARIANTS.get(name, ()))]
NAMES = [f"{name}-{options}" if options else name for name, options in CASES]
RULES: dict[str, Rule] = {
    "adam": (torch.optim.Adam, False, None),
    "adamw": (functools.partial(torch.optim.AdamW, weight_decay=0.1), False, 0.2),
    "adagrad": (torch.optim.Adagrad, False, None),
    "sgd": (functools.partial(torch.optim.SGD, lr=0.1), False, None),
    "rowwise": (functools.partial(RowWise, weight_decay=0.1), True, 0.2),
    "lazy": (functools.partial(RowWise, table_rule="adam"), True, 0.2),
}


@pytest.fixture(params=CASES, ids=NAMES)
def build(request: pytest.FixtureRequest) -> Callable[..., Recommender]:
    """Build one model from its yaml."""
    name, options = request.param

    def make(schema: Any, **more: object) -> Recommender:
        config = {**OmegaConf.load(CONFIGS / "model" / f"{name}.yaml"), **options, **more}
        model = instantiate(config, schema=schema, _convert_="all")
        model.trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
        model.log = lambda *_, **__: None
        return model

    return make


@pytest.fixture(params=RULES.values(), ids=RULES.keys())
def rule(request: pytest.FixtureRequest) -> Rule:
    """What makes an optimizer, whether tables need sparse gradients for it, and a weight decay of their own."""
    return request.param
