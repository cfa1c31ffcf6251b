"""Read tables (CSV with any separator, gzip, Parquet) and give their columns clean types."""

import datetime
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from recsys.declare import nearest
from recsys.schema import Column, Time

SplitName = Literal["train", "valid", "test"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)
SPLIT_COLUMN = "split"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Where a table lies and how it is written.

    `path` is one file, a list of files, or one file per split (`{train: ..., valid: ..., test: ...}`). Files that
    end in `.parquet` are Parquet, all others text, `.gz` compressed. Without a `header`, `names` lists the columns.
    `rename` maps the file's column names to the names used in the configuration; `na` lists the texts that
    mean "missing". `key` is the column of an items, users or scenes table that the behaviour table refers to;
    behaviour rows whose key is not in it are dropped, or kept with missing attributes (`unknown: keep`).
    """

    path: str | tuple[str, ...] | dict[str, str]
    key: str | None = None
    sep: str = ","
    encoding: str = "utf-8"
    header: bool = True
    names: tuple[str, ...] | None = None
    rename: dict[str, str] = field(default_factory=dict)
    na: tuple[str, ...] = ("", "null", "NULL", "NaN", "nan", "\\N")
    duplicates: Literal["drop", "keep"] = "drop"
    unknown: Literal["drop", "keep"] = "drop"

    def __post_init__(self) -> None:
        if not self.header and not self.names:
            raise ValueError("a table without a header needs `names`, the list of its columns.")
        if not self.sep:
            raise ValueError("`sep` must not be empty.")
        if isinstance(self.path, dict) and (unknown := set(self.path) - set(SPLITS)):
            raise ValueError(f"`path` has no split {unknown.pop()!r}. Valid: {', '.join(SPLITS)}.")

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file of the table."""
        paths = (self.path,) if isinstance(self.path, str) else tuple(self.path)
        return tuple(map(Path, self.path.values() if isinstance(self.path, dict) else paths))


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSet:
    """The tables of a dataset; all but `behaviour` are optional.

    `history` holds past positive events (user, item, time or order) kept apart from the labelled rows;
    `social` holds friendships, two user columns.
    """

    behaviour: Table
    items: Table | None = None
    users: Table | None = None
    scenes: Table | None = None
    history: Table | None = None
    social: Table | None = None

    def present(self) -> dict[str, Table]:
        """The declared tables by name."""
        named = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: table for name, table in named.items() if table is not None}


def check_files(tables: TableSet, about: str) -> None:
    """Raise FileNotFoundError naming the first missing file, its table and where to get the data (`about`)."""
    for name, table in tables.present().items():
        for path in table.files:
            if not path.is_file():
                hint = f" {about.strip()}" if about.strip() else ""
                raise FileNotFoundError(f"table `{name}`: there is no file {str(path)!r}.{hint}")


def column_names(table: Table, name: str) -> list[str]:
    """The column names of a table after `rename`."""
    first = table.files[0]
    if first.suffix == ".parquet":
        names = pa.parquet.read_schema(first).names
    elif table.header:
        names = _read_text(table, name, first, limit=0).column_names
    else:
        names = list(table.names or ())
    if missing := [old for old in table.rename if old not in names]:
        raise ValueError(f"table `{name}` ({first}): `rename` names {missing[0]!r}: {nearest(missing[0], names)}")
    renamed = [table.rename.get(n, n) for n in names]
    return [*renamed, SPLIT_COLUMN] if isinstance(table.path, dict) else renamed


def read_table(table: Table, name: str, wanted: Collection[str]) -> pd.DataFrame:
    """Read the `wanted` columns (names after `rename`) of every file of a table.

    Raises ValueError for a missing column, an empty table or a row that does not parse.
    """
    available = column_names(table, name)
    for column in wanted:
        if column not in available:
            raise ValueError(f"table `{name}` has no column {column!r}: {nearest(column, available)}")
    frames = []
    for number, path in enumerate(table.files):
        frame = _to_pandas(_read_file(table, name, path, [c for c in wanted if c != SPLIT_COLUMN]))
        if isinstance(table.path, dict):
            frame[SPLIT_COLUMN] = list(table.path)[number]
        frames.append(frame[list(wanted)])
    frame = pd.concat(frames, ignore_index=True) if len(frames) > 1 else frames[0]
    if frame.empty:
        raise ValueError(f"table `{name}` is empty: {table.files[0]} has no rows.")
    return frame


