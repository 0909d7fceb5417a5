"""Sources of problems: files, Hugging Face datasets, reasoning-gym."""

import json
import os
from pathlib import Path

import pytest

from capo_lit.core.errors import ConfigError, DataError
from capo_lit.data.sources import Fields, FileSource, HubSource, Problem, ReasoningGymSource

DATA = Path(os.environ.get("CAPO_SHARED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="no evaluation data; set CAPO_SHARED_DATA")


def write(path: Path, *rows: dict | str) -> str:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def test_file_source_reads_fields(tmp_path):
    path = write(
        tmp_path / "a.jsonl",
        {"q": "one?", "a": "steps\n#### 1,200", "name": "n1"},
        "",
        {"q": "two?", "a": "#### -2", "name": "n2"},
    )
    fields = Fields(problem="q", answer="a", extraction="gsm8k", reference="a", uid="name")
    assert FileSource(path, fields).load() == [
        Problem("n1", "one?", "1200", "steps\n#### 1,200"),
        Problem("n2", "two?", "-2", "#### -2"),
    ]
    # Without a uid field: file name and line, blank lines counted.
    assert [p.uid for p in FileSource(path, Fields("q", "a")).load()] == ["a.jsonl:1", "a.jsonl:3"]
    assert [p.problem for p in FileSource(path, Fields("q", "a"), limit=1).load()] == ["one?"]
    assert FileSource(path, Fields("q", answer=None)).load()[0].answer == ""


def test_parquet_equals_jsonl(tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    rows = [{"problem": f"p{i}", "answer": str(i)} for i in range(3)]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    write(tmp_path / "a.jsonl", *rows)
    a, b = (FileSource(str(tmp_path / name)).load() for name in ("a.parquet", "a.jsonl"))
    assert [(p.problem, p.answer) for p in a] == [(p.problem, p.answer) for p in b]
    (tmp_path / "bad.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match=r"bad\.parquet"):
        FileSource(str(tmp_path / "bad.parquet")).load()


@pytest.mark.parametrize(
    ("bad", "parts"),
    [
        ({"problem": "p"}, ("a.jsonl:2", "'answer'", "fields.answer")),
        ({"answer": "1"}, ("a.jsonl:2", "'problem'", "fields.problem")),
        ({"problem": ["p"], "answer": "1"}, ("a.jsonl:2", "list", "'problem'")),
        ({"problem": "p", "answer": None}, ("a.jsonl:2", "NoneType", "'answer'")),
        ({"problem": "p", "answer": True}, ("a.jsonl:2", "bool")),
        ({"problem": "p", "answer": ""}, ("a.jsonl:2", "no answer", "'answer'")),
        ({"problem": "  ", "answer": "1"}, ("a.jsonl:2", "empty", "'problem'")),
        ('{"problem": ', ("a.jsonl:2", "invalid JSON")),
        ('"text"', ("a.jsonl:2", "JSON str")),
    ],
)
def test_a_bad_row_is_named(tmp_path, bad, parts):
    path = write(tmp_path / "a.jsonl", {"problem": "p", "answer": 1}, bad)
    with pytest.raises(DataError) as caught:
        FileSource(path).load()
    assert all(part in str(caught.value) for part in parts), str(caught.value)


def test_bytes_that_are_not_utf8_are_named(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"problem": "\xff", "answer": "1"}\n')
    with pytest.raises(DataError, match=r"a\.jsonl:1.*UTF-8"):
        FileSource(str(tmp_path / "a.jsonl")).load()


def test_bad_files_and_settings(tmp_path):
    path = write(
        tmp_path / "a.jsonl", {"problem": "p", "answer": "1", "id": "x"}, {"problem": "q", "answer": "2", "id": "x"}
    )
    with pytest.raises(DataError, match=r"a\.jsonl:2.*uid 'x' of .*a\.jsonl:1"):
        FileSource(path, Fields(uid="id")).load()
    with pytest.raises(DataError, match=r"none\.jsonl"):
        FileSource(str(tmp_path / "none.jsonl")).load()
    with pytest.raises(DataError, match=r"'\.txt'; expected one of .*\.jsonl, .*\.parquet"):
        FileSource(write(tmp_path / "a.txt", "x")).load()
    with pytest.raises(ConfigError, match="limit"):
        FileSource(path, limit=0)
    with pytest.raises(ConfigError, match="regex"):
        FileSource(path, Fields(extraction="regex")).load()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "text", "answer"),
    [
        ("gsm8k", "a #### 3\nb\n#### 1,234", "1234"),
        ("boxed", r"\boxed{0.5} so \boxed{\frac{1}{2}}", "0.5"),
        ("last_number", "from 3 to 1,200.5.", "1200.5"),
        ("last_number", "it is -4", "-4"),
        ("none", " x ", "x"),
    ],
)
def test_extractions(tmp_path, name, text, answer):
    path = write(tmp_path / "a.jsonl", {"problem": "p", "answer": text})
    assert FileSource(path, Fields(extraction=name)).load()[0].answer == answer
    if name != "none":
        path = write(tmp_path / "b.jsonl", {"problem": "p", "answer": "nothing here"})
        with pytest.raises(DataError, match=rf"b\.jsonl:1.*'answer'.*'{name}'"):
            FileSource(path, Fields(extraction=name)).load()


@needs_data
def test_gsm8k_extraction_equals_the_given_finals():
    path = DATA / "gsm8k" / "test_half.jsonl"
    source = FileSource(str(path), Fields("question", "answer", "gsm8k", "answer", "id"))
    finals = [json.loads(line)["final"] for line in path.read_text(encoding="utf-8").splitlines()]
    assert [p.answer for p in source.load()] == finals


def test_hub_source_by_local_path(tmp_path):
    from datasets import Dataset, DatasetDict

    rows = [{"problem": f"p{i}", "answer": i} for i in range(4)]
    Dataset.from_list(rows).save_to_disk(str(tmp_path / "saved"))
    problems = HubSource(str(tmp_path / "saved"), split="train[:2]").load()
    assert [(p.problem, p.answer) for p in problems] == [("p0", "0"), ("p1", "1")]
    DatasetDict({"a": Dataset.from_list(rows), "b": Dataset.from_list(rows[:1])}).save_to_disk(str(tmp_path / "dict"))
    assert [p.problem for p in HubSource(str(tmp_path / "dict"), split="a[50%:]+b").load()] == ["p2", "p3", "p0"]
    for wrong in ("c", "a[x]"):
        with pytest.raises(DataError, match="a dataset with that split"):
            HubSource(str(tmp_path / "dict"), split=wrong).load()
    with pytest.raises(DataError, match=r"row 1.*'nope'"):
        HubSource(str(tmp_path / "saved"), fields=Fields(answer="nope")).load()
    with pytest.raises(DataError, match=r"absent\[train\]"):
        HubSource(str(tmp_path / "absent")).load()


def test_reasoning_gym_source():
    first, again = (ReasoningGymSource("chain_sum", size=3, config={"seed": 7}).load() for _ in range(2))
    assert first == again
    assert ReasoningGymSource("chain_sum", size=3).load()[0].uid == "chain_sum-0-0"
    assert [p.uid for p in first] == ["chain_sum-7-0", "chain_sum-7-1", "chain_sum-7-2"]
    # chain_sum asks for the value of a sum of integers: the answer can be computed from the text.
    expression = first[0].problem.split(":")[-1].split("=")[0]
    assert eval(expression, {"__builtins__": {}}) == int(first[0].answer)
    with pytest.raises(DataError, match="no_such_generator"):
        ReasoningGymSource("no_such_generator", size=1).load()
    with pytest.raises(DataError, match="chain_sum"):
        ReasoningGymSource("chain_sum", size=1, config={"no_such_setting": 1}).load()
