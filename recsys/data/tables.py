"""Read tables: CSV with any separator, gzip, zip, Parquet."""

import codecs
import gzip
import io
import zipfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Literal, cast, get_args

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from recsys.data.cells import is_list, is_text, to_pandas
from recsys.declare import nearest

SplitName = Literal["train", "valid", "test"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)
SPLIT_COLUMN = "<split of the file>"  # no file's own column is called this


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Where a table lies and how it is written.

    `path` is one file, a list of files, or one file per split (`{train: ..., valid: ..., test: ...}`). Files that
    end in `.parquet` are Parquet, all others text, `.gz` compressed. `member` names the text file to read inside
    `.zip` files. Without a `header`, `names` lists the columns.
    White space around a text cell is no part of it. Where quotes mean nothing, set `quote` to an empty text.
    Numbers are written with the sign `decimal`, as "3,5"; a number with the other one is unreadable.
    `rename` maps the file's column names to the names used in the configuration; `na` lists the texts that
    mean "missing". `key` is the column of an items, users or scenes table that the behaviour table refers to;
    behaviour rows whose key is not in it are dropped, or kept with missing attributes (`unknown: keep`).
    `extract` maps a column to a regular expression (RE2) whose named groups become columns: from "Heat (1995)",
    `{title: '\\((?P<year>\\d{4})\\)$'}` makes a column year, missing where nothing matches. `explode` maps a column
    whose cells hold several values to their separator: such a row becomes one row per value. `duplicates` says what
    happens to rows that are equal in all that is read: they are dropped but one, or kept; `pairs` drops all rows of a
    user and an item but the earliest.
    """

    path: str | tuple[str, ...] | dict[str, str]
    member: str | None = None
    key: str | None = None
    sep: str = ","
    quote: str = '"'
    decimal: Literal[".", ","] = "."
    encoding: str = "utf-8"
    header: bool = True
    names: tuple[str, ...] | None = None
    rename: dict[str, str] = field(default_factory=dict)
    extract: dict[str, str] = field(default_factory=dict)
    explode: dict[str, str] = field(default_factory=dict)
    na: tuple[str, ...] = ("", "null", "NULL", "NaN", "nan", "\\N")
    duplicates: Literal["drop", "keep", "pairs"] = "drop"
    unknown: Literal["drop", "keep"] = "drop"

    def __post_init__(self) -> None:
        if not self.header and not self.names:
            raise ValueError("a table without a header needs `names`, the list of its columns.")
        if not self.sep:
            raise ValueError("`sep` must not be empty.")
        if len(self.quote) > 1:
            raise ValueError(f"`quote` must be one character or empty, got {self.quote!r}.")
        try:
            codecs.lookup(self.encoding)
        except LookupError:
            raise ValueError(f"`encoding` must be one that Python knows, got {self.encoding!r}.") from None
        if not self.files:
            raise ValueError("`path` must name at least one file.")
        for path in self.files:
            if (path.suffix == ".zip") != (self.member is not None):
                raise ValueError(
                    "`member` names the file to read inside a .zip file, and every .zip file needs one: "
                    f"got path {str(path)!r} and member {self.member!r}."
                )
        if isinstance(self.path, dict) and (unknown := set(self.path) - set(SPLITS)):
            raise ValueError(f"`path` has no split {unknown.pop()!r}. Valid: {', '.join(SPLITS)}.")
        for column, pattern in self.extract.items():
            try:
                found = _groups(pattern)
            except pa.ArrowInvalid as error:
                raise ValueError(
                    f"`extract.{column}` must be a regular expression of RE2 with named groups only, got {pattern!r}: "
                    f"{error}."
                ) from None
            if not found:
                raise ValueError(f"`extract.{column}` needs a named group such as (?P<year>...), got {pattern!r}.")

    @property
    def extracted(self) -> dict[str, str]:
        """The columns that `extract` makes, each with the column it is made from."""
        return {group: column for column, pattern in self.extract.items() for group in _groups(pattern)}

    def apart(self) -> list["Table"]:
        """A table for each of its files."""
        if isinstance(self.path, dict):
            return [replace(self, path={split: path}) for split, path in self.path.items()]
        return [replace(self, path=str(path)) for path in self.files]

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file of the table."""
        paths = (self.path,) if isinstance(self.path, str) else tuple(self.path)
        return tuple(map(Path, self.path.values() if isinstance(self.path, dict) else paths))


