"""Judging offline: rows to solutions, the steps that the judge sees, verdicts and scores under every rule."""

import json
from pathlib import Path

import pytest

from capo_lit.core.errors import DataError, EngineError, JudgeError
from capo_lit.evaluation.judging.offline import judge_solutions, score_rows
from capo_lit.evaluation.judging.solutions import Solution, draw_sample, read_solutions
from capo_lit.genprm.judge import GenPRM
from tests.support.judging import content
from tests.support.scripted_engine import NEVER, Reply, ScriptedEngine

# A blank line inside, one that is nothing but whitespace, an empty one, and one that begins with blank lines: joined
# and split again, these are other steps.
ODD_STEPS = ["One.\n\nStill one.", " \n", "", "\n\nFour."]


def write(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def judged(replies, solutions, vote="majority", early_stop=False, **settings):
    engine = ScriptedEngine(replies)
    judge = GenPRM(engine, vote=vote, early_stop=early_stop, **settings)
    rows = [row for _, row in judge_solutions(judge, solutions, seed=3)]
    return engine, sorted(rows, key=lambda row: row["id"])


def test_the_judge_sees_the_steps_that_were_given(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"problem": "P", "steps": ODD_STEPS, "label": 3})
    (solution,) = read_solutions(path)
    engine, (row,) = judged([r"\boxed{3}"], [solution], k=1)
    text = content(engine.requests[0])
    assert [text.count(f"<step_{index} key=") for index in range(5)] == [1, 1, 1, 1, 0]
    assert "One.\n\nStill one." in text[text.index("<step_0 key=") : text.index("</step_0 key=")]
    assert "Four." in text[text.index("<step_3 key=") :]
    assert row["steps"] == ODD_STEPS
    assert row["step_error"] == [0.0, 0.0, 0.0, 1.0]
    assert (row["first_wrong"], row["label"], row["id"]) == (3, 3, "a.jsonl:1")


def test_spans_cover_the_text() -> None:
    rollout = Solution("u", "P", tuple(ODD_STEPS), between="\n\n").rollout(4)
    assert rollout.row == 4
    ends = [0, *(end for _, end in rollout.spans)]
    assert [start for start, _ in rollout.spans] == ends[:-1]
    assert ends[-1] == len(rollout.completion.text)
    assert Solution("u", "P", ()).rollout(0).spans == ()


@pytest.mark.parametrize(("style", "steps"), [("paragraph", ("a\nb\n\n", "c")), ("line", ("a\n", "b\n\n", "c"))])
def test_a_solution_is_split(tmp_path: Path, style: str, steps: tuple[str, ...]) -> None:
    path = write(tmp_path / "a.jsonl", {"problem": "P", "solution": "a\nb\n\nc"})
    (solution,) = read_solutions(path, style)
    assert solution.steps == steps
    assert solution.rollout(0).completion.text == "a\nb\n\nc"


GOOD = {"problem": "P", "steps": ["a", "b"]}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"steps": ["a"]}, "'problem'"),
        ({**GOOD, "problem": " "}, "'problem'"),
        ({"problem": "P"}, "'steps' or a field 'solution'"),
        ({**GOOD, "steps": "a"}, "a str in field 'steps'"),
        ({**GOOD, "steps": ["a", 1]}, "a int at place 1 of field 'steps'"),
        ({"problem": "P", "solution": ["a"]}, "field 'solution'"),
        ({**GOOD, "label": 2}, "2 in field 'label'.*from 0 to 1"),
        ({**GOOD, "label": -2}, "-2 in field 'label'"),
        ({**GOOD, "label": True}, "True in field 'label'"),
        ({**GOOD, "label": "1"}, "'1' in field 'label'"),
        ({**GOOD, "label": 0.5}, "0.5 in field 'label'"),
        ({"problem": "P", "steps": [], "label": 0}, "0 in field 'label'.*-1"),
        ({**GOOD, "id": [1]}, "field 'id'"),
        ({**GOOD, "id": "same"}, "'same' in field 'id', as in line 1"),
        ({**GOOD, "reference": {}}, "field 'reference'"),
        ({**GOOD, "steps": ["a", "half \ud800"]}, "field 'steps'.*Unicode"),
    ],
)
def test_bad_rows_name_file_line_and_field(tmp_path: Path, row: dict, said: str) -> None:
    path = write(tmp_path / "bad.jsonl", {**GOOD, "id": "same"}, row)
    with pytest.raises(DataError, match=rf"bad\.jsonl:2: .*{said}"):
        read_solutions(path)


def test_a_judge_that_is_shown_a_reference_needs_one(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {**GOOD, "answer": 7}, {**GOOD, "reference": "R"}, GOOD)
    assert [s.answer or s.reference for s in read_solutions(path)] == ["7", "R", None]
    with pytest.raises(DataError, match=r"a\.jsonl:3: .*'reference'"):
        read_solutions(path, needs_reference=True)


def test_samples_are_nested_and_of_all_rows() -> None:
    solutions = [Solution(f"u{i}", "P", ("a",)) for i in range(200)]
    small, large = (draw_sample(solutions, size, seed=0) for size in (20, 100))
    assert (len(small), len(large)) == (20, 100)
    assert set(small) <= set(large)
    assert small == [solution for solution in solutions if solution in set(small)]
    # Of 100 from 200 about half lie in each half; 4 standard deviations of that count (3.5 each) are 14.
    assert abs(sum(int(solution.uid[1:]) < 100 for solution in large) - 50) < 15
    assert draw_sample(solutions, None, seed=0) == solutions
    assert draw_sample(solutions, 20, seed=1) != small


