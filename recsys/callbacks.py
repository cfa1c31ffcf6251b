"""What every run shows, logs and carries: progress, a line per epoch, metrics.csv, the origin of its checkpoints."""

import csv
import json
import logging
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import RichProgressBar
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only

from recsys.data.module import DataModule
from recsys.files import whole_file

log = logging.getLogger(__name__)
CONFIG_KEY = "recsys_config"
DATA_KEY = "recsys_data"
ENCODERS_KEY = "recsys_encoders"


class Throughput(pl.Callback):
    """Counts the training rows of an epoch and logs one line when its validation is done."""

    def __init__(self) -> None:
        self.rows, self.started, self.seconds = 0, time.perf_counter(), 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Start counting."""
        self.rows, self.started = 0, time.perf_counter()

    on_train_start = on_train_epoch_start  # a resumed run starts inside an epoch

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,  # noqa: ARG002
        outputs: Any,  # noqa: ARG002
        batch: Any,
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """Count the rows of all processes."""
        self.rows += len(batch) * trainer.world_size
        self.seconds = time.perf_counter() - self.started

    @property
    def rows_per_second(self) -> float:
        """Training rows per second since the epoch began."""
        return self.rows / max(self.seconds, 1e-9)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Log the epoch's figures; without a validation before, asking for them is when all processes add them up."""
        shown = {n: v for n, v in trainer.callback_metrics.items() if n.startswith(("train/", "valid/"))}
        if not trainer.is_global_zero:
            return
        figures = "  ".join(f"{name} {float(value):.4f}" for name, value in shown.items())
        log.info("epoch %d  %s  %s rows/s", trainer.current_epoch, figures, f"{self.rows_per_second:,.0f}")


class Progress(RichProgressBar):
    """Lightning's rich progress bar with the training rows per second."""

    def __init__(self, throughput: Throughput) -> None:
        super().__init__()
        self._throughput = throughput

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """Lightning's figures, without the version number, and rows/s."""
        figures = {n: v for n, v in super().get_metrics(trainer, pl_module).items() if n != "v_num"}
        return figures | {"rows/s": f"{self._throughput.rows_per_second:,.0f}"}


class CarryOrigin(pl.Callback):
    """Writes the configuration, the encoders (a JSON text) and the state of the data into checkpoints.

    A text, for a vocabulary of a million keys takes seconds to unpickle one by one, at every reading.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self._encoders = ""

    def on_save_checkpoint(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,  # noqa: ARG002
        checkpoint: dict[str, Any],
    ) -> None:
        """Add them on the process that writes."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        if trainer.is_global_zero and isinstance(data, DataModule):
            self._encoders = self._encoders or json.dumps(data.store.encoders.to_dict())
            checkpoint |= {CONFIG_KEY: self.config, ENCODERS_KEY: self._encoders, DATA_KEY: data.state}


class MetricsLog(Logger):
    """metrics.csv: a row per logged group of metrics, with epoch and step; the file is whole at all times.

    A resumed run keeps the rows of the `steps` done before and writes the later ones anew.
    """

    name, version = "", "log"

    def __init__(self, path: Path, steps: int = 0) -> None:
        super().__init__()
        self.path, self.steps = path, steps
        self.rows: list[dict[str, Any]] = []
        if steps and path.exists():
            with path.open(encoding="utf-8", newline="") as file:
                self.rows = [row for row in csv.DictReader(file) if int(row["step"]) < steps]

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """They are in config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Add a row and write the file. Raises OSError naming it."""
        self.rows.append({**metrics, "step": step})
        names = sorted({name for row in self.rows for name in row})
        with whole_file(self.path) as draft, draft.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(self.rows)
