"""A Ray cluster, of two workers on this machine, prepares the store that one process prepares."""

import signal
from pathlib import Path

import pandas as pd
import pytest

from recsys.data import events
from recsys.data.module import DataModule, DataSpec
from recsys.data.workers import RayData, ray_cluster


@pytest.fixture
def cluster():
    """A local Ray; skipped where it is not installed."""
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield
    ray.shutdown()


def files_of(mapping: dict, cache: Path, prepare: str) -> dict[str, bytes]:
    data = DataModule(DataSpec.parse(mapping), cache=cache / prepare, prepare=prepare)
    data.prepare_data()
    assert [path.name for path in (cache / prepare).iterdir()] == [data.folder.name]
    return {path.name: path.read_bytes() for path in data.folder.iterdir()}


def test_ray_prepares_the_same_store(cluster, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(events, "ROWS", 150)
    visits = pd.read_csv(tmp_path / "visits.csv", dtype=str)
    visits["price"] = (visits.index * 7919 % 101 / 10).astype(str).where(visits.index % 9 > 0, "unknown")
    visits["step"] = (visits.index % 13).astype(str)
    visits["marks"] = visits["sku"].str[-1] + "|" + visits["shopper"]
    paths = [tmp_path / f"visits-{n}.csv" for n in range(3)]
    for path, rows in zip(paths, (visits[:200], visits[200:210], visits[210:]), strict=True):
        rows.to_csv(path, index=False)
    tiny["tables"]["behaviour"]["path"] = [str(path) for path in paths]
    tiny["columns"]["price"] = {"role": "scene", "kind": "number"}
    tiny["columns"]["step"] = {"role": "scene", "kind": "number", "buckets": 5}
    tiny["columns"]["marks"] = {"role": "scene", "kind": "tags"}
    assert files_of(tiny, tmp_path, "ray") == files_of(tiny, tmp_path, "local")
    assert pytest.importorskip("ray").is_initialized(), "a cluster of somebody else's stays"


def test_a_cluster_of_its_own_is_shut_down(tiny, tmp_path):
    """Bug: its processes stayed beside the training, and held memory until the run's end."""
    ray = pytest.importorskip("ray")
    DataModule(DataSpec.parse(tiny), cache=tmp_path, prepare="ray").prepare_data()
    assert not ray.is_initialized()


def test_a_cluster_leaves_the_answer_to_sigterm():
    """Bug: Ray replaced it for good, so that SIGTERM ended the process without removing half-written files."""
    pytest.importorskip("ray")

    def leave(*_: object) -> None: ...

    earlier = signal.signal(signal.SIGTERM, leave)
    try:
        with ray_cluster():
            assert signal.getsignal(signal.SIGTERM) is leave
        assert signal.getsignal(signal.SIGTERM) is leave
    finally:
        signal.signal(signal.SIGTERM, earlier)


def test_an_error_of_a_worker_is_raised_as_it_is(cluster):
    """Bug: Ray's own error, with a trace, in place of what the user can mend."""
    with pytest.raises(ValueError, match=r"^invalid literal for int\(\) with base 10: 'x'$"):
        list(RayData().map(int, ["1", "x"]))


def test_an_unknown_way_to_prepare_is_refused(tiny, tmp_path):
    with pytest.raises(ValueError, match="`prepare` must be local or ray, got 'spark'"):
        DataModule(DataSpec.parse(tiny), cache=tmp_path, prepare="spark")
