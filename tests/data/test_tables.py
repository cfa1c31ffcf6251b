import gzip
import zipfile

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.data.cells import as_category
from recsys.data.tables import SPLIT_COLUMN, Table, TableSet, check_files, column_names, read_table
from recsys.declare import declare

ROWS = [["u1", "Léa"], ["u2", "Bo"], ["u3", "Åse"]]


def rows_of(table, wanted):
    frame = read_table(table, "behaviour", wanted)
    return [[None if pd.isna(cell) else cell for cell in row] for row in frame.to_numpy(dtype=object).tolist()]


def text(path, content, encoding="utf-8"):
    path.write_bytes(content.encode(encoding))
    return str(path)


def parquet(path, columns):
    pq.write_table(pa.table(columns), path)
    return str(path)


@pytest.mark.parametrize("sep", [",", ";", "\t", "|", "::", "||", ".*", "\\t"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("last", [True, False])
def test_any_separator_and_newline(tmp_path, sep, newline, last):
    lines = [sep.join(row) for row in [["id", "name"], *ROWS]]
    path = text(tmp_path / "t.csv", newline.join(lines) + newline * last)
    assert rows_of(Table(path=path, sep=sep), ["id", "name"]) == ROWS


@pytest.mark.parametrize("sep", [",", "::"])
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "utf-8-sig", "utf-16"])
def test_encodings_and_byte_order_marks(tmp_path, sep, encoding):
    content = "\n".join(sep.join(row) for row in [["id", "name"], *ROWS])
    table = Table(path=text(tmp_path / "t.csv", content, encoding), sep=sep, encoding=encoding)
    assert rows_of(table, ["id", "name"]) == ROWS
    if encoding == "utf-8-sig":  # a mark that the configuration does not mention
        assert column_names(Table(path=table.path, sep=sep), "behaviour") == ["id", "name"]


@pytest.mark.parametrize("sep", [",", "::"])
def test_a_member_of_a_zip_file(tmp_path, sep):
    path = tmp_path / "t.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("inside/t.csv", "\n".join(sep.join(row) for row in [["id", "name"], *ROWS]))
        archive.writestr("inside/other.csv", "a,b\n1,2")
    plain = tmp_path / "t.csv"
    plain.write_text("\n".join(sep.join(row) for row in [["id", "name"], *ROWS]), encoding="utf-8")
    zipped = read_table(Table(path=str(path), member="inside/t.csv", sep=sep), "behaviour", ["id", "name"])
    pd.testing.assert_frame_equal(zipped, read_table(Table(path=str(plain), sep=sep), "behaviour", ["id", "name"]))
    with pytest.raises(ValueError, match=r"no member 'inside/tt.csv': did you mean 'inside/t.csv'"):
        read_table(Table(path=str(path), member="inside/tt.csv", sep=sep), "behaviour", ["id"])


def test_zip_and_member_come_together(tmp_path):
    for path, member in (("t.zip", None), ("t.csv", "t.csv")):
        with pytest.raises(ValueError, match="`member` names the file to read inside"):
            Table(path=path, member=member)
    (tmp_path / "t.zip").write_bytes(b"PK no archive")
    with pytest.raises(ValueError, match=r"table `items`: .*t\.zip does not parse"):
        read_table(Table(path=str(tmp_path / "t.zip"), member="t.csv"), "items", ["id"])


@pytest.mark.parametrize("sep", [",", "::"])
def test_gzip(tmp_path, sep):
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress("\n".join(sep.join(row) for row in [["id", "name"], *ROWS]).encode()))
    assert rows_of(Table(path=str(path), sep=sep), ["name", "id"]) == [row[::-1] for row in ROWS]


@pytest.mark.parametrize("sep", [",", "::"])
def test_without_a_header_names_say_what_the_columns_are(tmp_path, sep):
    path = text(tmp_path / "t.csv", "\n".join(sep.join(row) for row in ROWS))
    assert rows_of(Table(path=path, sep=sep, header=False, names=("id", "name")), ["id", "name"]) == ROWS


def test_rename_maps_names_of_the_file(tmp_path):
    path = text(tmp_path / "t.csv", "user_id:token,x\n7,8\n")
    table = Table(path=path, rename={"user_id:token": "user"})
    assert column_names(table, "behaviour") == ["user", "x"]
    assert rows_of(table, ["x", "user"]) == [["8", "7"]]


