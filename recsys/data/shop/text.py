"""Columns of text as bytes: uint8 of shape (N, W), padded with zeros that are not written."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np


def text(values: Sequence[str]) -> np.ndarray:
    """Return strings as a column.

    >>> text(["a", "bc"]).tolist()
    [[97, 0], [98, 99]]
    """
    return np.array([value.encode() for value in values], dtype=bytes).view(np.uint8).reshape(len(values), -1)


def digits(value_N: np.ndarray, width: int) -> np.ndarray:
    """Return whole numbers of at least 0 as a column of `width` decimal digits.

    >>> lines([digits(np.array([7, 42]), 3)])
    b'007\\n042\\n'
    """
    power_W = 10 ** np.arange(width)[::-1]
    return (value_N[:, None] // power_W % 10 + ord("0")).astype(np.uint8)


def ids(prefix: str, count: int, width: int) -> np.ndarray:
    """Return the ids from 0 to `count - 1`, of at least `width` digits, as a column.

    >>> lines([ids("u", 2, 3)])
    b'u000\\nu001\\n'
    """
    width = max(width, len(str(count - 1)))
    return np.concatenate([np.tile(text([prefix]), (count, 1)), digits(np.arange(count), width)], axis=1)


def lines(columns: Sequence[np.ndarray]) -> bytes:
    """Return columns as comma-separated lines."""
    comma_N1 = np.full((len(columns[0]), 1), ord(","), dtype=np.uint8)
    pieces = [piece for column_NW in columns for piece in (column_NW, comma_N1)]
    line_NW = np.concatenate([*pieces[:-1], np.full_like(comma_N1, ord("\n"))], axis=1)
    return line_NW[line_NW != 0].tobytes()


def write_table(path: Path, columns: Mapping[str, np.ndarray]) -> None:
    """Write a CSV file of columns under their names."""
    path.write_bytes(",".join(columns).encode() + b"\n" + lines(list(columns.values())))