def _groups(pattern: str) -> list[str]:
    """The named groups of a regular expression, by the engine that runs it."""
    return [group.name for group in pc.extract_regex(pa.array([], pa.string()), pattern).type]


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSet:
    """The tables of a dataset; all but `behaviour` are optional.

    `history` holds past positive events (user, item, time or order) kept apart from the labelled rows;
    `social` holds friendships, two user columns; `candidates` holds the items (user, item) among which a user's liked
    items of the test part are to be ranked, where a protocol gives them.
    """

    behaviour: Table
    items: Table | None = None
    users: Table | None = None
    scenes: Table | None = None
    history: Table | None = None
    social: Table | None = None
    candidates: Table | None = None

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
    (header,) = _read_file(table, name, first, columns=())
    names = header.column_names
    if missing := [old for old in table.rename if old not in names]:
        raise ValueError(f"table `{name}` ({first}): `rename` names {missing[0]!r}: {_hint(table, missing[0], names)}")
    names = [table.rename.get(n, n) for n in names]
    for column in (*table.extract, *table.explode):
        if column not in names:
            raise ValueError(
                f"table `{name}` ({first}): `extract` or `explode` names {column!r}: {_hint(table, column, names)}"
            )
    return [*names, *table.extracted]


def check_columns(table: Table, name: str, wanted: Collection[str]) -> None:
    """Raise ValueError for a wanted column that the table lacks."""
    available = column_names(table, name)
    for column in wanted:
        if column != SPLIT_COLUMN and column not in available:
            raise ValueError(f"table `{name}` has no column {column!r}: {_hint(table, column, available)}")


def _hint(table: Table, column: str, names: list[str]) -> str:
    """The columns that there are, and whether these are a single one because `sep` is another."""
    text = len(names) == 1 and table.files[0].suffix != ".parquet"
    return nearest(column, names) + (_other_sep(table, names[0]) if text else "")


def _other_sep(table: Table, header: str) -> str:
    """The question whether the separator is the one that a header holds."""
    sep = max(";\t,|", key=header.count)
    return f" Is `sep` {sep!r} rather than {table.sep!r}?" if sep in header else ""


def row_count(table: Table) -> int | None:
    """The rows of all files, where they say it without being read, as Parquet does."""
    if any(path.suffix != ".parquet" for path in table.files):
        return None
    return sum(pa.parquet.read_metadata(path).num_rows for path in table.files)


def read_table(table: Table, name: str, wanted: Collection[str]) -> pd.DataFrame:
    """Read the `wanted` columns (names after `rename`) of every file of a table.

    Raises ValueError for a missing column, an empty table or a row that does not parse.
    """
    check_columns(table, name, wanted)
    frames = [to_pandas(batch) for batch in read_batches(table, name, wanted)]
    if not frames:
        raise empty_table(table, name)
    return pd.concat(frames, ignore_index=True) if len(frames) > 1 else frames[0]


def read_batches(table: Table, name: str, wanted: Collection[str], rows: int | None = None) -> Iterator[pa.Table]:
    """The `wanted` columns of a table in pieces of about `rows` rows, or file by file, none empty.

    `check_columns` comes before it, once for all files of the table.
    `SPLIT_COLUMN` may be wanted of a table with one file per split: the split of each row's file. Only the piece at
    hand is in memory, but for texts inside `.zip` files or with a separator of several characters: such a file is.
    """
    columns = [column for column in wanted if column != SPLIT_COLUMN]
    splits = list(table.path) if SPLIT_COLUMN in wanted else [None] * len(table.files)
    for path, split in zip(table.files, splits, strict=True):
        for batch in _read_columns(table, name, path, columns, rows):
            if split is not None:
                word = pa.DictionaryArray.from_arrays(pa.array(np.zeros(len(batch), "int32")), pa.array([split]))
                batch = batch.append_column(SPLIT_COLUMN, word)
            for column in table.explode:
                if column in batch.column_names:
                    exploded = _explode(to_pandas(batch), column, table)
                    batch = pa.Table.from_pandas(exploded, preserve_index=False)
            if len(batch):
                yield batch


