"""Records: what a row holds, and how files are written, named, read and set aside."""

import os
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from capo_lit.batch.facts import Critique
from capo_lit.batch.step import StepBatch
from capo_lit.core.errors import BatchError, DataError
from capo_lit.records.schema import (
    SCHEMA,
    file_name,
    read_records,
    record_files,
    remove_leftovers,
    set_aside,
    write_atomic,
)
from capo_lit.records.table import batch_table
from tests.support.finished_batch import PROMPT, make_batch


def test_a_row_holds_everything_its_credit_came_from() -> None:
    first, second = batch_table(make_batch(), "toy", rank=3).to_pylist()
    assert first == {
        "schema_version": 2,
        "run": "toy",
        "step": 12,
        "rank": 3,
        "row": 0,
        "group": 0,
        "sample": 0,
        "uid": "toy/0",
        "problem": "1+1?",
        "answer": "2",
        "reference": None,
        "prompt_ids": [5, 6],
        "response_ids": [10, 11, 2],
        "pieces": ["a\n\n", "b", ""],
        "special": [False, False, True],
        "text": "a\n\nb",
        "finish_reason": "stop",
        "policy_version": 7,
        "engine_logprobs": [-0.5, -0.25, -1.0],
        "trainer_logprobs": [-0.5, -0.25, -1.5],
        "outcome": 1.0,
        "spans": [{"start": 0, "end": 3}, {"start": 3, "end": 4}],
        "step_error": [0.0, 1.0],
        "valid": 1,
        "abstained": 1,
        "agreement": 1.0,
        "critiques": [
            {
                "reply": "step 1 is wrong",
                "wrong": [1],
                "cause": "",
                "prompt_tokens": 40,
                "completion_tokens": 8,
                "seconds": 0.5,
            },
            # A lone surrogate cannot be stored as UTF-8; the reply keeps its length.
            {
                "reply": "??",
                "wrong": None,
                "cause": "parse",
                "prompt_tokens": 40,
                "completion_tokens": 2,
                "seconds": 0.25,
            },
        ],
        "step_of_token": [0, 1, -1],
        "token_rewards": [2.0, 1.0, 2.0],
        "advantages": [0.5, -1.0, 0.5],
        "seconds": 0.25,
        "outcome_critiques": None,
    }
    # Two tokens: the padding (9.0 in these tensors) is not written. Unknown outcome and absent logprobs are null.
    assert second["outcome"] is None
    assert second["engine_logprobs"] is None
    assert second["trainer_logprobs"] == [-3.0, -4.0]
    assert second["advantages"] == [0.0, 0.0]
    assert second["valid"] == 0
    assert list(first) == SCHEMA.names


def test_no_judge_is_null_and_not_an_empty_verdict() -> None:
    table = batch_table(make_batch(verdicts=False), "toy")
    assert table["spans"].to_pylist() == [[{"start": 0, "end": 3}, {"start": 3, "end": 4}], [{"start": 0, "end": 1}]]
    for name in ("step_error", "valid", "abstained", "agreement", "critiques"):
        assert table[name].null_count == 2, name


def test_low_precision_credit_is_stored_as_float32() -> None:
    table = batch_table(make_batch(dtype=torch.bfloat16), "toy")
    assert table.schema.field("advantages").type == pa.list_(pa.float32())
    assert table["advantages"][0].as_py() == [0.5, -1.0, 0.5]


def test_credit_of_another_shape_is_refused() -> None:
    batch = make_batch()
    credit = batch.require_credit()
    narrow = replace(credit, advantages=credit.advantages[:, :2])
    other = StepBatch([PROMPT], 4)
    other.set_rollouts(batch.require_rollouts())
    other.set_credit(narrow)
    with pytest.raises(BatchError, match=r"step 4: got credit of shape \(2, 2\); expected 2 rows of at least 3 tokens"):
        batch_table(other, "toy")


def test_a_file_is_compressed_versioned_and_read_back_equal(tmp_path: Path) -> None:
    table = batch_table(make_batch(), "toy")
    path = tmp_path / "deep" / file_name(12)
    write_atomic(table, path)
    assert [entry.name for entry in path.parent.iterdir()] == ["step-00000012.parquet"]
    column = pq.ParquetFile(path).metadata.row_group(0).column(0)
    assert column.compression == "ZSTD"
    assert "RLE_DICTIONARY" in column.encodings
    assert read_records(path.parent).equals(table)


def test_records_of_version_1_are_read_without_what_came_later(tmp_path: Path) -> None:
    table = batch_table(make_batch(), "toy").drop_columns(["outcome_critiques"])
    old = table.replace_schema_metadata({b"capo_lit.records.schema_version": b"1"})
    pq.write_table(old, tmp_path / file_name(12))
    read = read_records(tmp_path)
    assert read.schema.names == SCHEMA.names
    assert read["outcome_critiques"].to_pylist() == [None, None]
    assert read["advantages"].to_pylist() == table["advantages"].to_pylist()


