"""Figures of a graph on this machine: all there, in the right units, and no more time spent than said."""

import itertools
import time

import numpy as np
import pytest

from export import measure as of_graphs
from export.measure import BATCHES, load_figures, measure, run_times


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_graphs, "SECONDS", 0.0)


@pytest.fixture
def made(exported):
    return exported("deepfm")


@pytest.mark.usefixtures("_quick")
def test_a_graphs_figures(made):
    path = made.paths["recommender"]
    figures = measure(path, made.raw.example(made.open("recommender"), BATCHES[-1]))
    latencies = {f"{quantile}_ms@{batch}" for quantile, batch in itertools.product(("p50", "p99"), BATCHES)}
    assert set(figures) == {"size_mb", "load_s", "rss_mb", "rows_per_s", *latencies}
    assert all(type(value) is float and np.isfinite(value) for value in figures.values())
    assert figures["size_mb"] == path.stat().st_size / 2**20
    assert 0 < figures["load_s"] < 60
    assert 0 < figures["rss_mb"] < 500
    assert all(0 < figures[f"p50_ms@{batch}"] <= figures[f"p99_ms@{batch}"] for batch in BATCHES)
    assert figures["p50_ms@1"] < figures["p50_ms@512"]
    assert figures["rows_per_s"] > 512


@pytest.mark.usefixtures("_quick")
def test_external_data_counts_as_size(made, tmp_path, monkeypatch):
    monkeypatch.setattr(of_graphs, "load_figures", lambda _: {})
    path = tmp_path / "graph.onnx"
    path.write_bytes(made.paths["recommender"].read_bytes())
    path.with_name("graph.onnx.data").write_bytes(b"0" * 2**20)
    figures = measure(path, made.raw.example(made.open("recommender"), BATCHES[-1]))
    assert figures["size_mb"] == pytest.approx(path.stat().st_size / 2**20 + 1)


def test_loading_a_file_that_is_no_graph_fails(tmp_path):
    (tmp_path / "no.onnx").write_text("no")
    with pytest.raises(Exception, match=r"returned non-zero"):
        load_figures(tmp_path / "no.onnx")


class Slow:
    """A session of which a run takes a millisecond."""

    runs = 0

    def run(self, *_: object) -> None:
        self.runs += 1
        time.sleep(0.001)


@pytest.mark.parametrize(("seconds", "most", "expected"), [(0.0, 300, 20), (10.0, 30, 30)])
def test_runs_are_repeated_until_there_are_enough(monkeypatch, seconds, most, expected):
    monkeypatch.setattr(of_graphs, "SECONDS", seconds)
    monkeypatch.setattr(of_graphs, "RUNS", most)
    session = Slow()
    found = run_times(session, {})
    assert len(found) == expected
    assert session.runs == expected + of_graphs.WARM
    assert (found >= 0.001).all()