def test_one_verdict_for_each_rule() -> None:
    # Four valid critiques, of which 1, 2 and 4 flag steps 0, 1 and 2: majority needs 2.
    replies = [r"\boxed{0, 1, 2}", r"\boxed{1, 2}", r"\boxed{2}", r"\boxed{2}"]
    _, (row,) = judged(replies, [Solution("u", "P", ("a", "b", "c"), label=1)], vote="union", k=4)
    assert row["step_error_intersection"] == [0.0, 0.0, 1.0]
    assert row["step_error_majority"] == [0.0, 1.0, 1.0]
    assert row["step_error_union"] == row["step_error"] == [1.0, 1.0, 1.0]
    assert row["step_error_average"] == [0.25, 0.5, 1.0]
    assert row["step_error_greedy"] is None  # four critiques are not one
    rules = ("intersection", "majority", "union", "average", "greedy")
    assert [row[f"first_wrong_{rule}"] for rule in rules] == [2, 1, 0, 1, None]
    assert row["first_wrong"] == 0
    assert [critique["wrong"] for critique in row["critiques"]] == [[0, 1, 2], [1, 2], [2], [2]]
    scores = score_rows([row])
    assert set(scores["voted"]) == {"intersection", "majority", "union", "average"}
    # The label is step 1, which one of the four critiques names first.
    assert scores["single"]["accuracy_erroneous"] == 0.25
    assert scores["voted"]["majority"]["accuracy_erroneous"] == 1.0


def test_rules_that_called_off_critiques_could_change_are_not_known() -> None:
    # Union is settled when the first critique flags the only step, and the other two are called off: the majority of
    # three and the average may be anything, and one place of three cannot be scored by itself.
    replies = [r"\boxed{0}", NEVER, NEVER]
    _, (row,) = judged(replies, [Solution("u", "P", ("a",), label=0)], vote="union", k=3, early_stop=True)
    assert [critique["cause"] for critique in row["critiques"]][1:] == ["aborted", "aborted"]
    assert row["step_error_union"] == [1.0]
    assert [row[f"step_error_{rule}"] for rule in ("intersection", "majority", "average", "greedy")] == [None] * 4
    scores = score_rows([row])
    assert set(scores["voted"]) == {"union"}
    assert scores["single"] is None
    assert scores["failed"] == 0


def test_without_a_valid_critique_there_is_no_prediction() -> None:
    solutions = [Solution(f"u{i}", f"P{i}", ("a",), label=-1) for i in range(2)]
    _, rows = judged(["?", "?", r"\boxed{none}", "?"], solutions, k=2)
    assert [row["first_wrong_majority"] for row in rows] == [None, -1]
    scores = score_rows(rows)
    assert scores["voted"]["majority"]["unanswered"] == 1
    assert scores["voted"]["majority"]["accuracy_correct"] == 0.5
    # First critiques: no verdict, right; second ones: none at all. Means: (1/2 + 0) / 2 and (1 + 2) / 2.
    assert (scores["single"]["accuracy_correct"], scores["single"]["unanswered"]) == (0.25, 1.5)
    assert (scores["critiques"], scores["valid"], scores["failed"]) == (4, 1, 0)


def test_a_solution_without_steps_asks_nothing_and_has_no_verdict() -> None:
    solutions = [Solution("empty", "P", (), label=-1), Solution("full", "P", ("a",), label=0)]
    engine, rows = judged([r"\boxed{0}", r"\boxed{0}"], solutions, k=2)
    assert len(engine.requests) == 2
    assert (rows[0]["critiques"], rows[0]["step_error_union"], rows[0]["first_wrong_union"]) == ([], [], None)
    scores = score_rows(rows)
    assert scores["voted"]["union"]["unanswered"] == scores["single"]["unanswered"] == 1


def test_chunks_change_nothing_and_bound_what_is_in_flight() -> None:
    solutions = [Solution(f"u{i}", f"P{i}", ("a", "b")) for i in range(5)]
    asked = []
    for chunk in (2, 5):
        engine = ScriptedEngine(lambda request: Reply(r"\boxed{1}", steps=3))
        most = 0
        for _ in judge_solutions(GenPRM(engine, k=1), solutions, seed=3, chunk=chunk):
            most = max(most, len(engine.in_flight))
        assert most < chunk
        asked.append([(request.prompt, request.seed) for request in engine.requests])
    assert asked[0] == asked[1]


def test_a_judge_that_cannot_be_used_stops_and_one_that_was_lost_does_not() -> None:
    solutions = [Solution(f"u{i}", f"P{i}", ("a",)) for i in range(3)]
    broken = GenPRM(ScriptedEngine(lambda request: EngineError("no weights", "weights")), k=2)
    with pytest.raises(JudgeError, match=r"no reply to the first 4 requests .*no weights"):
        list(judge_solutions(broken, solutions, seed=3, chunk=2))
    lost = GenPRM(ScriptedEngine([r"\boxed{0}", NEVER, NEVER]), k=1, deadline_s=0.05)
    rows = [row for _, row in judge_solutions(lost, solutions, seed=3, chunk=1)]
    assert [row["first_wrong"] for row in rows] == [0, None, None]
    assert score_rows(rows)["failed"] == 2