def empty_table(table: Table, name: str) -> ValueError:
    """The error for a table without a row."""
    return ValueError(f"table `{name}` is empty: {table.files[0]} has no rows.")


def _read_columns(table: Table, name: str, path: Path, wanted: list[str], rows: int | None) -> Iterator[pa.Table]:
    """The wanted columns of a file under their names after `rename`, and those that `extract` makes."""
    old_names = {new: old for old, new in table.rename.items()}
    plain = list(dict.fromkeys(table.extracted.get(column, column) for column in wanted))
    source = [old_names.get(column, column) for column in plain]
    (header,) = _read_file(table, name, path, columns=())
    for column in source:
        if (count := header.column_names.count(column)) != 1:
            raise ValueError(f"table `{name}`: file {path} has {count} columns called {column!r}, not one.")
    for content in _read_file(table, name, path, source, rows):
        yield _extract(table, name, path, content.select(source).rename_columns(plain), wanted)


def _extract(table: Table, name: str, path: Path, content: pa.Table, wanted: list[str]) -> pa.Table:
    """The wanted columns, those that `extract` makes among them."""
    for column, made_from in table.extracted.items():
        if column in wanted:
            if is_list(content[made_from].type):
                raise ValueError(
                    f"table `{name}`: `extract` needs texts, but column {made_from!r} of {path} holds lists."
                )
            found = pc.extract_regex(content[made_from].cast(pa.string()), table.extract[made_from])
            values = pc.struct_field(found, column)
            content = content.append_column(column, pc.if_else(pc.equal(values, ""), None, values))
    return content.select(wanted)


def _explode(frame: pd.DataFrame, column: str, table: Table) -> pd.DataFrame:
    """One row per value of the cells of a column, which are lists or texts; cells without any stay as one row."""
    cells = frame[column]
    if not isinstance(cells.dtype, pd.ArrowDtype):
        cells = cells.astype("str").str.split(table.explode[column], regex=False)
    rows = frame.assign(**{column: cells}).explode(column)
    if pd.api.types.is_string_dtype(rows[column]):
        values = rows[column].str.strip()
        rows[column] = values.mask(values.isin(table.na))
    present = rows[column].notna()
    only = ~rows.index.isin(rows.index[present]) & ~rows.index.duplicated()
    return rows[present | only].reset_index(drop=True)


def _read_file(
    table: Table, name: str, path: Path, columns: Sequence[str], rows: int | None = None
) -> Iterator[pa.Table]:
    """Some columns of one file, in pieces of about `rows` rows; no columns asks for the names of all, without a row."""
    try:
        if path.suffix != ".parquet":
            yield from _read_text(table, path, columns, rows)
        elif not columns:
            yield pa.parquet.read_schema(path).empty_table()
        elif rows is None:
            yield pa.parquet.read_table(path, columns=list(columns), partitioning=None)
        else:
            texts = [f.name for f in pa.parquet.read_schema(path) if f.name in columns and is_text(f.type)]
            # without `pre_buffer=False` the reader keeps the bytes of all that it has read
            with pa.parquet.ParquetFile(path, read_dictionary=texts, pre_buffer=False) as file:
                for batch in file.iter_batches(rows, columns=list(columns)):
                    yield pa.Table.from_batches([batch])
    except (pa.ArrowInvalid, UnicodeError, OSError, zipfile.BadZipFile) as error:
        if "Empty CSV file" in str(error):
            raise ValueError(f"table `{name}` is empty: {path} has no rows.") from None
        how = "" if path.suffix == ".parquet" else f" with sep={table.sep!r} and encoding={table.encoding!r}"
        asked = ""
        if "Expected 1 columns" in str(error):  # and some cell holds what was taken for the separator
            with _open(table, path) as file:
                asked = _other_sep(table, file.readline().decode(table.encoding, "replace"))
        raise ValueError(f"table `{name}`: {path} does not parse{how}: {error}.{asked}") from None


