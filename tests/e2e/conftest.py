"""A stranger's bookshop and the real command line, for the end-to-end tests."""

import logging
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(Path(__file__).parent))  # for `warm`, also where processes are forked
Done = subprocess.CompletedProcess[str]

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
def call(
    bookshop: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Done]]:
    """The same script in this process, which saves the seconds that importing torch takes."""
    monkeypatch.chdir(bookshop)
    monkeypatch.setenv("RECSYS_CACHE", str(bookshop / "cache"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    handlers = list(logging.getLogger().handlers)

    def make(script: str, *arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", [str(ROOT / "scripts" / script), *arguments])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(sys.argv[0], run_name="__main__")
        out, err = capfd.readouterr()
        return Done(sys.argv, ended.value.code, out, err)

    yield make
    logging.getLogger().handlers[:] = handlers
