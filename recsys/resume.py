"""Which run to resume, where it goes on, and what is refused because it would not go on as if it had never stopped."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from recsys.callbacks import DATA_KEY
from recsys.checkpoints import LAST, PLACE_KEY, REFIT
from recsys.config import resolve
from recsys.data.module import DataModule
from recsys.declare import differences, listed
from recsys.models.base import Recommender, read_checkpoint
from recsys.schema import FeatureSchema, schema_difference

log = logging.getLogger(__name__)
FREE = ("resume", "workers", "cache", "export", "save_every", "prepare", "on_device")  # options that change no result


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumption:
    """A checkpoint to go on from: its place in the data, the optimizer's steps done before, its schema and data."""

    checkpoint: Path
    start: tuple[int, int]
    steps: int
    schema: FeatureSchema
    data: dict[str, Any]

    @property
    def folder(self) -> Path:
        """The run's folder, in which it goes on."""
        return self.checkpoint.parents[1]


def find_resumption(cfg: DictConfig, folder: Path) -> Resumption | None:
    """What `resume` asks for: nothing; the newest unfinished run beside `folder` with this configuration; or a path.

    Raises FileNotFoundError, or ValueError that says why the run cannot be resumed.
    """
    if not cfg.resume:
        return None
    path = _newest(cfg, folder) if cfg.resume is True else Path(cfg.resume)
    content = read_checkpoint(path)
    path = path.resolve()
    if PLACE_KEY not in content or path.name == REFIT or not (path.parents[1] / "config.yaml").is_file():
        raise ValueError(f"`resume` needs the checkpoints/last.ckpt inside a run's folder, got {str(path)!r}.")
    if _finished(path.parents[1]):
        raise ValueError(f"there is nothing to resume: the run {path.parents[1]} is finished.")
    if cfg.trainer.get("max_steps", -1) != -1:
        raise ValueError("a run with `trainer.max_steps` cannot be resumed; count its length by `trainer.max_epochs`.")
    if different := _differences(path.parents[1], cfg):
        raise ValueError(f"{path} was trained with another configuration ({different}); resume it with its own.")
    return _resumption(path, content)


def find_refit(folder: Path) -> Resumption | None:
    """Where the second training (`refit`) of the run in `folder` goes on; None where it has not begun."""
    path = folder / "checkpoints" / REFIT
    return _resumption(path, read_checkpoint(path)) if path.is_file() else None


def _resumption(path: Path, content: Mapping[str, Any]) -> Resumption:
    place = content[PLACE_KEY]
    return Resumption(
        checkpoint=path,
        start=(place["epoch"], place["batch"]),
        steps=content["global_step"],
        schema=FeatureSchema.parse(content["hyper_parameters"]["schema"]),
        data=content[DATA_KEY],
    )


def check_resumable(resumption: Resumption, model: Recommender, data: DataModule) -> None:
    """Raises ValueError naming what changed in the schema or in the data since the checkpoint was written."""
    there, here = resumption.data, data.state
    different = schema_difference(resumption.schema, model.schema)
    if not different and there != here:
        events = differences(there["events"], here["events"])
        different = in_words(events) if events else "as many events, but not the same"
    if different:
        raise ValueError(
            f"{resumption.checkpoint} was trained on other data ({different}); restore the tables, or train anew."
        )


def _newest(cfg: DictConfig, folder: Path) -> Path:
    """The last.ckpt of the newest unfinished run beside `folder` (or in it) whose configuration is this one's."""
    found = [p for p in folder.parent.glob(f"*/checkpoints/{LAST}") if (p.parents[1] / "config.yaml").is_file()]
    found.sort(key=lambda p: p.stat().st_mtime, reverse=True)
    reason = "no run there has a checkpoints/last.ckpt."
    for place, path in enumerate(found):
        run = path.parents[1]
        different = _differences(run, cfg)
        if not different and not _finished(run):
            return path
        if place == 0:
            reason = f"the newest run, {run}, is finished." if _finished(run) else f"{run} differs ({different})."
    raise ValueError(f"there is nothing to resume in {folder.parent}: {reason}")


def _finished(run: Path) -> bool:
    """Whether the run wrote report.html, its last file, and not for an interruption."""
    path = run / "metrics.json"
    whole = path.is_file() and (run / "report.html").is_file()
    return whole and "interrupted" not in json.loads(path.read_text(encoding="utf-8"))


def _differences(run: Path, cfg: DictConfig) -> str:
    """The options that differ from the run's and matter, in words; the model's first."""
    there: Any = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"))
    found = config_differences(there, cfg)
    return in_words(dict(sorted(found.items(), key=lambda entry: not entry[0].startswith("model."))))


def config_differences(there: Mapping[str, Any], cfg: DictConfig, *free: str) -> dict[str, tuple[Any, Any]]:
    """The options that differ from those of an earlier run, resolved, and change a result: (there, here) by name.

    Paths inside the cache differ along with it and change none. `free` options do not count either.
    """
    here = resolve(OmegaConf.merge(cfg, {"cache": there["cache"]}))  # type: ignore[arg-type]
    return differences(*({k: v for k, v in config.items() if k not in (*FREE, *free)} for config in (there, here)))


def in_words(found: Mapping[str, tuple[Any, Any]]) -> str:
    """Differences for a message."""
    return listed([f"`{name}`: {there} there, {here} here" for name, (there, here) in found.items()])
