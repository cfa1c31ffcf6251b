"""From a configuration to objects: data module, model, trainer."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import ConfigKeyError
from pytorch_lightning.callbacks import EarlyStopping, LearningRateMonitor
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from recsys.callbacks import CONFIG_KEY, DATA_KEY, CarryOrigin, MetricsLog, Progress, Throughput
from recsys.checkpoints import (
    BEST,
    LAST,
    REFIT,
    SELECTED,
    BestCheckpoint,
    LastCheckpoint,
    RefitCheckpoint,
    WholeCheckpoints,
)
from recsys.classical.base import Classical
from recsys.classical.fitted import Fitted, learns_from_likes
from recsys.data.module import DataModule, DataSpec
from recsys.declare import nearest
from recsys.evaluation import Evaluation, cut_offs, monitor_of
from recsys.models.base import CLASS_KEY, THRESHOLD_KEY, Recommender, class_named, load_model, read_checkpoint
from recsys.optimizers import TABLES
from recsys.schema import FeatureSchema, schema_difference

USER_ERRORS = (ValueError, OSError, MisconfigurationException)
ONLY_DEEP = (
    *("resume", "pretrained", "objective", "optimizer", "embedding_weight_decay", "schedule", "warmup", "patience"),
    *("batch_size", "workers", "shuffle_block", "on_device", "save_every", "trainer", "compile"),
)  # options of gradient descent
LARGEST_SEED = 2**32 - 1


def resolve(cfg: DictConfig) -> dict[str, Any]:
    """The configuration as plain, fully resolved values."""
    return OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)  # type: ignore[return-value]


def carried(cfg: DictConfig) -> dict[str, Any]:
    """The configuration as checkpoints carry it: resolved, but for `cache` and `data`, which stay as declared.

    So the paths of tables follow `${cache}`, `${data.root}` and the environment of whoever opens the checkpoint.
    """
    declared: Any = OmegaConf.to_container(cfg, resolve=False)
    return resolve(cfg) | {name: declared[name] for name in ("cache", "data")}


def check_paths(cfg: DictConfig, *names: str) -> None:
    """Raise ValueError where one of these options holds neither a path nor null."""
    for name in names:
        if not isinstance(cfg[name], str | None):
            raise ValueError(f"`{name}` must be a path, got {cfg[name]!r}.")


def build_data(cfg: DictConfig) -> DataModule:
    """The data module of `cfg.data`; nothing is read yet."""
    declared = resolve(cfg.data)
    generate = declared.pop("generate", None)
    declared.pop("root", None)  # a name for the paths of the same file
    return DataModule(
        DataSpec.parse(declared),
        cache=cfg.cache,
        batch_size=cfg.batch_size,
        eval_batch_size=cfg.evaluation.batch_size,
        ranking=cfg.evaluation.ranking,
        candidates=cfg.evaluation.candidates,
        workers=cfg.workers,
        shuffle_block=cfg.shuffle_block,
        prepare=cfg.prepare,
        on_device=cfg.on_device,
        seed=cfg.seed,
        generate=_make(generate, "data.generate", _partial_=True) if generate else None,
    )


def build_model(cfg: DictConfig, schema: FeatureSchema) -> Recommender:
    """The model of `cfg.model` with the objective, optimizer and schedule of the configuration."""
    return _make(resolve(cfg.model), "model", schema=schema, **training_of(cfg))


def is_classical(cfg: DictConfig) -> bool:
    """Whether the configured model is fitted in one go, without gradient descent."""
    try:
        found = class_named(str(cfg.model.get("_target_")))
    except (ImportError, ValueError):
        return False
    return isinstance(found, type) and issubclass(found, Classical)


def build_classical(cfg: DictConfig) -> Classical:
    """The classical model of `cfg.model`, which has learned nothing yet."""
    return _make(resolve(cfg.model), "model")


def training_of(cfg: DictConfig) -> dict[str, Any]:
    """How the configuration trains its model, as `Recommender.set_training` takes it."""
    return {
        "objective": _make(resolve(cfg.objective), "objective") if "objective" in cfg else None,
        "optimizer": _make(resolve(cfg.optimizer), "optimizer", _partial_=True),
        "embedding_weight_decay": cfg.embedding_weight_decay,
        "schedule": cfg.schedule,
        "warmup": cfg.warmup,
    }


def build_trainer(
    cfg: DictConfig, kind: str, folder: Path | None = None, steps: int = 0, refit_epochs: int | None = None
) -> pl.Trainer:
    """The trainer of `cfg.trainer`, with the evaluation of labels of `kind`.

    With a `folder` it writes checkpoints and logs there and stops early; without one it only evaluates, on one
    device, and writes nothing. `steps` of the optimizer were done before, in a run that is resumed. With
    `refit_epochs` it trains a second time, for so many epochs of those in `cfg.trainer`, without validation.
    """
    throughput = Throughput()
    callbacks: list[pl.Callback] = [Evaluation(cfg.evaluation.k), throughput]
    if sys.stdout.isatty():
        callbacks.append(Progress(throughput))
    options = {**resolve(cfg.trainer), "enable_progress_bar": sys.stdout.isatty(), "enable_model_summary": False}
    if folder is None:
        options |= {"devices": 1, "num_nodes": 1, "strategy": "auto"}
        return _make(options, "trainer", callbacks=callbacks, logger=False, enable_checkpointing=False)
    checkpoints, loggers = folder / "checkpoints", _loggers(folder, "refit" if refit_epochs else "metrics", steps)
    callbacks += [LearningRateMonitor("epoch"), CarryOrigin(carried(cfg))]
    if refit_epochs:
        options |= {"limit_val_batches": 0, "min_epochs": None, "min_steps": None}
        callbacks += [
            RefitCheckpoint(checkpoints / BEST, refit_epochs),
            LastCheckpoint(checkpoints / REFIT, cfg.save_every),
        ]
    else:
        monitor, mode = build_monitor(cfg, kind)
        if cfg.patience is not None:
            callbacks.append(EarlyStopping(monitor, mode=mode, patience=cfg.patience))
        callbacks.append(BestCheckpoint(checkpoints / (SELECTED if cfg.refit else BEST), monitor, mode))
        callbacks.append(LastCheckpoint(checkpoints / LAST, cfg.save_every))
    return _make(options, "trainer", callbacks=callbacks, logger=loggers, plugins=[WholeCheckpoints()])


def build_monitor(cfg: DictConfig, kind: str) -> tuple[str, str]:
    """The logged metric that early stopping and the best checkpoint watch, and "min" or "max"."""
    return monitor_of(kind, cfg.evaluation.monitor, cfg.evaluation.k, cfg.evaluation.candidates)


def _loggers(folder: Path, name: str, steps: int) -> list[Logger]:
    """A CSV log, and TensorBoard's where it is installed."""
    loggers: list[Logger] = [MetricsLog(folder / "log" / f"{name}.csv", steps)]
    if importlib.util.find_spec("tensorboard"):
        from pytorch_lightning.loggers import TensorBoardLogger

        loggers.append(TensorBoardLogger(folder / "tensorboard", name="", version=name))
    return loggers