def _read_file(table: Table, name: str, path: Path, wanted: list[str]) -> pa.Table:
    """One file's wanted columns under their names after `rename`."""
    old_names = {new: old for old, new in table.rename.items()}
    source = [old_names.get(column, column) for column in wanted]
    try:
        if path.suffix == ".parquet":
            content = pa.parquet.read_table(path, columns=source).select(source)
        else:
            content = _read_text(table, name, path).select(source)
    except KeyError as error:
        raise ValueError(f"table `{name}`: file {path} lacks a column: {error.args[0]}") from None
    return content.rename_columns(wanted)


def _read_text(table: Table, name: str, path: Path, limit: int | None = None) -> pa.Table:
    """A text file with every column as strings, so that no identifier passes through a float."""
    if len(table.sep) > 1:
        return _read_wide_separator(table, name, path, limit)
    names = None if table.header else list(table.names or ())
    parse = pa.csv.ParseOptions(delimiter=table.sep, newlines_in_values=True)
    read = pa.csv.ReadOptions(encoding=table.encoding, column_names=names)
    try:
        with pa.csv.open_csv(path, read, parse) as reader:
            columns = reader.schema.names
            if limit == 0:
                return pa.table({column: pa.array([], pa.string()) for column in columns})
        convert = pa.csv.ConvertOptions(
            column_types=dict.fromkeys(columns, pa.string()), null_values=list(table.na), strings_can_be_null=True
        )
        return pa.csv.read_csv(path, read, parse, convert)
    except pa.ArrowInvalid as error:
        if "Empty CSV file" in str(error):
            raise ValueError(f"table `{name}` is empty: {path} has no rows.") from None
        raise ValueError(f"table `{name}`: {path} does not parse with sep={table.sep!r}: {error}") from None


