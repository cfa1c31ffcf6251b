"""Write a checkpoint as one ONNX graph: python scripts/export.py checkpoint=outputs/.../checkpoints/best.ckpt"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not scripts/, whose export.py would hide export/

from omegaconf import DictConfig
from rich.console import Console

from export.graph import export_graph
from recsys.cli import launch
from recsys.models.base import load_model


def export_checkpoint(cfg: DictConfig) -> None:
    """Export to `output` (by default model.onnx in the run's folder) and say how close the scores are."""
    model = load_model(cfg.checkpoint)
    path = Path(cfg.output) if cfg.output else Path(cfg.checkpoint).parents[1] / "model.onnx"
    if path.suffix != ".onnx":
        raise ValueError(f"`output` must end in .onnx, got {str(path)!r}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    difference = export_graph(model, path)
    size = path.stat().st_size / 2**20
    text = f"{path}: {size:.1f} MiB, within {difference:.1e} of the model's scores"
    Console(highlight=False, soft_wrap=True).print(text)


if __name__ == "__main__":
    launch("export", export_checkpoint)
