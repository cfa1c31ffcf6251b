"""The page of a run: it holds what the folder holds, and nothing from elsewhere."""

import json
import re
from html.parser import HTMLParser

import pytest

from recsys.report import write_page
from recsys.report.run import Run, read_curves, read_run, write_json


class Page(HTMLParser):
    """The texts, tags and attributes of a page; fails where a tag is closed that is not open."""

    VOID = ("meta", "br")

    def __init__(self, content: str) -> None:
        super().__init__()
        self.open, self.tags, self.attributes, self.texts, self.cells = [], [], [], [], []
        self.feed(content)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "tr":
            self.cells.append([])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.texts.append(" ".join(data.split()))
            if self.open[-1] in ("td", "th"):
                self.cells[-1].append(data.strip())

    @property
    def headings(self):
        names = ("Metrics", "Learning curves", "Scores of the test rows", "By user activity", "By item popularity")
        names += ("Cold, warm and hot", "Recommendations", "Cleaning", "Configuration")
        return [name for name in names if name in self.texts]


def page_of(folder) -> Page:
    path = write_page(folder)
    assert path == folder / "report.html"
    return Page(path.read_text(encoding="utf-8"))


def test_the_page_holds_what_the_folder_holds(run_folder):
    page = page_of(run_folder())
    assert len(page.headings) == 9
    assert {"DIN on bookshop", "Best valid/auc", "17", "Epochs", "3", "10,000", "1,200"} <= {*page.texts}
    for row in (
        ["metric", "valid", "test", "95% interval", "best possible"],
        ["auc", "0.7125", "0.7034", "0.6911 to 0.7157", "0.8042"],
        ["logloss", "0.5000", "0.5120", "–"],
        ["ndcg@10", "0.0815"],
        ["users", "number", "rows", "auc"],
        ["cold", "1,234", "4,321", "0.6543"],
        ["hot", "5", "6", "–"],
        ["behaviour", "12,345 rows read", "kept", "12,300"],
        ["behaviour", "mark", "label outside [1, 5]", "dropped", "45"],
    ):
        assert row in page.cells
    assert "Training was interrupted" not in " ".join(page.texts)
    assert "has learned the validation rows" not in " ".join(page.texts)
    assert {"No training events", "1 training event", "nothing yet", "红楼梦", "Solaris", "0.5000"} <= {*page.texts}
    assert page.texts.count("✓ liked") == 1
    assert page.texts[page.texts.index("✓ liked") - 1] == "Solaris"
    labels = [value for name, value in page.attributes if name == "aria-label"]
    assert labels == [
        "train/loss by epoch",
        "valid/auc by epoch",
        "ROC curve",
        "Calibration",
        "Score distribution by label",
        "auc by training events of the user",
        "logloss by training events of the user",
        "logloss by training events of the item",
    ]


def test_the_page_says_which_model_each_part_is_of(run_folder):
    page = page_of(run_folder(metrics={"valid": {"auc": 0.75}, "test": {"auc": 0.5}, "refit": True}))
    assert "Test: a model that has learned the validation rows too. Valid: its settings before that." in page.texts


def test_nothing_comes_from_the_network(run_folder):
    text = write_page(run_folder()).read_text(encoding="utf-8")
    page = Page(text)
    assert "http" not in text
    assert not {"script", "link", "img", "iframe", "a"} & {*page.tags}
    assert re.findall(r"@import|url\((?!#)", text) == []
    links = [value for name, value in page.attributes if name in ("href", "src", "xlink:href")]
    ids = [value for name, value in page.attributes if name == "id"]
    assert len({*ids}) == len(ids)
    assert {link.removeprefix("#") for link in links} <= {*ids}


def test_markup_in_the_data_is_text(run_folder, tmp_path):
    evil = "<script>alert('x')</script>&\"</pre>"
    evaluation = {
        "recommendations": [
            {"events": 2, "history": [evil], "items": [{"title": evil, "score": 0.1, "liked": False}]},
        ],
    }
    cleaning = {"rows": {evil: {"read": 1, "kept": 1}}}
    metrics = {"test": {evil: 0.5}, "monitor": f"valid/{evil}", "data": {"name": evil}, "cleaning": cleaning}
    log = 'epoch,train/loss,"valid/' + evil.replace('"', '""') + '"\n0,0.5,0.25\n'
    folder = run_folder(metrics=metrics, evaluation=evaluation, config=f"about: >-\n  {evil}\n", log=log)
    page = page_of(folder)
    assert "script" not in page.tags
    joined = "".join(page.texts)
    assert joined.count("<script>alert('x')</script>&\"</pre>") >= 6
    assert [name for name, _ in page.attributes if name.startswith("on")] == []


