"""What every run leaves in its folder and on the terminal, whatever kind of model it trains."""

import contextlib
import io
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.console import Console, RenderableType
from torch import Tensor

from recsys.classical.fitted import Fitted
from recsys.cli import CONFIGS, write_run_log
from recsys.data.module import DataModule
from recsys.data.split import TEST
from recsys.evaluation import best_possible
from recsys.files import whole_file
from recsys.models.base import Recommender
from recsys.report import evaluation_summary, metrics_table, plot_roc, write_json, write_page

Trained = Recommender | Fitted
Finish = Callable[[Trained, DataModule, Path], None]
console = Console(highlight=False, soft_wrap=True)


def show(*content: RenderableType, markup: bool = True) -> None:
    """Print on the terminal, and the same without colours to run.log."""
    console.print(*content, sep="\n", markup=markup)
    text = io.StringIO()
    plain = Console(file=text, width=console.width, force_terminal=False, highlight=False, soft_wrap=True)
    plain.print(*content, sep="\n", markup=markup)
    write_run_log("\n" + text.getvalue().rstrip())


def begin_run(cfg: DictConfig, folder: Path, data: DataModule) -> None:
    """The files that mark a run as begun; the page of its interruption would mark it as finished."""
    (folder / "report.html").unlink(missing_ok=True)
    with whole_file(folder / "config.yaml") as draft:
        draft.write_text(OmegaConf.to_yaml(cfg, resolve=True), encoding="utf-8")
    with whole_file(folder / "encoders.json") as draft:
        shutil.copyfile(data.folder / "encoders.json", draft)


def data_line(data: DataModule) -> str:
    """The size of the data in words."""
    store, schema = data.store, data.schema
    parts = [int((store.part_E == part).sum()) for part in range(3)]
    implicit = schema.label.kind == "implicit"
    labels = f"{schema.label.negatives} negatives each" if implicit else f"mean label {schema.label_mean:.3f}"
    return (
        f"data    {data.spec.name}: {store.users:,} users, {store.items:,} items; events {parts[0]:,} train, "
        f"{parts[1]:,} valid, {parts[2]:,} test; {labels}"
    )


def tuned_note() -> str:
    """Where the settings come from, if a file of configs/tuned holds some for this data and model."""
    hydra = HydraConfig.get() if HydraConfig.initialized() else None
    tuned = hydra.runtime.choices.get("tuned") if hydra and hydra.job.config_name == "train" else None
    return f"; settings of configs/tuned/{tuned}.yaml" if (CONFIGS / "tuned" / f"{tuned}.yaml").is_file() else ""


@contextlib.contextmanager
def once_trained(folder: Path) -> Iterator[None]:
    """Let a signal that ends the body, which follows on the training, say what is saved and how to go on."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as error:
        best, last = folder / "checkpoints" / "best.ckpt", folder / "checkpoints" / "last.ckpt"
        ways = [f"go on with resume={last}"] if last.exists() else []
        ways += [f"give checkpoint={best} to scripts/evaluate.py or scripts/export.py"] if best.exists() else []
        error.add_note(f"The trained model is saved; {', or '.join(ways)}.")
        raise


def report_results(
    folder: Path,
    metrics: dict[str, Any],
    model: Trained,
    data: DataModule,
    rows: tuple[Tensor, Tensor] | None,
    origin: dict[str, Any],
) -> None:
    """The table on the terminal, the ROC curve, evaluation.json and metrics.json.

    `rows` are scores and labels of the test rows, (B,) each; `origin` says what was trained on what.
    """
    best = best_possible(data, TEST)
    show(metrics_table(f"{origin['model']} on {data.spec.name}", metrics, best))
    if rows and data.schema.label.kind != "rating":
        plot_roc(*rows, f"{data.spec.name}: test rows", folder / "plots" / "roc.png")
    write_json(folder / "evaluation.json", evaluation_summary(model, data.store, rows))
    content = {**metrics, "best_possible": best, **origin, "cleaning": data.store.cleaning}
    write_json(folder / "metrics.json", content)


def finish_run(folder: Path, model: Trained, data: DataModule, finish: Finish, started: float) -> None:
    """What follows once the metrics are written: `finish`, then report.html, by which a run counts as finished."""
    finish(model, data, folder)
    page = write_page(folder)
    show(f"report: {page}", f"run folder: {folder}   ({time.perf_counter() - started:.0f} s)")
