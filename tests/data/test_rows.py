"""Files of rows, and the values in them."""

import gzip
import json
from decimal import Decimal
from pathlib import Path

import pytest

from capo_lit.core.errors import DataError
from capo_lit.data.rows import ENDINGS, read_rows
from capo_lit.data.values import lookup, text_field

ROWS = [{"problem": 'one\ntwo, "three"', "answer": "1,5"}, {"problem": "é", "answer": "2"}]
CSV = 'problem,answer\r\n"one\ntwo, ""three""","1,5"\r\n\r\né,2\r\n'
TEXTS = {
    ".jsonl": "\ufeff" + "\r\n\r\n".join(map(json.dumps, ROWS)) + "\r\n",
    ".ndjson": "\n".join(map(json.dumps, ROWS)),
    ".json": json.dumps(ROWS, indent=2),
    ".csv": "\ufeff" + CSV,
    ".tsv": CSV.replace("problem,answer", "problem\tanswer").replace('","1', '"\t"1').replace("é,", "é\t"),
}


def numbers_and_rows(path: Path) -> tuple[list[int], list[dict]]:
    found = list(read_rows(path))
    return [number for number, _ in found], [dict(row) for _, row in found]


@pytest.mark.parametrize("packed", ["", ".gz", ".GZ"])
@pytest.mark.parametrize(("ending", "lines"), [(".jsonl", [1, 3]), (".ndjson", [1, 2]), (".json", [1, 2]),
                                               (".csv", [2, 5]), (".tsv", [2, 5])])  # fmt: skip
def test_every_text_format_gives_the_same_rows(tmp_path: Path, ending: str, lines: list[int], packed: str) -> None:
    data = TEXTS[ending].encode()
    path = tmp_path / f"a.b{ending.upper() if packed == '.GZ' else ending}{packed}"
    path.write_bytes(gzip.compress(data) if packed else data)
    assert numbers_and_rows(path) == (lines, ROWS)


def test_every_ending_is_tried() -> None:
    assert set(ENDINGS) == {*TEXTS, ".parquet"}


def test_json_may_be_an_array_an_object_or_an_object_a_line(tmp_path: Path) -> None:
    path = tmp_path / "a.JSON"
    for text in (json.dumps(ROWS), "\n" + json.dumps(ROWS), "\n".join(map(json.dumps, ROWS))):
        path.write_text(text)
        assert numbers_and_rows(path) == ([1, 2], ROWS)
    for indent in (None, 1):
        path.write_text(json.dumps(ROWS[0], indent=indent))
        assert numbers_and_rows(path) == ([1], ROWS[:1])
        path.write_text(json.dumps({"version": 1, "data": ROWS}, indent=indent))
        with pytest.raises(DataError, match=r"field 'data' is a list of 2 objects; expected an array .*write the list"):
            list(read_rows(path))
    path.write_text(json.dumps([ROWS[0], "text"]))
    with pytest.raises(DataError, match=r"a\.JSON:2: got a JSON str"):
        list(read_rows(path))
    path.write_text(" \n")
    assert list(read_rows(path)) == []


@pytest.mark.parametrize(
    ("name", "data", "parts"),
    [
        ("a.csv", b"p,a\n1\n", ("a.csv:2", "1 cells", "2, as in the header")),
        ("a.csv", b"p,a\n1,2,3\n", ("a.csv:2", "3 cells")),
        ("a.csv", b"p,p\n1,2\n", ("a.csv:1", "several columns 'p'")),
        ("a.csv", b'p,a\n"open,2\n', ("a.csv", "cells that cannot be told apart")),
        ("a.csv", b"p,a\n\xff,2\n", ("a.csv", "UTF-8")),
        ("a.jsonl.gz", b"no gzip", ("a.jsonl.gz", "a readable file")),
        ("a.jsonl.gz", gzip.compress(b'{"a": "' + bytes(range(32, 127)) * 9)[:-20], ("a.jsonl.gz", "a readable file")),
        ("a.jsonl", b'[{"a": 1}]\n', ("a.jsonl:1", "a JSON list", ".json")),
        ("a.jsonl", b'{"a": ' + b"9" * 5000 + b"}", ("a.jsonl:1", "invalid JSON")),
        ("a.json", b'[{"a": 1},', ("a.json", "invalid JSON")),
        ("a.parquet.gz", b"", ("'.parquet.gz'", ".parquet")),
        ("a.xz", b"", ("'.xz'", ".csv", "also with .gz")),
        ("a", b"", ("file ending in ''",)),
        ("a.gz", b"", ("file ending in '.gz'",)),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, name: str, data: bytes, parts: tuple[str, ...]) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError) as caught:
        list(read_rows(tmp_path / name))
    assert all(part in str(caught.value) for part in parts), str(caught.value)


