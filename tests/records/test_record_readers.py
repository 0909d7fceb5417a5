"""Record files outside of this project: pandas, polars and duckdb read them, and the documents say what is in them."""

import re
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capo_lit.records.schema import CRITIQUE, SCHEMA, SCHEMA_VERSION, file_name, write_atomic
from capo_lit.records.table import batch_table
from tests.support.finished_batch import make_batch

DOCS = Path(__file__).parents[2] / "docs" / "records.md"


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """Two steps of the batch by hand: rollout 0 is right and judged, rollout 1 has an unknown outcome."""
    for step in (12, 13):
        write_atomic(batch_table(make_batch(step), "toy"), tmp_path / file_name(step))
    return tmp_path


def test_pandas_reads_every_column(records: Path) -> None:
    frame = pd.read_parquet(records)
    assert list(frame.columns) == SCHEMA.names
    assert frame["step"].tolist() == [12, 12, 13, 13]
    assert frame["advantages"][0].tolist() == [0.5, -1.0, 0.5]
    assert pd.isna(frame["outcome"][1])
    assert frame["critiques"][0][0]["reply"] == "step 1 is wrong"
    assert frame["critiques"][0][1]["wrong"] is None


def test_polars_reads_every_column(records: Path) -> None:
    frame = pl.read_parquet(records / "step-*.parquet")
    assert frame.columns == SCHEMA.names
    assert frame["text"].to_list() == ["a\n\nb", "c"] * 2
    first = frame.row(0, named=True)
    assert first["spans"] == [{"start": 0, "end": 3}, {"start": 3, "end": 4}]
    assert [one["wrong"] for one in first["critiques"]] == [[1], None]
    assert frame["engine_logprobs"].null_count() == 2


def test_duckdb_queries_tokens_and_critiques(records: Path) -> None:
    files = f"'{records}/step-*.parquet'"
    assert duckdb.sql(f"SELECT * FROM {files}").columns == SCHEMA.names
    # The mean skips unknown outcomes.
    assert duckdb.sql(f"SELECT step, avg(outcome) FROM {files} GROUP BY step ORDER BY step").fetchall() == [
        (12, 1.0),
        (13, 1.0),
    ]
    replies = duckdb.sql(f"SELECT c.reply FROM (SELECT unnest(critiques) AS c FROM {files} WHERE step = 12)").fetchall()
    assert replies == [("step 1 is wrong",), ("??",), ("??",)]
    assert duckdb.sql(f"SELECT list_min(advantages) FROM {files} WHERE row = 0").fetchall() == [(-1.0,)] * 2


def test_the_version_is_in_the_files_metadata(records: Path) -> None:
    metadata = pq.read_schema(records / file_name(12)).metadata
    assert metadata[b"capo_lit.records.schema_version"] == str(SCHEMA_VERSION).encode()
    assert f"## Schema version {SCHEMA_VERSION}\n" in DOCS.read_text()


def documented(heading: str) -> dict[str, str]:
    """Name -> type of the first table after a heading."""
    text = DOCS.read_text().split(heading)[1].split("\n\n", 1)[1]
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \|", text.split("\n\n")[0], re.MULTILINE)
    return {name: kind.strip() for name, kind in rows}


def kind_of(type_: pa.DataType) -> str:
    """A type as the document writes it."""
    if pa.types.is_list(type_):
        inner = type_.value_type
        if inner == CRITIQUE:
            return "list of structs"
        if pa.types.is_struct(inner):
            names = ", ".join(f"`{field.name}`" for field in inner)
            return f"list of {{{names}}} {kind_of(inner[0].type)}"
        return f"list of {kind_of(inner)}"
    return {"float": "float32", "double": "float64"}.get(str(type_), str(type_))


def test_the_documented_columns_are_those_of_the_schema() -> None:
    table = DOCS.read_text().index("| column |")
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \|", DOCS.read_text()[table:].split("\n\n")[0], re.MULTILINE)
    assert [(name, kind.strip()) for name, kind in rows] == [(field.name, kind_of(field.type)) for field in SCHEMA]
    fields = {field.name: kind_of(field.type) for field in CRITIQUE}
    assert documented("Each of `critiques`:") == fields
