"""From rows as other trainers write them to problems."""

import json
from pathlib import Path

import pytest

from capo_lit.core.errors import ConfigError, DataError
from capo_lit.data.problem import Fields, Problem, read_problem

USER, REPLY = {"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "It is\n#### 2"}
SYSTEM = {"role": "system", "content": "Be brief."}


def problem(row: dict, *args: object, **fields: object) -> Problem:
    return read_problem(row, Fields(*args, **fields), "here:1", "uid")  # type: ignore[arg-type]


def answer(value: object, **fields: object) -> str:
    return problem({"problem": "p", "answer": value}, **fields).answer


def test_a_verl_row_loads() -> None:
    row = {
        "data_source": "x",
        "prompt": [USER],
        "reward_model": {"style": "rule", "ground_truth": "2"},
        "extra_info": {"index": 7},
    }
    got = problem(row, "prompt", "reward_model.ground_truth", uid="extra_info.index")
    assert got == Problem("7", "1+1?", "2")
    with pytest.raises(DataError, match=r"here:1.*'style'\] in 'reward_model', without 'gold'.*fields\.answer"):
        problem(row | {"reward_model": {"style": "rule"}}, "prompt", "reward_model.gold")


def test_a_row_of_messages_is_problem_answer_and_reference_at_once() -> None:
    got = problem({"messages": [SYSTEM, USER, REPLY]}, "messages", "messages", "gsm8k", "messages")
    assert got == Problem("uid", "1+1?", "2", REPLY["content"], chat=(SYSTEM, USER))
    conversational = {"prompt": [USER], "completion": [REPLY]}
    got = problem(conversational, "prompt", None, reference="completion")
    assert got == Problem("uid", "1+1?", "", REPLY["content"])


def test_a_chat_of_several_turns_is_read_by_the_judge_with_names() -> None:
    turns = [SYSTEM, USER, {"role": "assistant", "content": "2"}, {"role": "user", "content": "And 2+2?"}]
    got = problem({"messages": turns, "answer": 4}, "messages")
    assert got.problem == "User: 1+1?\n\nAssistant: 2\n\nUser: And 2+2?"
    assert list(got.chat) == turns


def test_the_content_of_a_message_may_be_parts_of_text() -> None:
    parts = [{"type": "text", "text": "1+1"}, {"type": "text", "text": "= ?"}]
    assert problem({"problem": [{"role": "user", "content": parts}], "answer": 2}).problem == "1+1\n= ?"


@pytest.mark.parametrize(
    ("chat", "parts"),
    [
        ([SYSTEM], "without a user's turn"),
        ([{"role": "user", "content": " "}], "without a user's turn"),
        ([{"role": "tool", "content": "x"}, USER], "message of 'tool'"),
        ([{"role": "user", "content": None}], "NoneType for content"),
        ([{"role": "user"}], "NoneType for content"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}], "expected parts of text"),
        ([], "list '\\[\\]' in field 'problem'"),
        ([{"from": "human", "value": "x"}], "list"),
    ],
)
def test_a_chat_that_cannot_be_read_is_named(chat: list, parts: str) -> None:
    with pytest.raises(DataError, match=rf"here:1.*{parts}.*fields\.problem"):
        problem({"problem": chat, "answer": "1"})


def test_a_reply_must_be_the_last_turn() -> None:
    with pytest.raises(DataError, match=r"ends on a turn of 'user'.*fields\.reference"):
        problem({"messages": [REPLY, USER], "answer": "1"}, "messages", reference="messages")


@pytest.mark.parametrize("value", [["72"], [72, 72.0, "72"], '["72"]', "['72']", ["72", "72.0"]])
def test_a_list_of_one_answer_is_that_answer(value: object) -> None:
    for rule in (None, "any", "all"):
        got = problem({"problem": "p", "answer": value}, answer_list=rule)
        assert (got.answer, got.answers) == ("72", ())


@pytest.mark.parametrize("value", [["3", 5], '["3", "5"]', ["3", "5.0", "3.0"]])
def test_a_list_of_several_answers_needs_a_rule(value: object) -> None:
    row = {"problem": "p", "answer": value}
    with pytest.raises(
        DataError, match=r"here:1: got 2 different answers .*'3', '5.*fields\.answer_list any .* or all"
    ):
        problem(row)
    any_of, all_of = problem(row, answer_list="any"), problem(row, answer_list="all")
    assert (any_of.answers[0], len(any_of.answers)) == ("3", 2)
    assert any_of.answer == " or ".join(any_of.answers)
    assert (all_of.answer, all_of.answers) == (", ".join(any_of.answers), ())
    with pytest.raises(ConfigError, match=r"answer_list 'some'"):
        problem(row, answer_list="some")


def test_different_boxes_of_a_solution_are_several_answers_and_equal_ones_are_one() -> None:
    assert answer(r"\boxed{1/2}, that is \boxed{0.5}", extraction="boxed") == "1/2"
    two = r"$x=\boxed{3}$ or $\boxed{5}$"
    with pytest.raises(DataError, match=r"2 different answers \['3', '5'\] in field 'answer'"):
        answer(two, extraction="boxed")
    assert answer(two, extraction="boxed", answer_list="all") == "3, 5"


@pytest.mark.parametrize(
    "value", [[], [""], ["1", ""], [True], [["1"]], [None], {"value": "1"}, json.loads("NaN"), "nan"]
)
def test_an_answer_that_is_none_is_refused(value: object) -> None:
    with pytest.raises(DataError, match=r"here:1.*'answer'"):
        answer(value, answer_list="any")


def test_what_a_number_is_part_of_is_in_the_message() -> None:
    with pytest.raises(
        DataError, match=r"here:1: got 'is 10-3' around the last number in field 'answer'.*'last_number'"
    ):
        answer("it is 10-3", extraction="last_number")


def test_saved_data_sets_with_a_format_of_their_own_load(tmp_path: Path) -> None:
    from datasets import Dataset

    from capo_lit.data.sources import HubSource

    data = Dataset.from_list([{"problem": [USER], "answer": {"gold": [0.5]}}]).with_format("numpy")
    data.save_to_disk(str(tmp_path / "saved"))
    (got,) = HubSource(str(tmp_path / "saved"), fields=Fields(answer="answer.gold")).load()
    assert (got.problem, got.answer) == ("1+1?", "0.5")