def test_missing_parts_do_not_appear(run_folder):
    page = page_of(run_folder("bare", metrics={"test": {"rmse": 1.0}}, evaluation=None, log=None, config=None))
    assert page.headings == ["Metrics"]
    assert page.cells == [["metric", "test"], ["rmse", "1.0000"]]
    nulls = dict.fromkeys(
        ("valid", "test", "best_possible", "intervals", "groups", "seed", "cleaning", "data", "model")
    )
    empty = {"size": None, "roc": None, "by_user_activity": [], "recommendations": None}
    assert page_of(run_folder("nulls", metrics={**nulls, "epochs": 1}, evaluation=empty)).headings == [
        "Learning curves",
        "Configuration",
    ]


def test_ratings_have_their_own_chart(run_folder):
    rows = [{"rating": n, "mean": 3, "low": 2.5, "median": 3, "high": 3.5, "rows": 10} for n in range(1, 6)]
    page = page_of(run_folder(evaluation={"by_true_rating": rows}))
    assert "Predicted by true rating" in page.texts
    assert ("aria-label", "ROC curve") not in page.attributes


def test_an_interrupted_run_says_so(run_folder):
    page = page_of(run_folder(metrics={"test": {"auc": 0.5}, "interrupted": "SIGINT", "model": "ItemKNN"}))
    assert "Training was interrupted by SIGINT: metrics of the last validation." in page.texts
    assert "ItemKNN on data" in page.texts


def test_an_interrupted_run_shows_the_best_value_of_the_watched_metric(run_folder):
    """Bug: the page of an interrupted run called the first logged metric's last value the best one."""
    log = "epoch,step,train/loss,valid/accuracy,valid/auc\n0,9,0.7,0.6,0.8\n1,19,0.6,0.5,0.7\n"
    metrics = {"valid": {"accuracy": 0.5, "auc": 0.7}, "monitor": "valid/auc", "best": 0.8, "interrupted": "SIGTERM"}
    run = read_run(run_folder(metrics=metrics, evaluation=None, log=log))
    assert (run.monitor, run.best) == ("valid/auc", 0.8)


def test_the_same_folder_gives_the_same_page(run_folder):
    folder = run_folder()
    assert write_page(folder).read_text() == write_page(folder).read_text()
    assert {p.name for p in folder.iterdir()} == {
        "metrics.json",
        "evaluation.json",
        "config.yaml",
        "log",
        "report.html",
    }


def test_the_validation_after_training_is_no_part_of_the_curves(run_folder):
    curves = read_curves(run_folder() / "log" / "metrics.csv")
    assert curves == {"train/loss": [(0, 0.7), (1, 0.6)], "valid/auc": [(0, 0.6), (1, 0.7)]}


def test_the_watched_metric_is_the_first_one_where_none_is_named(run_folder):
    run: Run = read_run(run_folder(metrics={"valid": {"auc": 0.7125}}))
    assert (run.monitor, run.best) == ("valid/auc", 0.7125)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"metrics": None}, "has no metrics.json: it did not finish; train it again."),
        ({"metrics": None, "config": None}, "is no run folder"),
        ({"config": "a: [1"}, "config.yaml' does not parse"),
        ({"config": "- 1"}, "config.yaml' must hold a mapping, got list"),
    ],
)
def test_what_is_no_run_is_refused(run_folder, files, message):
    folder = run_folder(**files)
    with pytest.raises(ValueError, match=message) as error:
        write_page(folder)
    assert "\n" not in str(error.value)
    assert not (folder / "report.html").exists()


def test_an_unfinished_run_is_refused_with_its_checkpoint(run_folder):
    folder = run_folder(metrics=None)
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "last.ckpt").touch()
    with pytest.raises(ValueError, match=rf"did not finish; go on with resume={folder}/checkpoints/last\.ckpt\."):
        write_page(folder)


def test_a_damaged_file_is_named(run_folder):
    folder = run_folder()
    (folder / "evaluation.json").write_text('{"roc": ')
    with pytest.raises(ValueError, match=r"evaluation\.json' does not parse"):
        write_page(folder)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no run folder '.*nowhere'"):
        write_page(tmp_path / "nowhere")


def test_json_has_no_nan(tmp_path):
    write_json(tmp_path / "x.json", {"a": float("nan"), "b": [1.5, float("inf")], "c": {"d": (float("nan"),)}})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": None, "b": [1.5, None], "c": {"d": [None]}}
