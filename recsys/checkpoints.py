"""Checkpoints from which a run goes on exactly: whole, inside an epoch too, and when a signal ends the run."""

import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.trainer.states import TrainerFn

from recsys.files import whole_file

PLACE_KEY = "recsys_place"
BEST, SELECTED, LAST, REFIT = "best.ckpt", "selected.ckpt", "last.ckpt", "refit.ckpt"  # inside checkpoints/
SIGNALS = (signal.SIGINT, signal.SIGTERM)
ASK_EVERY = 16  # steps, or batches of a validation, after which several processes agree on whether to stop


class Interrupted(Exception):
    """A signal ended the training at the end of a step; `checkpoint` is where it goes on, if one was written."""

    def __init__(self, number: signal.Signals, checkpoint: Path) -> None:
        go_on = f"go on with resume={checkpoint}" if checkpoint.exists() else "no checkpoint was written yet"
        super().__init__(f"interrupted by {number.name}; {go_on}")
        self.number = number


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it, so that a full disk or a kill leaves the earlier one."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:  # noqa: ARG002
        """Raises OSError naming the file."""
        with whole_file(Path(path)) as draft, draft.open("wb") as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:  # torch hides the system's error behind its own
                raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None


class BestCheckpoint(ModelCheckpoint):
    """The epoch with the best value of the watched metric; a resumed run may lie in another place."""

    def __init__(self, path: Path, monitor: str, mode: str) -> None:
        super().__init__(path.parent, path.stem, monitor, mode=mode, enable_version_counter=False)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the best value. Raises FileNotFoundError when the checkpoint did not come along."""
        score = state_dict["best_model_score"]
        place: dict[str, Any] = {"dirpath": self.dirpath}
        if score is not None:
            path = self.format_checkpoint_name({})
            if not Path(path).is_file():
                raise FileNotFoundError(f"there is no checkpoint {path!r}, the best one of the run to resume.")
            place |= {"best_model_path": path, "kth_best_model_path": path, "best_k_models": {path: score}}
        super().load_state_dict(state_dict | place)


class RefitCheckpoint(Checkpoint):
    """The model after `epochs` epochs, with which training ends, however many its learning rate is planned for."""

    def __init__(self, path: Path, epochs: int) -> None:
        self.path, self.epochs = path, epochs

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Save and stop after the last epoch."""
        if trainer.current_epoch + 1 == self.epochs:
            trainer.should_stop = True
            trainer.save_checkpoint(self.path)


