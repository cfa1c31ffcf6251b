"""DeepCTR-Torch's DeepFM, trained on given rows as its manual does; runs in an environment of its own (.venv-peers).

python benchmarks/deepctr.py fit rows.npz result.npz 4096 cpu
python benchmarks/deepctr.py steps rows.npz result.npz 65536 cuda
"""

import sys
import time
import types
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

sys.modules["requests"] = types.ModuleType("requests")  # the package asks the network for a newer version of itself

from deepctr_torch.inputs import DenseFeat, SparseFeat
from deepctr_torch.models import DeepFM
from kernels import epoch_seconds, milliseconds_by_operation


def main(verb: str, source: str, target: str, batch: str, device: str) -> None:
    """Measure its `fit`, or its steps alone, and write what was found."""
    rows = dict(np.load(source))
    names = [f"id{n}" for n in range(len(rows["sizes"]))], [f"number{n}" for n in range(rows["numbers"].shape[1])]
    columns = [SparseFeat(n, int(size), embedding_dim=16) for n, size in zip(names[0], rows["sizes"], strict=True)]
    columns += [DenseFeat(name, 1) for name in names[1]]
    torch.manual_seed(0)
    model = DeepFM(columns, columns, dnn_hidden_units=(400, 400, 400), device=device)
    model.compile("adam", "binary_crossentropy")
    train, test = (_inputs(rows, names, rows["part"] == part) for part in (0, 2))
    label = rows["label"][rows["part"] == 0]
    if verb == "fit":
        found = fit(model, train, label, test, int(batch))
    else:
        found = steps(model, train, label, int(batch), torch.device(device))
    np.savez(target, **found)


def fit(model: Any, train: dict, label: np.ndarray, test: dict, batch: int) -> dict[str, Any]:
    """The seconds of an epoch by `fit`, and the scores of the test rows."""
    started = time.perf_counter()
    model.fit(train, label, batch_size=batch, epochs=1, verbose=0)
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "score": model.predict(test, batch).ravel()}


def steps(model: Any, train: dict, label: np.ndarray, batch: int, device: torch.device) -> dict[str, Any]:
    """The seconds of an epoch of the steps that `fit` takes, on batches that lie on the device; what they go into."""
    x = torch.from_numpy(np.column_stack([train[name] for name in model.feature_index])).float().to(device)
    y = torch.from_numpy(label).float().to(device)
    batches = list(zip(x.split(batch), y.split(batch), strict=True))

    def step(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
        score = model(batch[0]).squeeze(1)
        loss = F.binary_cross_entropy(score, batch[1], reduction="sum")
        loss = loss + model.get_regularization_loss() + model.aux_loss
        model.optim.zero_grad()
        loss.backward()
        model.optim.step()

    model.train()
    seconds = epoch_seconds(step, batches, device)
    times = milliseconds_by_operation(step, batches, device)
    return {"seconds": seconds, "operations": list(times), "milliseconds": list(times.values())}


def _inputs(rows: dict[str, np.ndarray], names: tuple[list[str], list[str]], chosen: np.ndarray) -> dict:
    """Each column by its name."""
    inputs = {}
    for block, of_block in (("ids", names[0]), ("numbers", names[1])):
        inputs |= {name: rows[block][chosen, n] for n, name in enumerate(of_block)}
    return inputs


if __name__ == "__main__":
    main(*sys.argv[1:])
