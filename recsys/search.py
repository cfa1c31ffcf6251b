"""What a search may try: a range or some choices for each option, declared in configs/search/<model>.yaml."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from omegaconf import DictConfig, OmegaConf

from recsys.declare import declare

FIXED = ("data", "evaluation", "seed", "seeds")  # what all trials must share to be compared


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Numbers from `low` to `high`, whole ones where both are whole; `log`: every factor is as likely as another."""

    low: int | float
    high: int | float
    log: bool = False

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"`low` must be below `high`, got {self.low} and {self.high}.")
        if self.log and self.low <= 0:
            raise ValueError(f"`log` needs a positive `low`, got {self.low}.")

    def suggest(self, trial: optuna.Trial, name: str) -> Any:
        """The value that the trial is to try."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(name, self.low, self.high, log=self.log)
        return trial.suggest_float(name, self.low, self.high, log=self.log)

    def stored(self, value: Any) -> Any:
        """How a study keeps a value; None where it lies outside."""
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return value if number and self.low <= value <= self.high else None

    def read(self, stored: Any) -> Any:
        """The value that a study keeps so."""
        return stored


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One of some values, texts, numbers or lists."""

    choices: tuple[Any, ...]

    def __post_init__(self) -> None:
        if len(self.choices) < 2:
            raise ValueError(f"`choices` must be two at least, got {list(self.choices)}.")

    def suggest(self, trial: optuna.Trial, name: str) -> Any:
        """The value that the trial is to try."""
        return self.read(trial.suggest_categorical(name, [json.dumps(choice) for choice in self.choices]))

    def stored(self, value: Any) -> Any:
        """How a study keeps a value (as JSON, for it takes no lists); None where it is no choice."""
        return json.dumps(value) if value in self.choices else None

    def read(self, stored: Any) -> Any:
        """The value that a study keeps so."""
        return json.loads(stored)


Space = dict[str, Range | Choice]


def read_space(declared: Mapping[str, Any], cfg: DictConfig, where: str = "") -> Space:
    """What to try for each option, by dotted name.

    Raises ValueError where an option is not in `cfg`, where trials would differ in their data, or where it is neither
    a range nor choices.
    """
    space: Space = {}
    for key, value in declared.items():
        name = f"{where}.{key}".lstrip(".")
        if name in FIXED:
            raise ValueError(f"`search.{name}`: trials must share their data and seed; search other options.")
        if OmegaConf.select(cfg, name, default=value) is value:
            raise ValueError(f"`search.{name}`: there is no option `{name}` to search.")
        if not isinstance(value, Mapping):
            raise ValueError(f"`search.{name}` must say low and high, or choices, got {value!r}.")
        if value.keys() & {"low", "high"}:
            space[name] = declare(Range, value, f"search.{name}")
        elif "choices" in value:
            space[name] = declare(Choice, value, f"search.{name}")
        else:
            space |= read_space(value, cfg, name)
    return space


def changed(cfg: DictConfig, values: Mapping[str, Any]) -> DictConfig:
    """The configuration with other values of some options, by dotted name."""
    cfg = cfg.copy()
    for name, value in values.items():
        OmegaConf.update(cfg, name, value)
    return cfg
