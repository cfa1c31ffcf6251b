"""What a person sees of variants: every figure in the table, the files and the run's page, and the test part once."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from sklearn.metrics import roc_auc_score

from export.artifact import model_scores
from export.compress import Compression, Variant
from export.measure import BATCHES
from export.report import loss_on_test, report_variants, variants_table
from recsys.data.split import TEST


def variant(
    metrics: dict[str, float], loss: tuple[float, float, float], path: Path = Path(), **changed: Any
) -> Variant:
    """A variant with figures that no other has."""
    seed = 1000 * loss[0] + 1
    figures = {"size_mb": seed * 12.5, "load_s": seed * 0.25, "rss_mb": seed * 33.0, "rows_per_s": seed * 98765.0}
    figures |= {f"p50_ms@{batch}": seed * batch / 100 for batch in BATCHES}
    figures |= {f"p99_ms@{batch}": seed * batch / 64 for batch in BATCHES}
    model: Any = SimpleNamespace(saw_valid=False)
    nothing: Any = None
    return Variant(model=model, encoders=nothing, path=path, figures=figures, metrics=metrics, loss=loss, **changed)


NDCG = "ndcg@10[99 sampled]"
VARIANTS = [
    variant({NDCG: 0.4321}, (0.0, 0.0, 0.0)),
    variant({NDCG: 0.4216}, (0.0105, -0.002, 0.0207), keep=0.5, tables="int8"),
]


def printed(variants: list[Variant], chosen: Variant | None) -> str:
    console = Console(width=140, highlight=False)
    with console.capture() as capture:
        console.print(variants_table(variants, chosen))
    return capture.get()


def test_the_table_shows_every_variant_with_its_loss_and_interval():
    text = printed(VARIANTS, VARIANTS[1])
    lines = (next(line for line in text.splitlines() if name in line) for name in ("float32", "width x0.5"))
    first, second = ([cell.strip() for cell in line.strip("│").split("│")] for line in lines)
    assert first == ["float32", "12.5", "0.25", "2.56", "4", "98,765", "0.4321", "0.0000 (0.0000 to 0.0000)"]
    assert (second[0], *second[-2:]) == ("width x0.5, int8 tables", "0.4216", "0.0105 (-0.0020 to 0.0207)")
    assert NDCG in text


@pytest.mark.parametrize("chosen", [VARIANTS[1], None])
@pytest.mark.parametrize("finished", [True, False])
def test_files_and_page_hold_what_was_measured(tmp_path, capsys, chosen, finished):
    if finished:
        (tmp_path / "metrics.json").write_text(json.dumps({"model": "DIN", "test": {"ndcg@10": 0.4}}))
    test = {"rows": 7, "float32": {NDCG: 0.4}, "chosen": {NDCG: 0.39}, "metric": NDCG, "loss": 0.01234}
    test = {**test, "interval": [-0.001, 0.02]} if chosen else None
    report_variants(tmp_path, VARIANTS, chosen, Compression(budget=0.02, target="size"), test)
    content = json.loads((tmp_path / "variants.json").read_text())
    assert (content["budget"], content["target"], content["test"]) == (0.02, "size", test)
    assert content["chosen"] == (chosen.name if chosen else None)
    assert content["variants"] == [v.row() for v in VARIANTS]
    assert set(content["machine"]) == {"cpu", "system", "onnxruntime"}
    picture = (tmp_path / "plots" / "variants.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 5000
    assert "width x0.5, int8 tables" in capsys.readouterr().out
    assert (tmp_path / "report.html").exists() == finished
    if finished:
        page = (tmp_path / "report.html").read_text(encoding="utf-8")
        assert page.count("width x0.5, int8 tables") >= (2 if chosen else 1)
        assert ("width x0.5, int8 tables ✓" in page) == bool(chosen)
        assert ("None was better inside the budget." in page) == (chosen is None)
        assert "0.4216" in page, "Bug: the page left out the metric of implicit data"
        assert ("0.01234" in page) == bool(chosen)


@pytest.mark.parametrize("saw_valid", [True, False])
def test_validation_rows_that_the_model_has_learned_are_named(tmp_path, capsys, monkeypatch, saw_valid):
    monkeypatch.setattr(VARIANTS[0].model, "saw_valid", saw_valid)
    (tmp_path / "metrics.json").write_text(json.dumps({"model": "DIN", "test": {"ndcg@10": 0.4}}))
    report_variants(tmp_path, VARIANTS, None, Compression(), None)
    assert ("validation rows, learned by the model" in capsys.readouterr().out) is saw_valid
    assert json.loads((tmp_path / "variants.json").read_text())["saw_valid"] is saw_valid
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert ("validation rows, which it has learned" in page) is saw_valid


def test_the_test_part_is_judged_for_the_chosen_one(exported):
    float32, chosen = exported("deepfm"), exported("mf")
    paths = [made.paths["recommender"] for made in (float32, chosen)]
    variants = [variant({"auc": 0.5}, (loss, 0.0, 0.0), path) for loss, path in zip((0.0, 0.1), paths, strict=True)]
    found = loss_on_test(variants, variants[1], float32.raw, 10**6)
    store = float32.raw.store
    rows = np.flatnonzero(store.part_E == TEST)
    scores = [model_scores(made.model, made.raw, rows, store.item_E[rows]) for made in (float32, chosen)]
    auc = [roc_auc_score(store.label_E[rows], score) for score in scores]
    assert found["rows"] == len(rows)
    assert [found["float32"]["auc"], found["chosen"]["auc"]] == pytest.approx(auc)
    assert found["loss"] == pytest.approx(auc[0] - auc[1])
    assert found["interval"][0] <= found["loss"] <= found["interval"][1]
    assert found["metric"] == "auc"