def test_what_a_model_said_of_the_whole_solution_is_recorded() -> None:
    said = (Critique(r"\boxed{yes}", frozenset(), "", 40, 3, 0.5), Critique("hm", None, "parse", 40, 1, 0.5))
    batch = StepBatch([PROMPT], 1)
    batch.set_rollouts([replace(make_batch().require_rollouts()[0], outcome_critiques=said)])
    (row,) = batch_table(batch, "toy").to_pylist()
    assert [(one["reply"], one["wrong"], one["cause"]) for one in row["outcome_critiques"]] == [
        (r"\boxed{yes}", [], ""),
        ("hm", None, "parse"),
    ]


def test_an_existing_file_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / file_name(12)
    write_atomic(batch_table(make_batch(), "first"), path)
    before = path.read_bytes()
    with pytest.raises(DataError, match="never overwritten"):
        write_atomic(batch_table(make_batch(), "second"), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*paths: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="disk full"):
        write_atomic(batch_table(make_batch(), "toy"), tmp_path / file_name(12))
    assert list(tmp_path.iterdir()) == []


def test_file_names_sort_by_step_and_rank(tmp_path: Path) -> None:
    names = [file_name(100_000_000), file_name(3, 1, 2), file_name(3, 0, 2), file_name(20)]
    assert names == [
        "step-100000000.parquet",
        "step-00000003-rank-0001.parquet",
        "step-00000003-rank-0000.parquet",
        "step-00000020.parquet",
    ]
    for name in [*names, ".step-00000004.parquet.77.tmp", "step-4.parquet", "notes.txt"]:
        (tmp_path / name).touch()
    assert [(file.step, file.rank) for file in record_files(tmp_path)] == [(3, 0), (3, 1), (20, 0), (100_000_000, 0)]


def test_directories_and_columns_are_read_in_order_without_what_lies_deeper(tmp_path: Path) -> None:
    for run, steps in (("b", (2, 10)), ("a", (1,))):
        for step in steps:
            write_atomic(batch_table(make_batch(step), run), tmp_path / run / file_name(step))
    write_atomic(batch_table(make_batch(10), "old"), tmp_path / "b" / "superseded-0" / file_name(10))
    table = read_records([tmp_path / "b", tmp_path / "a" / file_name(1)], columns=["step", "run", "row"])
    assert table.column_names == ["step", "run", "row"]
    assert table.to_pydict() == {
        "step": [2, 2, 10, 10, 1, 1],
        "run": ["b", "b", "b", "b", "a", "a"],
        "row": [0, 1, 0, 1, 0, 1],
    }


def test_unreadable_records_say_which_file_and_why(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no files step"):
        read_records(tmp_path)
    path = tmp_path / file_name(1)
    table = batch_table(make_batch(), "toy")
    pq.write_table(table.replace_schema_metadata({b"capo_lit.records.schema_version": b"99"}), path)
    with pytest.raises(
        DataError, match=r"step-00000001\.parquet: got schema version 99; expected schema version 1 or 2"
    ):
        read_records(tmp_path)
    pq.write_table(table.replace_schema_metadata(None), path)
    with pytest.raises(DataError, match="got schema version none"):
        read_records(tmp_path)
    path.write_bytes(b"PAR1 but not really")
    with pytest.raises(DataError, match="cannot be read"):
        read_records(path)
    with pytest.raises(DataError, match="column 'advantage'"):
        read_records(path, columns=["advantage"])


def test_setting_aside_keeps_earlier_steps_and_loses_nothing(tmp_path: Path) -> None:
    records = tmp_path / "records"
    records.mkdir()
    for step in (1, 2, 3):
        (records / file_name(step)).write_text(f"first {step}")
    (records / file_name(3, 1, 2)).write_text("first 3, rank 1")
    assert set_aside(records, 4) is None
    assert set_aside(records, 2) == tmp_path / "records-superseded-0"
    (records / file_name(2)).write_text("second 2")
    assert set_aside(records, 2) == tmp_path / "records-superseded-1"
    assert [path.name for path in records.rglob("*")] == [file_name(1)], "readers of directories see nothing else"
    kept = {str(path.relative_to(tmp_path)): path.read_text() for path in tmp_path.glob("records-*/*")}
    assert kept == {
        "records-superseded-0/step-00000002.parquet": "first 2",
        "records-superseded-0/step-00000003.parquet": "first 3",
        "records-superseded-0/step-00000003-rank-0001.parquet": "first 3, rank 1",
        "records-superseded-1/step-00000002.parquet": "second 2",
    }


def test_leftovers_of_a_killed_writer_are_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in (".step-00000004.parquet.77.tmp", file_name(3), ".notes.tmp"):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".notes.tmp", file_name(3)]
