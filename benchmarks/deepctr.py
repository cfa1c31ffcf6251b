"""DeepCTR-Torch's DeepFM, trained on given rows as its manual does; runs in an environment of its own (.venv-peers).

python benchmarks/deepctr.py rows.npz result.npz
"""

import sys
import time
import types

import numpy as np
import torch

sys.modules["requests"] = types.ModuleType("requests")  # the package asks the network for a newer version of itself

from deepctr_torch.inputs import DenseFeat, SparseFeat
from deepctr_torch.models import DeepFM

BATCH = 4096


def main(source: str, target: str) -> None:
    """Train one epoch by `fit`; write its seconds and the scores of the test rows."""
    rows = dict(np.load(source))
    names = [f"id{n}" for n in range(len(rows["sizes"]))], [f"number{n}" for n in range(rows["numbers"].shape[1])]
    columns = [SparseFeat(n, int(size), embedding_dim=16) for n, size in zip(names[0], rows["sizes"], strict=True)]
    columns += [DenseFeat(name, 1) for name in names[1]]
    torch.manual_seed(0)
    model = DeepFM(columns, columns, dnn_hidden_units=(400, 400, 400), device="cpu")
    model.compile("adam", "binary_crossentropy")
    train, test = (_inputs(rows, names, rows["part"] == part) for part in (0, 2))
    started = time.perf_counter()
    model.fit(train, rows["label"][rows["part"] == 0], batch_size=BATCH, epochs=1, verbose=0)
    seconds = time.perf_counter() - started
    np.savez(target, seconds=seconds, score=model.predict(test, BATCH).ravel(), threads=torch.get_num_threads())


def _inputs(rows: dict[str, np.ndarray], names: tuple[list[str], list[str]], chosen: np.ndarray) -> dict:
    """Each column by its name."""
    inputs = {}
    for block, of_block in (("ids", names[0]), ("numbers", names[1])):
        inputs |= {name: rows[block][chosen, n] for n, name in enumerate(of_block)}
    return inputs


if __name__ == "__main__":
    main(*sys.argv[1:])
