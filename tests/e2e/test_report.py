"""The pages of runs and of their comparison, through the real commands."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

OPTIONS = ["data=shop", "data.generate.events=3000", "model=mf", "trainer=cpu", "trainer.max_epochs=2", "export=false"]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which all commands of this file run."""
    return tmp_path_factory.mktemp("workplace")


@pytest.fixture
def call(call_in, workplace) -> Callable[..., Any]:
    """Run a script in the workplace."""
    return call_in(workplace)


@pytest.fixture
def runs(call, workplace) -> list[Path]:
    """Two runs with different seeds, trained by the first test that asks for them."""
    if not (workplace / "outputs").exists():
        assert call("train.py", "-m", *OPTIONS, "seed=0,1").returncode == 0
    return sorted((workplace / "outputs" / "shop" / "mf").iterdir())


def test_a_run_ends_with_its_page(runs, workplace):
    for folder in runs:
        page = (folder / "report.html").read_text(encoding="utf-8")
        for value in json.loads((folder / "metrics.json").read_text())["test"].values():
            assert f"{value:.4f}" in page
        users = json.loads((folder / "evaluation.json").read_text())["recommendations"]
        assert len(users) == 5
        titles = {*pd.read_csv(next(workplace.glob("cache/shop-3000-0/item_attribute_data.csv")))["title"]}
        shown = {title for user in users for title in (*user["history"], *(item["title"] for item in user["items"]))}
        assert shown <= titles
        assert "MF on shop" in page
        assert "http" not in page


def test_the_page_is_made_again_from_the_folder_alone(runs, call):
    page = runs[0] / "report.html"
    before = page.read_text()
    page.unlink()
    done = call("report.py", f"runs={runs[0]}")
    assert done.returncode == 0
    assert page.read_text() == before
    assert f"report: {page}" in done.stdout


@pytest.mark.parametrize("given", ["outputs/shop/*/*", "[outputs/*/mf/*]"])
def test_runs_are_laid_side_by_side(runs, call, workplace, given):
    assert call("report.py", f"runs={given}").returncode == 0
    page = (workplace / "comparison.html").read_text(encoding="utf-8")
    assert "2 runs on shop" in page
    for folder in runs:
        assert folder.name in page
        assert f"{json.loads((folder / 'metrics.json').read_text())['test']['auc']:.4f}" in page
    assert ">seed</th>" in page


def test_a_failed_run_is_left_out_of_a_pattern(runs, call, workplace):
    """Bug: one run without metrics refused the comparison of all that a pattern found."""
    failed = runs[0].with_name("failed")
    failed.mkdir()
    done = call("report.py", "runs=outputs/shop/*/*")
    assert done.returncode == 0
    assert "2 runs on shop" in (workplace / "comparison.html").read_text(encoding="utf-8")
    assert "outputs/shop/mf/failed has no metrics.json and is left out" in done.stdout
    failed.rmdir()


def test_a_run_of_several_seeds_is_the_runs_in_it(runs, call, workplace):
    """Bug: the metrics.json of `seeds=N` was read as that of a single run."""
    several = runs[0].with_name("several")
    for seed, run in enumerate(runs):
        shutil.copytree(run, several / f"seed_{seed}")
    (several / "metrics.json").write_text('{"seeds": [0, 1]}')
    assert call("report.py", f"runs={several}", "output=seeds.html").returncode == 0
    shutil.rmtree(several)
    page = (workplace / "seeds.html").read_text(encoding="utf-8")
    assert "2 runs on shop" in page
    assert "seed_0" in page
    assert "seed_1" in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["runs=[]"], "`runs` must list at least one run folder, got []."),
        (["runs=3"], "`runs` must list at least one run folder, got 3."),
        ([], "`runs` has no value; give one as runs=..."),
        (["runs=nowhere/*"], "`runs`: there is no run 'nowhere/*'"),
        (["runs=[outputs/shop/*/*,cache]"], "'cache' is no run folder"),
        (["runs=outputs/shop/*/*", "output=page.pdf"], "`output` must end in .html, got 'page.pdf'"),
        (["run=x"], "there is no option `run`: did you mean 'runs'?"),
    ],
)
def test_a_mistake_ends_in_one_message(runs, call, workplace, arguments, message):
    before = sorted(workplace.rglob("*"))
    done = call("report.py", *arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert sorted(workplace.rglob("*")) == before
