"""Rows of the benchmarks, in the hub's format and in ours, and the judging of answers and letters."""

import json
from pathlib import Path
from typing import Any

import pytest

from capo_lit.core.errors import DataError
from capo_lit.evaluation.benchmarks.answers import chosen_letter, judge_answers, judge_letters, verifier
from capo_lit.evaluation.benchmarks.rows import load

GPQA = {
    "Question": "Which one?",
    "Correct Answer": "this",
    "Incorrect Answer 1": "that",
    "Incorrect Answer 2": "those",
    "Incorrect Answer 3": "these",
}
ANSWERS: list[tuple[dict[str, Any], str]] = [
    ({"problem": "1+1?", "answer": "2"}, "2"),
    ({"problem": "1+1?", "answer": 2}, "2"),
    ({"question": "1+1?", "answer": "2"}, "2"),
    ({"Problem": "1+1?", "Answer": "2"}, "2"),
    ({"question": "1+1?", "answer": "so 2\n#### 2"}, "so 2\n#### 2"),  # gsm8k: the verifier takes the rest
    ({"question": "1+1?", "final_answer": ["$1$", "$-1$"]}, "$1$, $-1$"),  # OlympiadBench
]
CHOICES: list[tuple[dict[str, Any], str]] = [
    ({"problem": "Which?", "choices": ["a ", "b"], "answer": "B"}, "B"),
    ({"question": "Which?", "choices": {"text": ["a", "b"], "label": ["1", "2"]}, "answerKey": "2"}, "B"),  # ARC
    ({"question": "Which?", "options": ["a", "b"], "answer": "B", "answer_index": 1}, "B"),  # MMLU-Pro
]


def write(folder: Path, *rows: dict[str, Any], name: str = "test.jsonl") -> str:
    (folder / "here").mkdir(exist_ok=True)
    (folder / "here" / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


@pytest.mark.parametrize(("row", "answer"), ANSWERS)
def test_answers_come_in_the_hubs_format_and_in_ours(tmp_path: Path, row: dict[str, Any], answer: str) -> None:
    (doc,) = load("here", {}, data_dir=write(tmp_path, row), version=1.0)["test"]
    assert doc == {"problem": "1+1?", "answer": answer}


@pytest.mark.parametrize(("row", "answer"), CHOICES)
def test_choices_come_in_the_hubs_format_and_in_ours(tmp_path: Path, row: dict[str, Any], answer: str) -> None:
    (doc,) = load("here", {}, "choices", data_dir=write(tmp_path, row))["test"]
    assert doc == {"problem": "Which?", "choices": "(A) a\n(B) b", "count": 2, "answer": answer}


def test_choices_whose_right_one_comes_first_are_shuffled_in_an_order_that_stays(tmp_path: Path) -> None:
    rows = [GPQA | {"Question": f"Which one of {n}?"} for n in range(40)]
    docs = [list(load("here", {}, "choices", data_dir=write(tmp_path, *rows))["test"]) for _ in range(2)]
    assert docs[0] == docs[1]
    assert {doc["answer"] for doc in docs[0]} == set("ABCD")
    for doc in docs[0]:
        assert f"({doc['answer']}) this" in doc["choices"].split("\n")
        assert sorted(line[4:] for line in doc["choices"].split("\n")) == ["that", "these", "this", "those"]


def test_a_hub_dataset_may_be_a_local_folder(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_text('{"problem": "1+1?", "answer": "2"}\n')
    (doc,) = load("here", {"path": str(tmp_path), "split": "test"})["test"]
    assert doc == {"problem": "1+1?", "answer": "2"}


@pytest.mark.parametrize(
    ("row", "kind", "message"),
    [
        ({"problem": "1+1?"}, "answers", r"here/test\.jsonl:1: got fields \['problem'\]; expected one of \['answer'"),
        ({"answer": "2"}, "answers", "expected one of \\['problem'"),
        (
            {"problem": "?", "choices": ["a", "b"], "answer": "C"},
            "choices",
            r"answer 'C'; expected one of \['A', 'B'\]",
        ),
    ],
)
def test_rows_that_cannot_be_used_are_named(tmp_path: Path, row: dict[str, Any], kind: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load("here", {}, kind, data_dir=write(tmp_path, row))


def test_the_local_file_must_be_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="0 files"):
        load("here", {"path": "never/asked"}, data_dir=str(tmp_path))
    write(tmp_path, {"problem": "1+1?", "answer": "2"})
    write(tmp_path, {"problem": "1+1?", "answer": "2"}, name="test_half.jsonl")
    with pytest.raises(DataError, match="2 files"):
        load("here", {}, data_dir=str(tmp_path))


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("so \\boxed{B}", "B"),
        ("so \\boxed{(B)}", "B"),
        ("so \\boxed{\\text{B}}", "B"),
        ("so \\boxed{\\textbf{(B) } 42}", "B"),
        ("The answer is (B).", "B"),
        ("The answer is B. because A is wrong", "B"),
        ("#### B", "B"),
        ("B", "B"),
        ("\\boxed{A} or rather \\boxed{B}", "B"),
        ("so \\boxed{Because}", None),
        ("so \\boxed{E}", None),  # there are four choices
        ("so \\boxed{42}", None),
        ("A or B, who knows", None),
        ("", None),
    ],
)
def test_the_letter_is_read_from_the_final_answer(response: str, letter: str | None) -> None:
    assert chosen_letter(response, 4) == letter


def test_letters_of_all_repeats_count() -> None:
    doc = {"answer": "B", "count": 4}
    four = ["\\boxed{B}", "\\boxed{A}", "\\boxed{B}", "nothing"]
    assert judge_letters(doc, [four]) == {"unknown_frac": 0.0, "avg_at_k": 0.5, "pass_at_k": 1.0}
    assert judge_letters(doc, [four[1:2]]) == {"unknown_frac": 0.0, "avg_at_k": 0.0}


def test_answers_whose_outcome_is_unknown_leave_the_average(monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = {"right": 1.0, "wrong": 0.0, "late": None}
    monkeypatch.setattr(verifier(), "score", lambda pairs: [outcomes[response] for _, response in pairs])
    found = judge_answers({"answer": "2"}, [["right", "late", "wrong", "right"]])
    assert found == {"unknown_frac": 0.25, "avg_at_k": pytest.approx(2 / 3), "pass_at_k": 1.0}
    assert judge_answers({"answer": "2"}, [["late"]]) == {"unknown_frac": 1.0}
