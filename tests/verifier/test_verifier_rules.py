"""What is right and wrong: a table of answers, and properties that hold for every answer."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capo_lit.verifier.answer import ANSWER_CHARS, TAIL_CHARS, all_boxes, final_answer, last_box
from capo_lit.verifier.checks import comparable
from capo_lit.verifier.exact import answer_key, compare_exact, number
from capo_lit.verifier.normal import normalise
from capo_lit.verifier.pool import Verifier

CASES = [json.loads(line) for line in (Path(__file__).parents[1] / "data" / "verifier_cases.jsonl").open()]


@pytest.fixture(scope="module")
def outcomes(patient):
    return patient.score([(case["gold"], case["prediction"]) for case in CASES])


def test_every_answer_of_the_table_is_scored_as_it_should_be(outcomes):
    """One row an answer: tests/data/verifier_cases.jsonl."""
    missed = [
        f"{case['gold']!r} {case['prediction']!r}: {outcome}, not {case['outcome']}"
        for case, outcome in zip(CASES, outcomes, strict=True)
        if outcome != case["outcome"]
    ]
    assert not missed, "\n".join(missed)
    rights = sum(case["outcome"] for case in CASES)
    assert min(rights, len(CASES) - rights) > 250, "half a table proves half"


@pytest.mark.slow
def test_right_and_wrong_do_not_depend_on_which_of_two_boxed_answers_is_the_gold(patient):
    answers = ["1/2", "0.5", r"50\%", "x^2+x", "x(x+1)", "(1,2)", "1,2", r"\sqrt{8}", r"2\sqrt2", "x>3", r"(3,\infty)"]
    answers += [r"\frac{1}{20!}", r"\frac{1}{19!}", "1+i", r"\sqrt2e^{i\pi/4}", "101_2", "5", "5 cm", "5 m", "9:00"]
    pairs = [(a, b) for a in answers for b in answers]
    there = patient.score([(a, rf"\boxed{{{b}}}") for a, b in pairs])
    back = patient.score([(b, rf"\boxed{{{a}}}") for a, b in pairs])
    assert [pair for pair, one, two in zip(pairs, there, back, strict=True) if one != two] == []
    assert all(one == 1.0 for (a, b), one in zip(pairs, there, strict=True) if a == b)


INTEGERS = st.integers(-(10**9), 10**9).map(str)
DECIMALS = st.decimals(-10000, 10000, places=3).map(str)
FRACTIONS = st.tuples(st.integers(-99, 99), st.integers(1, 99)).map(lambda pair: rf"\frac{{{pair[0]}}}{{{pair[1]}}}")
NUMERALS = st.integers(2, 200).map(lambda value: f"{value:b}_2")
ANSWERS = st.one_of(INTEGERS, DECIMALS, FRACTIONS, NUMERALS)

MARKUP = st.sampled_from(
    [
        "{}",
        " {} ",
        "${}$",
        r"\({}\)",
        r"\text{{{}}}",
        r"\mathbf{{{}}}",
        r"\textcolor{{red}}{{{}}}",
        r"{{\color{{blue}}{}}}",
        r"\underline{{{}}}",
        r"\displaystyle {}",
        "**{}**",
        "{}.",
        "{},",
        "= {}",
        r"{}\,",
        "\u200b{}",
        r"\boxed{{{}}}",
        "<b>{}</b>",
    ]
)
UNITS = st.sampled_from(["{}", "{} apples", r"{}\text{{ cm}}", r"{} \mathrm{{km}}", "{} dollars per hour", "{} hours"])


@given(ANSWERS, MARKUP, UNITS)
def test_mark_up_and_units_change_nothing(answer, markup, unit):
    written = markup.format(unit.format(answer))
    assert compare_exact(answer, written) is True
    assert compare_exact(written, answer) is True
    assert answer_key(written) == answer_key(answer)


@given(st.one_of(INTEGERS, DECIMALS, FRACTIONS), st.data())
def test_another_digit_is_another_answer(answer, data):
    places = [place for place, char in enumerate(answer) if char.isdigit()]
    place = data.draw(st.sampled_from(places))
    digit = data.draw(st.sampled_from([d for d in "123456789" if d != answer[place]]))
    changed = answer[:place] + digit + answer[place + 1 :]
    expected = number(answer) == number(changed)  # 0/7 and 0/8 are the same number
    assert compare_exact(answer, changed) is expected
    assert final_answer(f"The answer is {changed}.") == changed or "frac" in changed


@given(ANSWERS)
def test_an_answer_is_read_alike_from_a_box_a_line_a_tag_and_a_sentence(answer):
    forms = [
        rf"so \boxed{{{answer}}}",
        f"so\n#### {answer}",
        f"<answer>{answer}</answer>",
        f"The answer is ${answer}$.",
    ]
    forms += [f"**Final Answer:** {answer}", f"## Answer\n\n{answer}", f"<think>7</think>The answer is: {answer}"]
    for form in forms:
        read = final_answer(form)
        assert read is not None, form
        assert compare_exact(answer, read) is True, form


@given(st.text(max_size=300))
def test_the_one_spelling_is_reached_in_one_step(text):
    form = normalise(text)
    assert normalise(form.whole).text == form.text or len(form.whole) < len(text)


UNITS_OF_BOMBS = [
    *("answer ", "the answer is ", "answer:\n", "#### ", "####  \n", r"\boxed{", r"\boxed ", r"\boxed{1}", "<think>"),
    *("<answer>", "$", "*", " ", "\t", "(", "1,", "1 and ", "答案", r"\frac", "{", "\\", "answer (", "answer is $"),
]


@pytest.mark.timeout(10)
@pytest.mark.parametrize("unit", UNITS_OF_BOMBS)
def test_reading_is_linear_in_the_text(unit):
    """A quadratic expression took 2 s for one of these; six of them do not fit where linear ones take 0.3 s in all."""
    for _ in range(6):
        final_answer("the answer is" + unit * (TAIL_CHARS // len(unit)))
        final_answer(unit * (TAIL_CHARS // len(unit)) + "the answer is 5")


@pytest.mark.parametrize(
    "char", ["a", "1 ", r"\text{", "(", "{", "½", "√", "**", "a b", "1,", r"\frac", "x^", "–1", "%", "'"]
)
@pytest.mark.timeout(20)
def test_the_longest_answer_is_brought_to_one_spelling_at_once(char):
    """An expression that backtracks takes for ever on one of these; each takes some 10 ms."""
    normalise(char * (ANSWER_CHARS // len(char)))
    normalise("5 " + char * (ANSWER_CHARS // len(char)) + " =")


@pytest.mark.parametrize(
    ("text", "boxes"),
    [
        (r"\boxed{1} and \boxed{2}", ["1", "2"]),
        (r"\boxed{x=\boxed{5}}", [r"x=\boxed{5}"]),
        (r"\boxed 7.", ["7"]),
        (r"$\boxed\frac{1}{2}$", [r"\frac{1}{2}"]),
        (r"\fbox{3}", ["3"]),
        (r"\boxed{1} \boxed{2", ["1", None]),
        (r"\boxed{}", [""]),
        ("none", []),
    ],
)
def test_all_boxes_of_a_text(text, boxes):
    assert all_boxes(text) == boxes


def test_the_last_box_with_content_counts_and_an_open_one_is_none():
    assert last_box(r"\boxed{5} \boxed{}") == "5"
    assert last_box(r"\boxed{5} \boxed{6") is None
    assert last_box("5") is None


@pytest.mark.parametrize(
    ("gold", "answer", "expected"),
    [
        ("5", r"\sum_{k=1}^{10^{12}} k", False),
        (r"\sum_{k=1}^{n} k", r"\sum_{j=1}^{n} j", True),
        ("5", r"\int" * 60 + "x", False),
        ("5", "5, 5", False),
        ("1, 2", "(2, 1)", True),
        ("1,000", "1000", True),
        ("5", "print(5)", False),
        ("5", "6 % 5", False),
        ("5", r"5\ldots", False),
    ],
)
def test_what_math_verify_may_be_asked(gold, answer, expected):
    assert comparable(gold, answer) is expected


def test_golds_that_only_text_can_be_compared_with_are_named(patient):
    golds = ["5", "3/4", "9:00", "Paris", r"\frac{1}{0}", r"1, 2, \ldots, n", "x^2+1", "(1,2)", "", "x" * 2000]
    assert patient.text_only(golds) == [r"\frac{1}{0}", r"1, 2, \ldots, n", "", "x" * 2000]
    assert patient.score([(r"\frac{1}{0}", r"\boxed{\frac{1}{0}}"), (r"\frac{1}{0}", r"\boxed{3}")]) == [1.0, 0.0]
    with Verifier() as verifier:
        assert verifier.text_only(["5", "3/4", "9:00", "Paris"]) == []
        assert verifier._pool is None, "numbers and words need no worker"