def _make(options: dict[str, Any], group: str, **extra: Any) -> Any:
    """Hydra's instantiate; a failure becomes a ValueError that names the group and the cause."""
    try:
        return instantiate(options, **extra, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__ or error
        if not isinstance(cause, (*USER_ERRORS, TypeError, InstantiationException)):
            raise
        raise ValueError(f"`{group}`: {cause}") from cause


def check(cfg: DictConfig, typed: Sequence[str] = ()) -> None:
    """Build everything once on an empty schema, so that a wrong option is refused before any data is read.

    `typed` holds the overrides of the command line, of which those that a model has no use for are refused too.
    """
    _check_seed(cfg)
    if is_classical(cfg):
        _check_classical(cfg, typed)
        return
    data = build_data(cfg)
    schema = data.spec.schema
    with torch.device("meta"):
        model = build_model(cfg, schema)
    if data.batch_size == 1 and schema.label.kind != "implicit" and _has_batch_norm(model):
        raise ValueError("`batch_size` must be at least 2 where `model.batch_norm` compares a batch's rows, got 1.")
    _check_optimizer(cfg, model)
    trainer = build_trainer(cfg, schema.label.kind)
    if cfg.compile and trainer.strategy.root_device.type == "cpu":
        _check_compiler()
    build_monitor(cfg, schema.label.kind)
    if trainer.check_val_every_n_epoch is None:
        raise ValueError(
            "`trainer.check_val_every_n_epoch` must be an integer: a run whose validations are counted across epochs "
            "does not resume exactly; give `trainer.val_check_interval` alone, as a share of an epoch such as 0.5."
        )
    if cfg.patience is not None and cfg.patience < 1:
        raise ValueError(f"`patience` must be at least 1 (epochs), or null to never stop early, got {cfg.patience}.")
    if cfg.refit and (cfg.trainer.get("max_steps", -1) != -1 or cfg.trainer.get("max_time")):
        raise ValueError(
            "`refit` trains again for as many epochs as the best ones; give the length of training by "
            "`trainer.max_epochs` alone, without `trainer.max_steps` and `trainer.max_time`."
        )
    _check_pretrained(cfg)
    if cfg.seeds < 1:
        raise ValueError(f"`seeds` must be at least 1 (runs), got {cfg.seeds}.")
    shared = cfg.trainer.get("strategy", "auto") != "auto"
    if cfg.seeds > 1 and (cfg.resume or shared):
        raise ValueError(
            "`seeds` repeats new runs in one process; resume a single run by its checkpoint, and start "
            "several processes once per seed: -m seed=0,1,2."
        )
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes > 1 and not shared and cfg.trainer.get("devices") == 1:
        raise ValueError(
            f"`trainer` is for one process and {processes} were started, each of which would train alone; take "
            "trainer=ddp or trainer=sharded, or start it without torchrun."
        )
    if cfg.trainer.get("fast_dev_run"):
        raise ValueError(
            "`trainer.fast_dev_run` writes no checkpoint, and there is none to test; leave it out, and for a short run "
            "give trainer.max_epochs=1 +trainer.limit_train_batches=10."
        )
    if cfg.trainer.max_epochs == 0:
        raise ValueError("`trainer.max_epochs` must be at least 1, or -1 to train until `patience` ends it, got 0.")
    if not isinstance(cfg.save_every, int) or cfg.save_every < 1:
        raise ValueError(f"`save_every` must be an integer of at least 1 (steps), got {cfg.save_every}.")
    if not isinstance(cfg.resume, bool | str | None):
        raise ValueError(f"`resume` must be true, a checkpoint's path or null, got {cfg.resume!r}.")


def _check_seed(cfg: DictConfig) -> None:
    """Random generators take no other numbers."""
    for name in ("seed", "model.seed"):
        seed = OmegaConf.select(cfg, name, default=0)
        if not isinstance(seed, int) or not 0 <= seed <= LARGEST_SEED:
            raise ValueError(f"`{name}` must be an integer from 0 to {LARGEST_SEED}, got {seed!r}.")


def _check_classical(cfg: DictConfig, typed: Sequence[str]) -> None:
    model = build_classical(cfg)
    for override in typed:
        name, _, value = override.partition("=")
        unused = _option(override).partition(".")[0] in ONLY_DEEP and value.lower() not in ("null", "none", "false")
        if unused and (name, value) not in (("trainer", "cpu"), ("trainer", "auto")):
            raise ValueError(
                f"{type(model).__name__} is fitted in one go on the CPU and has no use for `{override}`; leave it out."
            )
    label = build_data(cfg).spec.schema.label
    learns_from_likes(model, label)
    build_monitor(cfg, label.kind)
    cut_offs(cfg.evaluation.k)
    if cfg.seeds < 1:
        raise ValueError(f"`seeds` must be at least 1 (runs), got {cfg.seeds}.")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(f"{type(model).__name__} is fitted in one process; start it without torchrun.")


def _option(override: str) -> str:
    """The dotted name that an override of the command line sets.

    >>> _option("+trainer.max_steps=3"), _option("~tuned"), _option("model@x=svd")
    ('trainer.max_steps', 'tuned', 'model')
    """
    return override.lstrip("+~").partition("=")[0].partition("@")[0]


def _check_pretrained(cfg: DictConfig) -> None:
    if cfg.pretrained is not None and not isinstance(cfg.pretrained, ListConfig):
        raise ValueError(
            "`pretrained` must be a list of two checkpoints such as [gmf/checkpoints/best.ckpt,mlp/checkpoints/"
            f"best.ckpt], got {cfg.pretrained!r}."
        )
    for path in cfg.pretrained or ():
        if read_checkpoint(path).get(THRESHOLD_KEY) is not None:
            raise ValueError(
                f"`pretrained`: {path} has learned the validation rows (`refit`), by which this model is to be judged; "
                f"give the {SELECTED} beside it."
            )


def _has_batch_norm(model: Recommender) -> bool:
    return any(isinstance(module, torch.nn.BatchNorm1d) for module in model.modules())


def _check_optimizer(cfg: DictConfig, model: Recommender) -> None:
    """Take one step on a single weight, with a sparse gradient if the model's will be sparse."""
    weight = torch.nn.Parameter(torch.zeros(2, 1))
    sparse = bool(cfg.model.get("sparse", False))
    weight.grad = torch.zeros(2, 1).to_sparse(1) if sparse else torch.zeros(2, 1)
    group = {"params": [weight]} | ({TABLES: True} if sparse else {})
    try:
        model.optimizer([group]).step()
    except (TypeError, RuntimeError, ValueError) as error:
        hint = "; model.sparse=true needs one that takes sparse gradients, such as optimizer=rowwise" if sparse else ""
        raise ValueError(f"`optimizer`: {error}{hint}") from None


def _check_compiler() -> None:
    """Ask the C++ compiler that torch.compile will take for its version."""
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    try:
        subprocess.run([compiler, "--version"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        raise ValueError(
            f"`compile` needs a C++ compiler, and {compiler!r} does not run; install g++ (Debian: apt-get install g++; "
            "macOS: xcode-select --install), name another by the environment variable CXX, or set compile=false."
        ) from None


def checkpoint_config(path: str | Path, moved: DictConfig | None = None) -> DictConfig:
    """The configuration that a checkpoint was trained with; options that are younger than it have today's defaults.

    `moved` holds the `cache` and the options of `data` that are others by now, and null for all that are not.

    Raises FileNotFoundError, or ValueError when the file holds none, or none of the options that `moved` gives.
    """
    content = read_checkpoint(path)
    if CONFIG_KEY not in content:
        raise ValueError(f"{str(path)!r} holds no configuration; it was not written by scripts/train.py.")
    today: Any = OmegaConf.load(Path(__file__).resolve().parents[1] / "configs" / "train.yaml")
    defaults = OmegaConf.masked_copy(today, [key for key in today if key not in ("defaults", "hydra")])
    trained: Any = OmegaConf.merge(defaults, content[CONFIG_KEY])
    if moved is None:
        return trained
    OmegaConf.set_struct(trained, True)
    try:
        trained.merge_with(_given({name: moved[name] for name in ("cache", "data")}))
    except ConfigKeyError as error:
        options: Any = error.parent_node
        raise ValueError(f"{path} was trained without `{error.full_key}`: {nearest(str(error.key), options)}") from None
    OmegaConf.set_struct(trained, False)
    return trained


def _given(options: Any) -> Any:
    """The options that are not null.

    >>> _given({"root": None, "tables": {"behaviour": {"path": "a.csv"}, "items": {"path": None}}})
    {'tables': {'behaviour': {'path': 'a.csv'}}}
    """
    if not isinstance(options, Mapping | DictConfig):
        return options
    found = {key: _given(value) for key, value in options.items()}
    return {key: value for key, value in found.items() if value is not None and value != {}}


def load(checkpoint: str | Path) -> Recommender | Fitted:
    """The model of a checkpoint, deep (in evaluation mode on the CPU) or classical.

    Raises FileNotFoundError, or ValueError when the file holds neither.
    """
    content = read_checkpoint(checkpoint)
    found = class_named(content[CLASS_KEY])
    if isinstance(found, type) and issubclass(found, Classical):
        return Fitted.restore(found, content)
    return load_model(checkpoint)


def reopen(checkpoint: str | Path, cfg: DictConfig) -> tuple[DataModule, Recommender | Fitted]:
    """The data of the configuration that a checkpoint was trained with, opened, and its model.

    Raises FileNotFoundError when a table is not there, and ValueError when the tables hold another schema by now, or,
    for a classical model, which knows users and items by their positions, when they hold anything else.
    """
    data, model = build_data(cfg), load(checkpoint)
    try:
        data.prepare_data()
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error} If tables have moved since the training, give data.root=... or data.tables.<table>.path=..."
        ) from None
    data.setup()
    if different := schema_difference(model.schema, data.schema):
        raise ValueError(
            f"{checkpoint} was trained on other data than {data.spec.name!r} holds ({different}); "
            "train again, or restore the tables."
        )
    if isinstance(model, Fitted) and read_checkpoint(checkpoint)[DATA_KEY] != data.state:
        raise ValueError(
            f"{checkpoint} was fitted on other rows than {data.spec.name!r} holds; train again, or restore the tables."
        )
    return data, model
