"""The page that compares runs: values, marks, differences."""

import re

import pytest

from recsys.report import write_comparison
from recsys.report.comparison import clear_best
from recsys.report.plots import plot_curves


@pytest.mark.parametrize(
    ("values", "intervals", "less", "best"),
    [
        ([0.7, 0.8], [[0.6, 0.75], [0.76, 0.9]], False, 1),
        ([0.7, 0.8], [[0.6, 0.75], [0.76, 0.9]], True, 0),
        ([0.7, 0.8], [[0.6, 0.75], [0.75, 0.9]], False, None),  # touching is not apart
        ([0.7, 0.8, 0.9], [[0.69, 0.71], [0.7, 0.89], [0.88, 0.92]], False, None),  # only the runner-up counts
        ([0.7, None, 0.9], [[0.69, 0.71], None, [0.88, 0.92]], False, 2),
        ([0.7, 0.9], [None, [0.88, 0.92]], False, None),
        ([0.7, 0.9], [[None, 0.71], [0.88, 0.92]], False, None),
        ([0.8, 0.8], [[0.8, 0.8], [0.8, 0.8]], False, None),
        ([0.8, 0.7], [[0.8, 0.8], [0.6, 0.75]], False, None),  # bug: no width was taken for certainty
        ([0.8, 0.7], [[0.78, 0.82], [0.7, 0.7]], False, None),
        ([0.8], [[0.7, 0.9]], False, None),
        ([None, None], [None, None], False, None),
    ],
)
def test_the_best_is_marked_only_where_it_is_clear(values, intervals, less, best):
    assert clear_best(values, intervals, less_is_better=less) == best


def metrics(auc: float, logloss: float, name: str = "shop", **data: str) -> dict:
    test = {"auc": auc, "logloss": logloss, "novelty@10": 10 * auc}  # novelty is a property, not a virtue
    return {
        "test": test,
        "data": {"name": name, **data},
        "intervals": {"test": {key: [value - 0.01, value + 0.01] for key, value in test.items()}},
    }


def marked(text: str) -> list[str]:
    return re.findall(r'class="right best">([\d.]+)', text)


def test_the_page_shows_every_run_and_marks_the_best(run_folder, tmp_path):
    folders = [run_folder("one", metrics(0.7, 0.5)), run_folder("two", metrics(0.75, 0.505))]
    path = write_comparison(folders, tmp_path / "new" / "page.html")
    text = path.read_text(encoding="utf-8")
    assert marked(text) == ["0.7500"]
    for shown in ("2 runs on shop", "0.7000", "0.7400 to 0.7600", "0.5050", "one", "two"):
        assert shown in text
    assert "http" not in text
    for chart in ("train/loss by epoch", "valid/auc by epoch", "ROC curve", "Calibration"):
        (svg,) = re.findall(rf'<svg[^>]*aria-label="{chart}".*?</svg>', text)
        assert "var(--series-0)" in svg
        assert "var(--series-1)" in svg


def test_nothing_is_marked_across_datasets(run_folder, tmp_path):
    folders = [run_folder("one", metrics(0.7, 0.5)), run_folder("two", metrics(0.8, 0.4, name="<b>other</b>"))]
    text = write_comparison(folders, tmp_path / "page.html").read_text(encoding="utf-8")
    assert marked(text) == []
    assert "do not share the same data" in text
    assert "DIN on &lt;b&gt;other&lt;/b&gt;" in text


@pytest.mark.parametrize(("fingerprints", "best"), [("aa", ["0.8000", "0.4000"]), ("ab", [])])
def test_data_is_compared_by_content(run_folder, tmp_path, fingerprints, best):
    """Bug: two datasets of one name with as many test rows were taken for the same."""
    values = zip((0.7, 0.8), (0.5, 0.4), fingerprints, strict=True)
    folders = [run_folder(str(auc), metrics(auc, logloss, fingerprint=f)) for auc, logloss, f in values]
    assert marked(write_comparison(folders, tmp_path / "page.html").read_text(encoding="utf-8")) == best


def test_runs_without_anything_in_common_are_laid_side_by_side(run_folder, tmp_path):
    folders = [
        run_folder("one", {"test": {"rmse": 1.0}}, evaluation=None, log=None, config=None),
        run_folder("two", {"test": {"auc": 0.5}}),
        run_folder("three", {"test": None}, log=None),
    ]
    text = write_comparison(folders, tmp_path / "page.html").read_text(encoding="utf-8")
    for shown in ("rmse", "auc", "3 runs"):
        assert shown in text


def test_only_different_options_are_shown(run_folder, tmp_path):
    configs = [f"seed: 0\nmodel: {{dim: 8, {model}}}\n" for model in ("hidden: null", "hidden: [4, 2], act: <relu>")]
    folders = [run_folder(str(n), metrics(0.7, 0.5), config=config) for n, config in enumerate(configs)]
    text = write_comparison(folders, tmp_path / "page.html").read_text(encoding="utf-8")
    table = text[text.index("What differs") :]
    assert re.findall(r"<t[dh]>([^<]+)</t[dh]>", table) == [
        *("option", "model.hidden", "null", "[4, 2]"),
        *("model.act", "–", "&lt;relu&gt;"),
    ]


def test_epochs_count_from_one_in_every_plot(tmp_path, monkeypatch):
    """Bug: curves.png counted epochs from 0, report.html from 1."""
    figures = []
    monkeypatch.setattr("recsys.report.plots._save", lambda figure, _: figures.append(figure))
    plot_curves({"train/loss": [(0, 0.7), (1, 0.6)]}, "valid/auc", tmp_path / "curves.png")
    assert figures[0].axes[0].lines[0].get_xdata().tolist() == [1, 2]
