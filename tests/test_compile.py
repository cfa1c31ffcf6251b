"""`compile: true`: the same training, the same names in checkpoints."""

from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from export.core import example_batch
from recsys.config import check
from recsys.data.module import DataModule, DataSpec
from recsys.layers.mlp import MLP, Part
from recsys.models.deepfm import DeepFM
from recsys.models.mf import MF
from recsys.optimizers import RowWise
from recsys.training import new_model


class Losses(pl.Callback):
    """The loss of every step."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(self, _: Any, __: Any, outputs: Any, *___: Any) -> None:
        self.losses.append(float(outputs["loss"]))


def test_a_model_without_fully_connected_layers_says_that_nothing_is_compiled(schema, caplog):
    MF(schema).compile_layers()
    assert "`compile` is ignored: MF has no fully connected layers" in caplog.text


@pytest.mark.parametrize("compiler", ["no-such-compiler", "false", "/"])
def test_a_machine_without_a_compiler_is_told_before_anything_is_read(composed, monkeypatch, compiler):
    """Bug: the first step ended in torch's trace."""
    monkeypatch.setenv("CXX", compiler)
    with pytest.raises(
        ValueError, match=rf"`compile` needs .* '{compiler}' does not run; install g\+\+ .* compile=false"
    ):
        check(composed("compile=true", "trainer=cpu"))
    check(composed("trainer=cpu"))


@pytest.mark.parametrize(("steps", "graphs"), [(1, True), (2, False)])
def test_gradients_that_outlive_a_step_are_not_made_by_graphs(composed, schema, monkeypatch, steps, graphs):
    """Bug: CUDA graphs write a step's gradients where those of the last step, to which they are added, still lie."""
    asked = []
    monkeypatch.setattr(DeepFM, "compile_layers", lambda _, **options: asked.append(options))
    trainer = pl.Trainer(accelerator="cpu", accumulate_grad_batches=steps, logger=False, enable_checkpointing=False)
    new_model(composed("model=deepfm", "compile=true"), SimpleNamespace(schema=schema), trainer)
    assert asked == [{"graphs": graphs}]


@pytest.mark.parametrize(("graphs", "mode"), [(True, "reduce-overhead"), (False, "default")])
def test_pairs_are_compiled_with_the_layers_and_used_in_training_alone(schema, monkeypatch, graphs, mode):
    calls, asked = [], []

    def compiled(function: Any, **options: Any) -> Any:
        asked.append(options)
        return lambda *args: calls.append(args) or function(*args)

    monkeypatch.setattr(torch, "compile", compiled)
    monkeypatch.setattr(MLP, "compile", lambda _: None)
    model, batch = DeepFM(schema), example_batch(schema, rows=4, length=3)
    expected = model.train()(batch), model.eval()(batch)
    model.compile_layers(graphs=graphs)
    assert asked == [{"mode": mode, "dynamic": False}]
    torch.testing.assert_close((model.train()(batch), model.eval()(batch)), expected)
    assert len(calls) == 1


@pytest.mark.slow
def test_compiled_layers_train_as_others_and_keep_their_names(tiny, tmp_path):
    data = DataModule(DataSpec.parse(tiny), cache=tmp_path, batch_size=64)
    data.prepare_data()
    data.setup()

    def train(*, compiled: bool) -> tuple[list[float], dict[str, torch.Tensor]]:
        pl.seed_everything(0, verbose=False)
        losses = Losses()
        quiet = {
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
        }
        trainer = pl.Trainer(
            accelerator="cpu",
            max_epochs=2,
            limit_val_batches=0,
            callbacks=[losses],
            use_distributed_sampler=False,
            **quiet,
        )
        model = DeepFM(data.schema, hidden=[8, 8], embedding_dim=4, sparse=True, optimizer=RowWise)
        if compiled:
            model.compile_layers()
        trainer.fit(model, datamodule=data)
        path = tmp_path / f"{compiled}.ckpt"
        trainer.save_checkpoint(path)
        return losses.losses, torch.load(path, weights_only=True)["state_dict"]

    (losses, weights), (plain_losses, plain) = train(compiled=True), train(compiled=False)
    assert losses == pytest.approx(plain_losses, abs=1e-5)
    assert list(weights) == list(plain)
    torch.testing.assert_close(weights, plain, atol=1e-5, rtol=1e-4)


def test_both_ways_into_the_layers_are_compiled(monkeypatch):
    """DeepFM trains on parts, which do not pass through the layers' ordinary forward."""
    calls = []

    def compiler(graph: torch.fx.GraphModule, _: object) -> Any:
        calls.append(graph)
        return graph.forward

    layers = MLP(3, [4, 2])
    x = torch.randn(5, 3)
    expected = layers(x)
    layers.compile(backend=compiler)
    torch.testing.assert_close(layers(x), expected)
    assert len(calls) == 1
    ((found, places, _),) = layers.forward_parts([Part(x, range(3))])
    torch.testing.assert_close(found, expected)
    assert places == range(2)
    assert len(calls) == 2