def _read_wide_separator(table: Table, name: str, path: Path, limit: int | None) -> pa.Table:
    """Separators of several characters, such as `::`, are beyond Arrow's reader."""
    try:
        frame = pd.read_csv(
            path,
            sep=table.sep.replace("|", r"\|"),
            engine="python",
            encoding=table.encoding,
            header=0 if table.header else None,
            names=None if table.header else list(table.names or ()),
            dtype=str,
            nrows=limit,
            keep_default_na=False,
            na_values=list(table.na),
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ValueError(f"table `{name}`: {path} does not parse with sep={table.sep!r}: {error}") from None
    return pa.Table.from_pandas(frame, preserve_index=False)


def _to_pandas(content: pa.Table) -> pd.DataFrame:
    """Nullable integers instead of floats, lists as Arrow lists, dictionaries decoded, the rest by default."""

    def dtype(kind: pa.DataType) -> pd.api.extensions.ExtensionDtype | None:
        if pa.types.is_integer(kind) and kind != pa.uint64():
            return pd.Int64Dtype()
        if pa.types.is_list(kind) or pa.types.is_large_list(kind) or kind == pa.uint64():
            return pd.ArrowDtype(kind)
        return None

    for n, schema_field in enumerate(content.schema):
        if pa.types.is_dictionary(schema_field.type):
            decoded = content.column(n).cast(schema_field.type.value_type)
            content = content.set_column(n, schema_field.name, decoded)
    return content.to_pandas(types_mapper=dtype)


_INTEGER = r"^-?(0|[1-9][0-9]{0,17})$"


def as_category(values: pd.Series) -> pd.Series:
    """Identifiers as nullable int64 where every value is a plain integer, else as strings.

    "007" and integers beyond int64 stay strings, so no two identifiers ever collide.

    >>> as_category(pd.Series(["12", None, "-3"])).dtype, as_category(pd.Series(["007", "8"])).dtype
    (Int64Dtype(), <StringDtype(na_value=nan)>)
    """
    if pd.api.types.is_bool_dtype(values) or isinstance(values.dtype, pd.Int64Dtype):
        return values.astype("Int64")
    if pd.api.types.is_float_dtype(values):
        whole = values.dropna()
        if (whole == whole.round()).all() and (whole.abs() < 2**53).all():
            return values.astype("Int64")
        return values.astype(object).where(values.notna(), None).map(repr, na_action="ignore").astype("str")
    texts = pa.array(values.astype("str"), pa.string(), from_pandas=True)
    if pc.all(pc.match_substring_regex(texts, _INTEGER)).as_py() and len(texts) > texts.null_count:
        return pd.Series(texts.cast(pa.int64()).to_pandas(types_mapper=None, integer_object_nulls=True)).astype(
            "Int64"
        )
    return texts.to_pandas().astype("str")


def as_number(values: pd.Series) -> tuple[pd.Series, int]:
    """Values as float64 with NaN for missing ones, and how many were present but no finite number."""
    numbers = pd.to_numeric(values, errors="coerce").astype("float64")
    numbers = numbers.where(np.isfinite(numbers))
    bad = int((values.notna() & numbers.isna()).sum())
    return numbers, bad


def as_seconds(values: pd.Series, time: Time) -> tuple[pd.Series, int]:
    """Timestamps as float64 seconds since 1970 with NaN for missing ones, and how many did not parse."""
    if pd.api.types.is_datetime64_any_dtype(values):
        seconds = (values - pd.Timestamp(0, tz=values.dt.tz)).dt.total_seconds()
        return seconds, 0
    numbers, bad = as_number(values)
    if bad == 0:
        return numbers / (1000.0 if time.unit == "ms" else 1.0), 0
    moments = pd.to_datetime(values, errors="coerce", utc=True, format="ISO8601")
    seconds = (moments - pd.Timestamp(0, tz=datetime.UTC)).dt.total_seconds()
    return seconds, int((values.notna() & seconds.isna()).sum())


def as_tags(values: pd.Series, column: Column) -> pd.Series:
    """Cells as Arrow lists of strings or integers; a text is split at `column.sep`, blanks left out."""
    cells = pa.array(values, from_pandas=True)
    if isinstance(cells, pa.ChunkedArray):
        cells = cells.combine_chunks()
    if not (pa.types.is_list(cells.type) or pa.types.is_large_list(cells.type)):
        texts = pc.utf8_trim_whitespace(cells.cast(pa.string()))
        cells = pc.split_pattern(pc.if_else(pc.equal(texts, ""), None, texts), column.sep)
    items = as_category(cells.flatten().to_pandas().astype("str")) if len(cells.flatten()) else None
    values_type = pa.int64() if items is not None and isinstance(items.dtype, pd.Int64Dtype) else pa.string()
    return pd.Series(pd.array(cells.cast(pa.list_(values_type)), dtype=pd.ArrowDtype(pa.list_(values_type))))


def time_part(seconds: np.ndarray, part: str, utc_offset: float) -> np.ndarray:
    """Hour 0-23, weekday 0 (Monday) - 6, weekend 0/1 or month 1-12 of local time, int64.

    >>> time_part(np.array([0.0, 86400.0 * 2 + 3600]), "weekday", 0.0).tolist()
    [3, 5]
    """
    local = np.floor(seconds + utc_offset * 3600).astype("int64")
    days = local // 86400
    if part == "hour":
        return local // 3600 % 24
    if part == "month":
        return days.astype("datetime64[D]").astype("datetime64[M]").astype("int64") % 12 + 1
    weekday = (days + 3) % 7  # 1970-01-01 was a Thursday
    return weekday if part == "weekday" else (weekday >= 5).astype("int64")


def same_type(*columns: pd.Series) -> list[pd.Series]:
    """Identifier columns that will be compared: all integers, or all strings."""
    if all(isinstance(column.dtype, pd.Int64Dtype) for column in columns):
        return list(columns)
    return [column.astype("str") if column.dtype != "str" else column for column in columns]