class LastCheckpoint(Checkpoint):
    """last.ckpt (or refit.ckpt beside it), from which training goes on as if it had never stopped.

    It is written every `every` optimizer steps, one step before a validation begins, and at every epoch's end, and
    carries, besides what Lightning saves, the place in the data (epoch and batch), whether training was to stop early,
    and every process's random state. SIGINT and SIGTERM end the training by `Interrupted`, after the current step and
    a save; during a validation after its current batch, for then all but one step is saved already. Several processes
    agree on it every few steps and wherever they save. A second signal ends the process at once.
    """

    def __init__(self, path: Path, every: int) -> None:
        self.path, self.every = path, every
        self._saved = 0
        self._place: dict[str, Any] | None = None
        self._restored: dict[str, Any] | None = None
        self._received: signal.Signals | None = None

    def on_load_checkpoint(
        self,
        trainer: pl.Trainer,  # noqa: ARG002
        pl_module: pl.LightningModule,  # noqa: ARG002
        checkpoint: dict[str, Any],
    ) -> None:
        """Remember what is restored when training starts."""
        self._restored = checkpoint.get(PLACE_KEY)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Restore the random state and the early stop, and listen to signals until Lightning restores its own."""
        self._saved = trainer.global_step
        if self._restored is not None:
            trainer.should_stop = self._restored["stop"]
            _restore_random(trainer, self._restored["random"])
        self._listen()

    def _listen(self) -> None:
        """Take signals, but not one that is ignored, as by nohup."""
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self._received = signal.Signals(number)
        signal.signal(number, signal.SIG_DFL)
        sys.unraisablehook = _without_workers

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,  # noqa: ARG002
        outputs: Any,  # noqa: ARG002
        batch: Any,  # noqa: ARG002
        batch_idx: int,
    ) -> None:
        """Save where it is due, and stop where it is asked for; not inside an accumulation nor before a validation.

        A checkpoint taken after the last batch and before its validation would lose the validation.
        """
        done, group = batch_idx + 1, trainer.accumulate_grad_batches
        epoch = trainer.num_training_batches
        left = min(-done % (trainer.val_check_batch or epoch), epoch - done)
        if left == 0 or done % group:
            return
        due = left <= group or trainer.global_step - self._saved >= self.every
        stop = self._asked_to_stop(trainer, 0 if due else trainer.global_step)
        if stop or due:
            self._save(trainer, trainer.current_epoch, done)
        self._stop_if(stop)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,  # noqa: ARG002
        outputs: Any,  # noqa: ARG002
        batch: Any,  # noqa: ARG002
        batch_idx: int,
        dataloader_idx: int = 0,  # noqa: ARG002
    ) -> None:
        """Stop where it is asked for."""
        if trainer.state.fn == TrainerFn.FITTING:
            self._stop_if(self._asked_to_stop(trainer, batch_idx))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Save, after the early stopping and the best checkpoint."""
        self._save(trainer, trainer.current_epoch + 1, 0)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Stop where it is asked for; by now the figures of the last epoch are logged."""
        self._stop_if(self._asked_to_stop(trainer))

    on_train_end = on_train_epoch_start

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:  # noqa: ARG002
        """A lost worker after a signal is its effect: whoever ends all processes has ended the loader's too."""
        if self._received and isinstance(exception, RuntimeError | ConnectionError):
            raise Interrupted(self._received, self.path.with_name(LAST)) from exception

    def _asked_to_stop(self, trainer: pl.Trainer, count: int = 0) -> bool:
        """Whether any process got a signal; several processes exchange it only at a `count` of every `ASK_EVERY`."""
        asked = self._received is not None
        if trainer.world_size == 1:
            return asked
        return count % ASK_EVERY == 0 and trainer.strategy.reduce_boolean_decision(asked, all=False)

    def _stop_if(self, asked: bool) -> None:
        if asked:
            raise Interrupted(self._received or signal.SIGTERM, self.path.with_name(LAST))

    def _save(self, trainer: pl.Trainer, epoch: int, batch: int) -> None:
        self._place = {"epoch": epoch, "batch": batch, "stop": trainer.should_stop, "random": _random_state(trainer)}
        trainer.save_checkpoint(self.path)
        self._place, self._saved = None, trainer.global_step

    def on_save_checkpoint(
        self,
        trainer: pl.Trainer,  # noqa: ARG002
        pl_module: pl.LightningModule,  # noqa: ARG002
        checkpoint: dict[str, Any],
    ) -> None:
        """Add the place to last.ckpt; other checkpoints are not taken where a run can go on."""
        if self._place is not None:
            checkpoint[PLACE_KEY] = self._place


def _without_workers(unraisable: Any) -> None:
    """Leave out what a loader says of a worker that ended before it; whoever ends the run ends the workers as well."""
    error = unraisable.exc_value
    if not (isinstance(error, RuntimeError) and "DataLoader worker" in str(error)):
        sys.__unraisablehook__(unraisable)


def _random_state(trainer: pl.Trainer) -> dict[str, torch.Tensor]:
    """torch's random states of the CPU and the GPU, one row per process, uint8."""
    device = trainer.strategy.root_device
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return {name: _gather(state.to(device), trainer.world_size).cpu() for name, state in states.items()}


def _gather(state: torch.Tensor, processes: int) -> torch.Tensor:
    if processes == 1:
        return state[None]
    everyone = [torch.empty_like(state) for _ in range(processes)]
    torch.distributed.all_gather(everyone, state)
    return torch.stack(everyone)


def _restore_random(trainer: pl.Trainer, states: dict[str, torch.Tensor]) -> None:
    processes, device = len(states["cpu"]), trainer.strategy.root_device
    if processes != trainer.world_size:
        raise ValueError(f"the run to resume has {processes} process(es); start as many, not {trainer.world_size}.")
    mine = {name: state[trainer.global_rank].clone() for name, state in states.items()}  # torch misreads a slice
    torch.set_rng_state(mine["cpu"])
    if device.type == "cuda" and "cuda" in mine:
        torch.cuda.set_rng_state(mine["cuda"], device)
