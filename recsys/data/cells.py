"""The cells of a table as clean types: identifiers, numbers, moments and tags; and columns of them compared.

Whatever was read, an identifier is an integer only where every one of its column is.
"""

import datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from recsys.schema import Column, Time


def to_pandas(content: pa.Table) -> pd.DataFrame:
    """Nullable integers and booleans, lists as Arrow lists, dictionaries and bytes as text, the rest by default."""

    def dtype(kind: pa.DataType) -> pd.api.extensions.ExtensionDtype | None:
        if pa.types.is_boolean(kind):
            return pd.BooleanDtype()
        if pa.types.is_integer(kind) and kind != pa.uint64():
            return pd.Int64Dtype()
        if is_list(kind) or kind == pa.uint64():
            return pd.ArrowDtype(kind)
        return None

    for n, column in enumerate(content.schema):
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        plain = pa.string() if pa.types.is_binary(kind) else kind
        if column.type != plain:
            content = content.set_column(n, column.name, content.column(n).cast(kind).cast(plain))
    return content.to_pandas(types_mapper=dtype)


def is_list(kind: pa.DataType) -> bool:
    """Whether a column's cells are lists."""
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def is_text(kind: pa.DataType) -> bool:
    """Whether a column's cells are texts."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


_INTEGER = r"^(0|-?[1-9][0-9]{0,17})$"


def plain_integers(texts: pa.Array) -> pa.Array:
    """Texts as int64 where every one is a plain integer, else unchanged."""
    plain = len(texts) > texts.null_count and pc.all(pc.match_substring_regex(texts, _INTEGER)).as_py()
    return texts.cast(pa.int64()) if plain else texts


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
        values = values.astype(object).where(values.notna(), None).map(repr, na_action="ignore")
    typed = plain_integers(pa.array(values.astype("str"), pa.large_string(), from_pandas=True))
    if typed.type == pa.int64():
        return typed.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get).set_axis(values.index)
    return typed.to_pandas().astype("str").set_axis(values.index)


def as_number(values: pd.Series, decimal: str = ".") -> pd.Series:
    """Values as float64; true and false count as 1 and 0; NaN where there is no finite number.

    >>> as_number(pd.Series(["3,5", "1.234", "7"]), decimal=",").tolist()
    [3.5, nan, 7.0]
    """
    texts = values
    if decimal != "." and pd.api.types.is_string_dtype(values):
        texts = values.str.replace(".", "?", regex=False).str.replace(decimal, ".", regex=False)
    numbers = pd.to_numeric(texts, errors="coerce").astype("float64")
    strange = values[numbers.isna() & values.notna()]
    if len(strange):
        truth = strange.astype("str").str.lower().map({"true": 1.0, "false": 0.0})
        numbers = numbers.fillna(truth)
    return numbers.where(np.isfinite(numbers))


def as_seconds(values: pd.Series, time: Time, weight: np.ndarray | None = None, decimal: str = ".") -> pd.Series:
    """Timestamps as float64 seconds since 1970, NaN where there is none; texts are numbers or ISO 8601.

    Texts are read as numbers where half of them are; `weight` says how many rows each value stands for.
    """
    if pd.api.types.is_datetime64_any_dtype(values):
        return (values - pd.Timestamp(0, tz=values.dt.tz)).dt.total_seconds()
    numbers = as_number(values, decimal) / (1000.0 if time.unit == "ms" else 1.0)
    weight = np.ones(len(values)) if weight is None else weight
    if (numbers.notna() * weight).sum() * 2 >= (values.notna() * weight).sum():
        return numbers
    moments = pd.to_datetime(values, errors="coerce", utc=True, format="ISO8601")
    return (moments - pd.Timestamp(0, tz=datetime.UTC)).dt.total_seconds()


def as_tags(values: pd.Series, column: Column) -> pd.Series:
    """Cells as Arrow lists of strings or integers; a text is split at `column.sep`.

    Blank and missing tags are left out; a cell without any tag is missing.
    """
    cells = pa.array(values, from_pandas=True)
    if isinstance(cells, pa.ChunkedArray):
        cells = cells.combine_chunks()
    if not is_list(cells.type):
        cells = pc.split_pattern(cells.cast(pa.string()), column.sep)
    tags = pc.utf8_trim_whitespace(pc.list_flatten(cells).cast(pa.string()))
    present = pc.fill_null(pc.not_equal(tags, ""), False)
    counts = np.bincount(pc.list_parent_indices(cells).filter(present), minlength=len(cells))
    offsets = pa.array(np.append(0, np.cumsum(counts)), pa.int32())
    lists = pa.ListArray.from_arrays(offsets, plain_integers(tags.filter(present)), mask=pa.array(counts == 0))
    return pd.Series(pd.array(lists, dtype=pd.ArrowDtype(lists.type)), index=values.index)


def fill_missing(values: pd.Series, fill: str | int | float) -> pd.Series:
    """A typed column (category, number or tags) with `fill` for its missing values."""
    if isinstance(values.dtype, pd.ArrowDtype):
        return _fill_tags(values, fill)
    if pd.api.types.is_float_dtype(values.dtype):
        return values.fillna(float(fill))
    if isinstance(fill, int) and values.dtype != "str":
        return values.fillna(fill)
    return values.astype("str").fillna(str(fill))


def _fill_tags(values: pd.Series, fill: str | int | float) -> pd.Series:
    tags = pa.array(values)
    integers = isinstance(fill, int) and pa.types.is_integer(tags.type.value_type)
    kind = pa.list_(pa.int64() if integers else pa.string())
    filled = pc.coalesce(tags.cast(kind), pa.scalar([fill if integers else str(fill)], kind))
    return pd.Series(pd.array(filled, dtype=pd.ArrowDtype(kind)), index=values.index)


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
    return [column.astype("str") for column in columns]


def identifiers(values: pd.Series) -> pa.Array:
    """A category column as an Arrow array of integers or texts."""
    kind = pa.int64() if isinstance(values.dtype, pd.Int64Dtype) else pa.large_string()
    array = pa.array(values, from_pandas=True)
    return (array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array).cast(kind)


def distinct(values: pd.Series) -> pd.Series:
    """The different values of a category column without missing ones, sorted."""
    found = identifiers(values).unique().drop_null()
    return to_pandas(pa.table({"values": found.take(pc.array_sort_indices(found))}))["values"].astype(values.dtype)


def positions(values: pd.Series, known: pd.Series) -> np.ndarray:
    """Where each value stands among `known` ones of the same type, int64; -1 for missing and unknown values."""
    return pc.index_in(identifiers(values), value_set=identifiers(known)).fill_null(-1).to_numpy().astype("int64")