@pytest.mark.parametrize("sep", [",", "::"])
def test_quotes_hold_separators_and_newlines(tmp_path, sep):
    path = text(tmp_path / "t.csv", f'id{sep}name\n1{sep}"two{sep}parts\nand ""quotes"""\n')
    assert rows_of(Table(path=path, sep=sep), ["id", "name"]) == [["1", f'two{sep}parts\nand "quotes"']]


def test_quotes_can_mean_nothing(tmp_path):
    path = text(tmp_path / "t.tsv", 'id\tname\n1\t"Open\n2\tplain\n')
    assert rows_of(Table(path=path, sep="\t", quote=""), ["id", "name"]) == [["1", '"Open'], ["2", "plain"]]


def test_white_space_around_cells_and_names_is_no_part_of_them(tmp_path):
    """Bug: "7 " made a whole column of integers text, so that it joined nothing."""
    path = text(tmp_path / "t.csv", "id , name\n7 , Bo\n 8,  \n")
    assert rows_of(Table(path=path), ["id", "name"]) == [["7", "Bo"], ["8", None]]


def test_only_the_texts_of_na_are_missing(tmp_path):
    cells = ["NA", "None", "n/a", "", "null", "NULL", "NaN", "nan", "\\N", "0"]
    path = text(tmp_path / "t.csv", "id,x\n" + "\n".join(f"1,{cell}" for cell in cells))
    found = [x for _, x in rows_of(Table(path=path), ["id", "x"])]
    assert found == ["NA", "None", "n/a", None, None, None, None, None, None, "0"]
    found = [x for _, x in rows_of(Table(path=path, na=("NA",)), ["id", "x"])]
    assert found == [None, *cells[1:]]


def test_list_of_files_and_files_per_split(tmp_path):
    a, b = (text(tmp_path / name, f"id,split\n{name},own\n") for name in "ab")
    assert rows_of(Table(path=(a, b)), ["id"]) == [["a"], ["b"]]
    per_split = Table(path={"train": a, "test": b})
    # Bug: a column called "split" of the files' own was overwritten by the split of the file.
    assert rows_of(per_split, ["id", "split", SPLIT_COLUMN]) == [["a", "own", "train"], ["b", "own", "test"]]


def test_parquet_keeps_its_types(tmp_path):
    big = 2**53 + 1
    path = parquet(
        tmp_path / "t.parquet",
        {
            "nullable": pa.array([big, None]),
            "small": pa.array([1, None], pa.int8()),
            "unsigned": pa.array([2**64 - 1, None], pa.uint64()),
            "list": pa.array([["x", "y"], None]),
            "dictionary": pa.array(["a", None]).dictionary_encode(),
            "bytes": pa.array([b"raw", None]),
            "flag": pa.array([True, None]),
            "unread": pa.array([{"deep": 1}, None]),
        },
    )
    frame = read_table(Table(path=path), "t", ["nullable", "small", "unsigned", "list", "dictionary", "bytes", "flag"])
    assert frame.loc[0, ["nullable", "small", "unsigned"]].tolist() == [big, 1, 2**64 - 1]
    assert list(frame["list"][0]) == ["x", "y"]
    assert frame.loc[0, ["dictionary", "bytes"]].tolist() == ["a", "raw"]
    assert as_category(frame["unsigned"])[0] == str(2**64 - 1)
    assert as_category(frame["flag"])[0] == 1
    assert frame.isna().iloc[1].all()


def test_parquet_files_of_different_types_join_as_text(tmp_path):
    a, b = parquet(tmp_path / "a.parquet", {"id": [7]}), parquet(tmp_path / "b.parquet", {"id": ["007"]})
    assert as_category(read_table(Table(path=(a, b)), "t", ["id"])["id"]).tolist() == ["7", "007"]


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("user,item\n1,2\n", {"wanted": ["usr"]}, "no column 'usr': did you mean 'user'"),
        ("", {}, "table `items` is empty"),
        ("\n\n", {}, "table `items` is empty"),
        ("user,item\n", {}, "table `items` is empty"),
        ("user,item\n1,2\n3\n", {}, "Expected 2 columns, got 1"),
        ("user,item\n1,2,3\n", {}, "Expected 2 columns, got 3"),
        ("user::item\n1::2::3\n", {"sep": "::"}, "sep='::'.*Expected 2 columns, got 3"),
        ("user,user\n1,2\n", {}, "2 columns called 'user'"),
        ("user,item\n1,2\n", {"rename": {"usr": "x"}}, "`rename` names 'usr': did you mean 'user'"),
    ],
)
def test_unreadable_tables(tmp_path, content, options, message):
    wanted = options.pop("wanted", ["user"])
    table = Table(path=text(tmp_path / "t.csv", content), **options)
    with pytest.raises(ValueError, match=message):
        read_table(table, "items", wanted)


