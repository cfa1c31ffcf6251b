"""A stranger's bookshop, runs on the built-in shop, and the real command line, for the end-to-end tests."""

import logging
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from export import measure

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(Path(__file__).parent))  # for `folders` and `warm`, also where processes are forked
Done = subprocess.CompletedProcess[str]

SHOP = ["data=shop", "data.generate.events=3000", "trainer=cpu"]
BRIEF = ["trainer.max_epochs=2", "patience=null"]
RUNS = {
    "deepfm": [*BRIEF, "model=deepfm", "model.hidden=[32]", "model.embedding_dim=32", "optimizer.lr=0.01"],
    "item_knn": ["model=item_knn"],
    "svd": ["model=svd"],
    "nmf": ["model=nmf", "data.label.kind=rating", "+data.label.range=[0,1]"],
    "implicit": [*BRIEF, "model=mf", "data.label.kind=implicit", "objective=bpr"],
    "rating": [
        *BRIEF,
        "model=ncf",
        "model.branch=mlp",
        "model.hidden=[32]",
        "model.embedding_dim=32",
        "data.label.kind=rating",
        "+data.label.range=[0,1]",
    ],
}

YAML = """
name: bookshop
tables:
  behaviour:
    path: {folder}/loans.txt
    sep: ";"
    rename: {{Leser: reader, Buch: book, Zeit: lent_at, Note: mark}}
  items: {{path: {folder}/books.tsv, sep: "\\t", key: book, encoding: latin-1}}
  scenes: {{path: {folder}/branches.csv.gz, key: branch}}
user: reader
item: book
time: {{column: lent_at}}
label: {{kind: threshold, column: mark, positive_from: 3, range: [1, 5]}}
columns:
  reader: {{role: user, kind: category}}
  book: {{role: item, kind: category}}
  writer: {{role: item, kind: category, min_count: 2}}
  pages: {{role: item, kind: number, log1p: true}}
  shelves: {{role: item, kind: tags, sep: "/", length: 3}}
  town: {{role: scene, kind: category}}
  weekday: {{role: scene, kind: category, part: weekday}}
history: {{columns: [book, shelves], length: 10}}
split: {{by: time, valid: 0.2, test: 0.2}}
"""


@pytest.fixture(scope="module")
def bookshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three small tables with names of their own, and a config folder with the one yaml."""
    folder = tmp_path_factory.mktemp("bookshop")
    rng = np.random.default_rng(0)
    pd.DataFrame(
        {
            "Leser": [f"Käthe-{n}" for n in rng.integers(0, 40, 1500)],
            "Buch": rng.integers(0, 30, 1500) + 2**60,
            "branch": rng.integers(0, 4, 1500),
            "Zeit": pd.Timestamp("2024-01-01") + pd.to_timedelta(np.sort(rng.integers(0, 10**6, 1500)), "s"),
            "Note": rng.integers(1, 6, 1500),
            "Bemerkung": "unread",
        }
    ).to_csv(folder / "loans.txt", sep=";", index=False)
    books = pd.DataFrame(
        {
            "book": np.arange(30) + 2**60,
            "writer": rng.choice(["Brontë", "Böll", "Eco", "Ōe"[1:]], 30),
            "pages": rng.integers(80, 900, 30).astype(str),
            "shelves": rng.choice(["novel/old", "poems", "novel/new/war", ""], 30),
        }
    )
    books.loc[3, "pages"] = "many"
    books.to_csv(folder / "books.tsv", sep="\t", index=False, encoding="latin-1")
    branches = pd.DataFrame({"branch": range(3), "town": ["Ulm", "Bonn", "Köln"]})
    branches.to_csv(folder / "branches.csv.gz", index=False)
    (folder / "configs" / "data").mkdir(parents=True)
    (folder / "configs" / "data" / "bookshop.yaml").write_text(YAML.format(folder=folder), encoding="utf-8")
    return folder


@pytest.fixture
def call_in(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[[Path], Callable[..., Done]]:
    """Run scripts in a folder and in this process, which saves the seconds that importing torch takes."""

    def enter(folder: Path) -> Callable[..., Done]:
        monkeypatch.chdir(folder)
        monkeypatch.setenv("RECSYS_CACHE", str(folder / "cache"))
        monkeypatch.setattr(sys, "path", list(sys.path))
        handlers = list(logging.getLogger().handlers)

        def call(script: str, *arguments: str) -> Done:
            monkeypatch.setattr(sys, "argv", [str(ROOT / "scripts" / script), *arguments])
            with pytest.raises(SystemExit) as ended:
                runpy.run_path(sys.argv[0], run_name="__main__")
            logging.getLogger().handlers[:] = handlers
            return Done(sys.argv, ended.value.code, *capfd.readouterr())

        return call

    return enter


@pytest.fixture
def call(call_in: Callable[[Path], Callable[..., Done]], bookshop: Path) -> Callable[..., Done]:
    """Run a script in the bookshop's folder."""
    return call_in(bookshop)


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the commands on the built-in shop, whose runs are shared by all files."""
    return tmp_path_factory.mktemp("workplace")


@pytest.fixture
def command(
    call_in: Callable[[Path], Callable[..., Done]], workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    """Run a script in the workplace; returns exit code, stdout and stderr."""
    call = call_in(workplace)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("RECSYS_BUNDLE_KEY", raising=False)
    monkeypatch.setattr(measure, "SECONDS", 0.0)

    def make(script: str, *arguments: str) -> tuple[int, str, str]:
        done = call(script, *arguments)
        return done.returncode, done.stdout, done.stderr

    return make


@pytest.fixture
def trained(command: Callable[..., tuple[int, str, str]], workplace: Path) -> Callable[[str], Path]:
    """The folder of a run with its bundle, trained by the first test that asks for it."""

    def make(name: str) -> Path:
        folder = workplace / "runs" / name
        if not folder.exists():
            code, out, error = command("train.py", *SHOP, *RUNS[name], f"hydra.run.dir={folder}")
            assert code == 0, error
            assert f"bundle: {folder}/bundle and bundle.tar.gz (float32, " in out
            assert "of the model's scores)" in out
        return folder

    return make


@pytest.fixture
def run(request: pytest.FixtureRequest, trained: Callable[[str], Path]) -> Path:
    """DeepFM's run, or that which a test names."""
    return trained(getattr(request, "param", "deepfm"))
