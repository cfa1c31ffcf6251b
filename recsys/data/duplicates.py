"""Equal rows by a hash of 128 bits each: exact but for a chance of one in 10^21 at a billion rows."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from recsys.data.cells import is_list, is_text, to_pandas
from recsys.data.coded import encode_cells

_KEYS = ("recsys rows, one", "recsys rows, two")  # of the hash of texts, 16 characters each
_ODD = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F))
_NANOSECONDS = {unit: np.uint64(10**power) for unit, power in (("s", 9), ("ms", 6), ("us", 3), ("ns", 0))}
_MISSING = np.uint64(0xA5A5A5A5A5A5A5A5)


def row_hashes(batch: pa.Table) -> np.ndarray:
    """The hash of each row, uint64 (R, 2); equal cells in all columns give equal hashes, missing ones are equal."""
    found = np.zeros((2, len(batch)), dtype="uint64")
    for cells in batch.columns:
        for half, (hashes, odd) in enumerate(zip(_cell_hashes(cells), _ODD, strict=True)):
            found[half] = _mixed(found[half] * odd + hashes)
    return found.T.copy()


def list_texts(lists: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Each list as a text, equal where the lists are: a mark ends a value, another stands for a missing one."""
    lists = lists.combine_chunks() if isinstance(lists, pa.ChunkedArray) else lists
    lists = lists.cast(pa.list_(pa.string()))
    texts = pc.coalesce(pc.binary_join_element_wise(lists.flatten(), "\x1f", ""), "\x1e")
    counts = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
    offsets = pa.array(np.append(0, np.cumsum(counts)), pa.int32())
    return pc.binary_join(pa.ListArray.from_arrays(offsets, texts, mask=lists.is_null()), "")


def _cell_hashes(cells: pa.ChunkedArray) -> list[np.ndarray]:
    if is_list(cells.type):
        cells = pa.chunked_array([list_texts(cells)])
    kind = cells.type.value_type if pa.types.is_dictionary(cells.type) else cells.type
    if is_text(kind) or pa.types.is_binary(kind):
        values, code = encode_cells(cells)
        texts = values.cast(pa.large_string()).to_numpy(zero_copy_only=False)
        return [np.append(pd.util.hash_array(texts, hash_key=key, categorize=False), _MISSING)[code] for key in _KEYS]
    plain = to_pandas(pa.table({"cells": cells}))["cells"]
    if plain.dtype == object:  # days, decimals
        return _cell_hashes(pa.chunked_array([pa.array(plain.astype("str"), pa.large_string(), from_pandas=True)]))
    bits = _bits(plain)
    return [bits, bits ^ (bits << np.uint64(32))]


def _bits(values: pd.Series) -> np.ndarray:
    """Numbers, truths and moments as 64 bits; integers and floats of one value alike, moments of any unit too."""
    missing = values.isna().to_numpy()
    if pd.api.types.is_datetime64_any_dtype(values):
        bits = values.astype("int64").to_numpy().view("uint64") * _NANOSECONDS[values.dt.unit]
    elif pd.api.types.is_float_dtype(values):
        number = values.to_numpy("float64", na_value=0.0) + 0.0  # which makes -0 a 0
        bits = number.view("uint64").copy()
    else:
        whole = values.to_numpy("uint64" if "uint64" in str(values.dtype) else "int64", na_value=0)
        number = whole.astype("float64")
        rounded = np.where(number < 2.0**63, number, number - 2.0**64).astype("int64")  # the same modulo 2^64
        bits = number.view("uint64") ^ (whole.view("uint64") - rounded.view("uint64"))
    bits[missing] = _MISSING
    return bits


def _mixed(bits: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014): every bit in reaches every bit out."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