@pytest.mark.parametrize(("sep", "declared"), [(";", ","), ("\t", ","), (",", ";"), ("|", "\t")])
@pytest.mark.parametrize("option", [{}, {"rename": {"id": "user"}}, {"explode": {"id": "/"}}])
def test_a_wrong_separator_is_asked_for(tmp_path, sep, declared, option):
    lines = [sep.join(row) for row in (["id", "name", "age"], ["1", "Bo", "30"])]
    table = Table(path=text(tmp_path / "t.csv", "\n".join(lines)), sep=declared, **option)
    with pytest.raises(ValueError, match="'id'") as error:
        read_table(table, "items", ["id"])
    assert str(error.value).endswith(f". Is `sep` {sep!r} rather than {declared!r}?")


def test_a_wrong_separator_is_asked_for_where_cells_hold_the_declared_one(tmp_path):
    table = Table(path=text(tmp_path / "t.csv", "id;price\n1;3,5\n"))
    with pytest.raises(ValueError, match=r"does not parse with sep=','.*\. Is `sep` ';' rather than ','\?$"):
        read_table(table, "items", ["id"])


def test_no_separator_is_asked_for_where_the_columns_are_several_or_of_parquet(tmp_path):
    for table in (
        Table(path=text(tmp_path / "t.csv", "id;key,name\n1,2\n")),
        Table(path=parquet(tmp_path / "t.parquet", {"id;key": [1]})),
    ):
        with pytest.raises(ValueError, match=r"no column 'id': .*\.$"):
            read_table(table, "items", ["id"])


def test_a_wrong_separator_is_asked_for_where_the_encoding_is_wrong_too(tmp_path):
    """Bug: the question itself failed to decode the header, in place of the message."""
    table = Table(path=text(tmp_path / "t.csv", "id;prénom;prix\n1;Léa;3,5\n", "latin-1"))
    with pytest.raises(ValueError, match=r"`items`: .* with sep=',' and encoding='utf-8': .*\. Is `sep` ';' rather"):
        read_table(table, "items", ["id"])


@pytest.mark.parametrize("sep", [",", "::"])
def test_wrong_encoding_names_the_encoding(tmp_path, sep):
    path = text(tmp_path / "t.csv", f"id{sep}name\n1{sep}Léa\n", "latin-1")
    with pytest.raises(ValueError, match="encoding='utf-8'"):
        read_table(Table(path=path, sep=sep), "items", ["id", "name"])


def test_broken_parquet_and_a_later_file_that_lacks_a_column(tmp_path):
    broken = text(tmp_path / "t.parquet", "no parquet")
    with pytest.raises(ValueError, match=r"table `items`.*t\.parquet does not parse"):
        read_table(Table(path=broken), "items", ["id"])
    a, b = text(tmp_path / "a.csv", "id,x\n1,2\n"), text(tmp_path / "b.csv", "id,y\n1,2\n")
    with pytest.raises(ValueError, match=r"b\.csv has 0 columns called 'x'"):
        read_table(Table(path=(a, b)), "items", ["id", "x"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"header": False}, "needs `names`"),
        ({"sep": ""}, "`sep` must not be empty"),
        ({"quote": "''"}, "`quote` must be one character"),
        ({"encoding": "utf-9"}, "`encoding` must be one that Python knows, got 'utf-9'"),
        ({"path": []}, "`path` must name at least one file"),
        ({"path": {"dev": "x.csv"}}, "no split 'dev'. Valid: train, valid, test"),
        ({"path": {"train": 3}}, "`tables.items.path.train` must be str"),
        ({"path": 3}, "`tables.items.path` must be str or list or dict, got 3"),
        ({"sepp": ","}, "no option 'sepp': did you mean 'sep'"),
    ],
)
def test_impossible_declarations(options, message):
    with pytest.raises(ValueError, match=message):
        declare(Table, {"path": "t.csv", **options}, "tables.items")


def test_missing_file_says_where_to_get_it(tmp_path):
    here = Table(path=text(tmp_path / "b.csv", "x\n1\n"))
    with pytest.raises(FileNotFoundError, match=r"table `users`: .*nowhere\.csv'\. Ask the library\."):
        check_files(TableSet(behaviour=here, users=Table(path="nowhere.csv")), " Ask the library. ")