def test_parquet_gives_nested_values_decimals_and_short_floats(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    schema = pa.schema(
        [("d", pa.decimal128(8, 2)), ("f", pa.float32()), ("s", pa.struct([("x", pa.list_(pa.int64()))]))]
    )
    rows = [{"d": Decimal("72.50"), "f": 0.1, "s": {"x": [2**60 + 1]}}, {"d": None, "f": None, "s": None}]
    parquet.write_table(pa.Table.from_pylist(rows, schema), tmp_path / "a.PARQUET")
    assert numbers_and_rows(tmp_path / "a.PARQUET") == ([1, 2], rows)


NESTED = {"a": {"b": [{"c": "deep"}, {"c": "last"}], "none": None}, "a.b": "literal", "x.y": {"z": "half"}, "n": 3}


@pytest.mark.parametrize(
    ("path", "value"),
    [("a.b.1.c", "last"), ("a.b.-1.c", "last"), ("a.b", "literal"), ("x.y.z", "half"), ("n", 3)],
)
def test_a_path_goes_through_objects_and_lists_and_a_key_with_dots_goes_first(path: str, value: object) -> None:
    row = {key: inner for key, inner in NESTED.items() if key != "a.b" or path == "a.b"}
    assert lookup(row, path, "here", "fields.answer") == value


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("q", ("got fields ['a', 'a.b', 'n', 'x.y']", "a field 'q'")),
        ("a.q", ("fields ['b', 'none'] in 'a', without 'q'", "a field 'a.q'")),
        ("a.none.q", ("NoneType 'None' in 'a.none', without 'q'",)),
        ("x.y.q.r", ("fields ['z'] in 'x.y', without 'q'", "'x.y.q.r'")),
        ("n.q", ("int '3' in 'n', without 'q'",)),
    ],
)
def test_a_path_that_ends_early_is_named_with_what_is_there(path: str, parts: tuple[str, ...]) -> None:
    with pytest.raises(DataError) as caught:
        lookup(NESTED, path, "here:3", "fields.answer")
    assert all(part in str(caught.value) for part in ("here:3", "fields.answer", *parts)), str(caught.value)


def test_a_place_beyond_a_list_is_named() -> None:
    with pytest.raises(DataError, match=r"a list of 1 in 'a', without '1'"):
        lookup({"a": ["x"]}, "a.1", "here", "fields.answer")


def numpy_values() -> list[tuple[object, str]]:
    import numpy as np

    return [(np.int64(3), "3"), (np.float32(0.1), "0.1"), (np.float64(1e-5), "0.00001")]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e-05, "0.00001"),
        (72.0, "72"),
        (-0.0, "0"),
        (72.5, "72.5"),
        (1e22, "10000000000000000000000"),
        (2**60 + 1, "1152921504606846977"),
        (Decimal("72.50"), "72.50"),
        (Decimal("1E+3"), "1000"),
        *numpy_values(),
    ],
)
def test_a_number_is_written_out(value: object, text: str) -> None:
    assert text_field({"a": value}, "a", "here", "fields.answer") == text


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("inf"),
        Decimal("NaN"),
        Decimal("1E+999999"),
        12345678901234567890.5,
        True,
        None,
        b"x",
        {"b": 1},
    ],
)
def test_what_is_no_text_and_no_number_is_refused(value: object) -> None:
    with pytest.raises(DataError, match=r"here.*field 'a'.*fields\.answer|here.*field 'a'.*the row"):
        text_field({"a": value}, "a", "here", "fields.answer")


def test_a_bool_of_numpy_is_refused() -> None:
    import numpy as np

    with pytest.raises(DataError, match="bool"):
        text_field({"a": np.bool_(True)}, "a", "here", "fields.answer")
