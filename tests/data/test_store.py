"""The store: reuse, fingerprints, atomicity, what the encoders saw."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recsys.data.batches import Rows
from recsys.data.module import DataModule, DataSpec
from recsys.data.split import TRAIN
from recsys.data.store import open_store, row_counts, write_atomically


def prepare(mapping: dict, cache: Path) -> DataModule:
    data = DataModule(DataSpec.parse(mapping), cache=cache)
    data.prepare_data()
    data.setup()
    return data


def folders(cache: Path) -> list[str]:
    return sorted(p.name for p in cache.iterdir())


def test_the_store_is_reused_until_schema_or_files_change(tiny, tmp_path):
    cache = tmp_path / "cache"
    data = prepare(tiny, cache)
    written = (data.folder / "meta.json").stat().st_mtime_ns
    assert (prepare(tiny, cache).folder / "meta.json").stat().st_mtime_ns == written
    assert len(folders(cache)) == 1
    other = {**tiny, "columns": {**tiny["columns"], "shelf": {"role": "item", "kind": "category", "min_count": 2}}}
    assert prepare(other, cache).folder != data.folder
    os.utime(tmp_path / "goods.csv", ns=(1, 1))
    assert prepare(tiny, cache).folder != data.folder
    assert len(folders(cache)) == 3


def test_arrays_are_memory_mapped(tiny, tmp_path):
    store = prepare(tiny, tmp_path / "cache").store
    for array in (store.user_E, store.label_E, store.sides["item"].ids, store.history_H, store.history_order_H):
        assert isinstance(array, np.memmap)


def test_encoders_saw_training_rows_only(tiny, tmp_path):
    store = prepare(tiny, tmp_path / "cache").store
    visits = pd.read_csv(tmp_path / "visits.csv")[np.asarray(store.part_E) == TRAIN]
    fitted = store.encoders.to_dict()
    counts = visits["shopper"].value_counts().to_dict()
    assert dict(zip(fitted["shopper"]["values"], fitted["shopper"]["counts"], strict=True)) == counts
    shelf = pd.read_csv(tmp_path / "goods.csv").set_index("sku")["shelf"][visits["sku"]].value_counts().to_dict()
    assert dict(zip(fitted["shelf"]["values"], fitted["shelf"]["counts"], strict=True)) == shelf


def test_label_mean_is_the_training_mean(tiny, tmp_path):
    store = prepare(tiny, tmp_path / "cache").store
    visits = pd.read_csv(tmp_path / "visits.csv")[np.asarray(store.part_E) == TRAIN]
    assert store.schema.label_mean == pytest.approx(visits["bought"].mean())


def test_a_failed_preparation_leaves_nothing(tiny, tmp_path):
    cache = tmp_path / "cache"
    visits = pd.read_csv(tmp_path / "visits.csv").assign(bought=1)
    visits.to_csv(tmp_path / "visits.csv", index=False)
    with pytest.raises(ValueError, match=r"all \d+ train labels are 1 .*'bought'"):
        prepare(tiny, cache)
    assert not cache.exists() or folders(cache) == []


def test_write_atomically_leaves_nothing_when_writing_fails(tmp_path):
    def fail(draft: Path) -> None:
        (draft / "half").write_text("x")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(tmp_path / "store", fail)
    assert folders(tmp_path) == []


def test_write_atomically_keeps_what_another_process_finished(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "done").write_text("theirs")
    write_atomically(tmp_path / "store", lambda draft: (draft / "done").write_text("ours") and None)
    assert (tmp_path / "store" / "done").read_text() == "theirs"
    assert folders(tmp_path) == ["store"]


def test_a_store_opens_as_it_was_written(tiny, tmp_path):
    data = prepare(tiny, tmp_path / "cache")
    again = open_store(data.folder)
    assert again.schema == data.schema
    assert again.encoders == data.store.encoders
    assert again.cleaning["rows"]["behaviour"]["kept"] == len(again.user_E)


def test_titles_are_read_by_item_position(tiny, tmp_path):
    goods = pd.read_csv(tmp_path / "goods.csv").assign(name=["Töpfe", *[None] * 10, '"Best" pan'])
    goods.to_csv(tmp_path / "goods.csv", index=False)
    keys = [str(sku) for sku in range(100, 112)]
    assert prepare(tiny, tmp_path / "cache").store.titles.to_pylist() == keys
    titled = prepare({**tiny, "title": "name"}, tmp_path / "cache").store
    assert titled.titles.to_pylist() == ["Töpfe", *keys[1:11], '"Best" pan']
    assert titled.schema.title == "name"
    assert "name" not in {column.name for column in titled.schema.columns}


def test_a_store_without_its_titles_is_built_again(tiny, tmp_path):
    data = prepare(tiny, tmp_path / "cache")
    (data.folder / "items.parquet").write_bytes(b"PAR1")
    assert prepare(tiny, tmp_path / "cache").store.titles.to_pylist()[0] == "100"


def test_missing_file_says_where_to_get_the_data(tiny, tmp_path):
    spec = {**tiny, "about": "Ask the shop.", "tables": {**tiny["tables"], "items": {"path": str(tmp_path / "no.csv")}}}
    with pytest.raises(FileNotFoundError, match=r"table `items`: there is no file '.*no\.csv'. Ask the shop\."):
        prepare(spec, tmp_path / "cache")


@pytest.mark.parametrize("option", ["batch_size", "eval_batch_size"])
def test_sizes_must_be_positive(tiny, tmp_path, option):
    with pytest.raises(ValueError, match=f"`{option}` must be an integer of at least 1, got 0"):
        DataModule(DataSpec.parse(tiny), cache=tmp_path, **{option: 0})


def test_row_counts_are_the_occurrences_in_training_batches(tiny, tmp_path):
    store = prepare(tiny, tmp_path / "cache").store
    rows = Rows(store, TRAIN)
    batch = rows[np.arange(len(rows))]
    ids = np.concatenate([batch.ids_BF.numpy().ravel(), *(x.numpy().ravel() for x in batch.lists.values())])
    expected = np.bincount(ids, minlength=store.schema.rows)
    expected[0] = 0
    np.testing.assert_array_equal(row_counts(store), expected)