def test_extract_makes_columns_of_named_groups(tmp_path):
    path = text(tmp_path / "t.csv", "id;title\n1;Heat (1995)\n2;Untitled\n3;Toy Story (1995) \n4;\n")
    table = Table(path=path, sep=";", rename={"title": "name"}, extract={"name": r"(?P<stem>.*) \((?P<year>\d{4})\)$"})
    assert column_names(table, "items") == ["id", "name", "stem", "year"]
    assert rows_of(table, ["year", "id"]) == [["1995", "1"], [None, "2"], ["1995", "3"], [None, "4"]]
    assert rows_of(table, ["stem", "name"])[0] == ["Heat", "Heat (1995)"]


def test_explode_makes_one_row_per_value(tmp_path):
    path = text(tmp_path / "t.csv", "user,items\n1,a b c\n2,\n3,d\n")
    expected = [["1", "a"], ["1", "b"], ["1", "c"], ["2", None], ["3", "d"]]
    assert rows_of(Table(path=path, explode={"items": " "}), ["user", "items"]) == expected
    assert rows_of(Table(path=path, explode={"items": " "}), ["user"]) == [["1"], ["2"], ["3"]]
    parquet(tmp_path / "t.parquet", {"user": [1, 2], "items": [["a", "b"], ["c"]]})
    lists = Table(path=str(tmp_path / "t.parquet"), explode={"items": ""})
    assert rows_of(lists, ["user", "items"]) == [[1, "a"], [1, "b"], [2, "c"]]


def test_pieces_of_a_cell_are_trimmed_and_missing_ones_left_out(tmp_path):
    """Bug: `25, 30,,31` gave the values ' 30' and ''."""
    path = text(tmp_path / "t.csv", 'user,items\n1,"25, 30,,31"\n2,"null, "\n3,7 \n4,\n')
    expected = [["1", "25"], ["1", "30"], ["1", "31"], ["2", None], ["3", "7"], ["4", None]]
    assert rows_of(Table(path=path, explode={"items": ","}), ["user", "items"]) == expected
    parquet(tmp_path / "t.parquet", {"user": [1, 2, 3], "items": [["a ", None, "", "b"], [None, None], []]})
    lists = Table(path=str(tmp_path / "t.parquet"), explode={"items": ""})
    assert rows_of(lists, ["user", "items"]) == [[1, "a"], [1, "b"], [2, None], [3, None]]
    parquet(tmp_path / "n.parquet", {"user": [1, 2], "items": [[5, None, 6], []]})
    numbers = Table(path=str(tmp_path / "n.parquet"), explode={"items": ""})
    assert rows_of(numbers, ["user", "items"]) == [[1, 5], [1, 6], [2, None]]


def test_extract_from_lists_is_refused(tmp_path):
    """Bug: it ended in an Arrow traceback."""
    parquet(tmp_path / "t.parquet", {"id": [1], "title": [["a", "b"]]})
    table = Table(path=str(tmp_path / "t.parquet"), extract={"title": "(?P<x>.)"})
    with pytest.raises(ValueError, match=r"`extract` needs texts, but column 'title' of .* holds lists"):
        rows_of(table, ["id", "x"])


def test_a_file_of_pairs_and_lists_is_read_without_python(tmp_path):
    """The candidates of the NCF paper: the test pair in brackets, then items."""
    path = text(tmp_path / "t.negative", "(0,25)\t1064\t174\n(13,7)\t5\t6\n")
    table = Table(
        path=path,
        sep=")\t",
        header=False,
        names=("pair", "item"),
        extract={"pair": r"^\((?P<user>\d+),"},
        explode={"item": "\t"},
    )
    assert rows_of(table, ["user", "item"]) == [["0", "1064"], ["0", "174"], ["13", "5"], ["13", "6"]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"extract": {"title": "x"}}, "`extract.title` needs a named group"),
        ({"extract": {"title": "(x)(?P<y>.)"}}, "`extract.title` must be .* named groups only, got .* unnamed groups"),
        ({"extract": {"title": "(?P<x>"}}, "`extract.title` must be a regular expression of RE2"),
        # Bug: Python's engine knew it, the one that reads the table did not.
        ({"extract": {"title": "(?P<x>a(?=b))"}}, "`extract.title` must be .* invalid perl operator"),
        ({"extract": {"titel": "(?P<x>.)"}}, "`extract` or `explode` names 'titel': did you mean 'title'"),
        ({"explode": {"items": ","}}, "`extract` or `explode` names 'items'"),
    ],
)
def test_wrong_extract_and_explode(tmp_path, options, message):
    path = text(tmp_path / "t.csv", "id,title\n1,a\n")
    with pytest.raises(ValueError, match=message):
        column_names(Table(path=path, **options), "items")