def _read_text(table: Table, path: Path, columns: Sequence[str], rows: int | None) -> Iterator[pa.Table]:
    """A text file with every column as strings, so that no identifier passes through a float."""
    source: Path | pa.Buffer = path
    sep, encoding = table.sep, table.encoding
    if len(sep) > 1:
        source, sep, encoding = _one_character(table, path, header_only=not columns), _SEPARATOR, "utf-8"
    elif table.member:
        with _open(table, path) as file:
            source = pa.py_buffer(file.read())
    names = None if table.header else list(table.names or ())
    read = pa.csv.ReadOptions(encoding=encoding, column_names=names)
    parse = pa.csv.ParseOptions(delimiter=sep, quote_char=table.quote or False, newlines_in_values=True)
    with pa.csv.open_csv(_rewound(source), read, parse) as reader:
        found = reader.schema.names
    if not columns:
        yield pa.schema([(column.strip(), pa.string()) for column in found]).empty_table()
        return
    include = [column for column in found if column.strip() in columns]
    convert = pa.csv.ConvertOptions(column_types=dict.fromkeys(include, pa.string()), include_columns=include)
    for content in _parsed_text(_rewound(source), read, parse, convert, rows):
        yield pa.table([_tidy(c, table) for c in content.columns], names=[c.strip() for c in include])


_BLOCK = 2**25  # bytes of text parsed at a time


def _parsed_text(
    source: Path | pa.BufferReader,
    read: pa.csv.ReadOptions,
    parse: pa.csv.ParseOptions,
    convert: pa.csv.ConvertOptions,
    rows: int | None,
) -> Iterator[pa.Table]:
    if rows is None:
        yield pa.csv.read_csv(source, read, parse, convert)
        return
    read.block_size = _BLOCK
    with pa.csv.open_csv(source, read, parse, convert) as reader:
        held: list[pa.RecordBatch] = []
        for batch in reader:
            held.append(batch)
            if sum(map(len, held)) >= rows:
                yield pa.Table.from_batches(held)
                held = []
        if held:
            yield pa.Table.from_batches(held)


_SEPARATOR = "\x1f"  # ASCII's own unit separator


def _one_character(table: Table, path: Path, *, header_only: bool) -> pa.Buffer:
    """A text file, or its first line; a separator too long for Arrow's reader, such as `::`, is replaced."""
    with io.TextIOWrapper(_open(table, path), encoding=table.encoding, newline="") as file:
        text = file.readline() if header_only else file.read()
    return pa.py_buffer(text.replace(table.sep, _SEPARATOR).encode())


def _open(table: Table, path: Path) -> IO[bytes]:
    """The bytes of a text file, decompressed. Raises ValueError where a .zip file lacks the member."""
    if table.member is None:
        return path.open("rb") if path.suffix != ".gz" else cast(IO[bytes], gzip.open(path))
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if table.member not in names:
            raise ValueError(f"{path} has no member {table.member!r}: {nearest(table.member, names)}")
        return archive.open(table.member)  # reads on after the archive is closed


def _rewound(source: Path | pa.Buffer) -> Path | pa.BufferReader:
    return source if isinstance(source, Path) else pa.BufferReader(source)


def _tidy(cells: pa.ChunkedArray, table: Table) -> pa.ChunkedArray:
    """Text cells without the white space around them, null where they say "missing"."""
    if len(table.sep) > 1:  # one within quotes separates nothing
        cells = pc.replace_substring(cells, _SEPARATOR, table.sep)
    cells = pc.utf8_trim_whitespace(cells)
    return pc.if_else(pc.is_in(cells, pa.array(table.na, pa.string())), pa.scalar(None, pa.string()), cells)
