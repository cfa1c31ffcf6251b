"""Lightning callbacks of every run: progress, one log line per epoch, the configuration inside checkpoints."""

import logging
import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import RichProgressBar

log = logging.getLogger(__name__)
CONFIG_KEY = "recsys_config"


class Throughput(pl.Callback):
    """Counts the training rows of an epoch and logs one line when its validation is done."""

    def __init__(self) -> None:
        self.rows, self.started, self.seconds = 0, time.perf_counter(), 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Start counting."""
        self.rows, self.started = 0, time.perf_counter()

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
        """Log the epoch's figures."""
        if not trainer.is_global_zero:
            return
        shown = {n: v for n, v in trainer.callback_metrics.items() if n.startswith(("train/", "valid/"))}
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


class CarryConfig(pl.Callback):
    """Writes the resolved configuration (plain values) into every checkpoint."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config

    def on_save_checkpoint(
        self,
        trainer: pl.Trainer,  # noqa: ARG002
        pl_module: pl.LightningModule,  # noqa: ARG002
        checkpoint: dict[str, Any],
    ) -> None:
        """Add the configuration."""
        checkpoint[CONFIG_KEY] = self.config
