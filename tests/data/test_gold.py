"""Gold answers inside a text: whole forms or none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capo_lit.core.errors import DataError
from capo_lit.data.gold import after_hashes, all_boxes, different, last_number, read_number, whole_text


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so 2/3 of it", "2/3"),
        ("a chance of .25.", "0.25"),
        ("mass 2.5e-4", "0.00025"),
        ("1E6 people", "1000000"),
        ("x = \u22127", "-7"),
        ("that is \u20137", "-7"),
        ("\uff14\uff12 apples", "42"),
        ("costs $1,250.50 in all", "1250.50"),
        ("-$5", "-5"),
        ("$x=-4$.", "-4"),
        (r"$\frac{3}{4}$", "3/4"),
        (r"$-\dfrac{3}{4}$", "-3/4"),
        (r"\boxed{12}.", "12"),
        ("**12**", "12"),
        ("<answer>12</answer>", "12"),
        ("The answer is:12", "12"),
        ("48/2 = <<48/2=24>>24 clips", "24"),
        ("15 %", "15%"),
        ("15 percent", "15%"),
        ("3 / 4", "3/4"),
        ("first 3\nthen -8", "-8"),
        ("on line 3. 12 apples", "12"),
        ("7 - 5 = 2", "2"),
        ("007", "007"),
        ("72.0", "72.0"),
    ],
)
def test_the_last_number_is_taken_whole(text: str, number: str) -> None:
    assert last_number(text) == [number]


@pytest.mark.parametrize(
    "text",
    [
        *("12-5", "12 - 5", "x-3", "8\u22123", "3+4", r"3 \times 4", "6*7", "2 x 3", "- 4"),
        *("4,5", "4, 5", "(4,5)", "(4, 5)", "[0, 4]", "(1,200)", "12,34,567", "1,20", "2; 3"),
        *("2^{10}", "2^10", "10\u00b2", "3\u00bd", "\u00bd", "3 1/2", r"2\frac{1}{2}", r"\sqrt{2}", "\u221a2"),
        *("1 000", r"1\,000", "2 million", "5!", "2 \u03c0", r"2\pi", "4x", "4cm", "x_2", "f(4)", "f( 4 )", "4th"),
        *("x<=4", "x < 4", "1/2/3", "1.2.3", "3:45", r"6.02 \times 10^{23}", r"\pm 3", r"\frac{n}{2}"),
    ],
)
def test_a_number_that_is_part_of_something_larger_is_refused_by_name(text: str) -> None:
    with pytest.raises(DataError, match="around the last number; expected a number that stands by itself"):
        last_number(f"it is {text}")


def test_a_text_without_numbers_has_no_last_one() -> None:
    assert last_number("none at all") == []


@given(st.integers(-(10**12), 10**12), st.sampled_from(["", "so ", "it is $", "= ", "**", "(", "a\n"]))
def test_a_whole_number_reads_as_itself_with_and_without_groups(number: int, before: str) -> None:
    assert last_number(f"{before}{number}.") == [str(number)]
    assert last_number(f"{before.replace('(', '')}{number:,}") == [str(number)]


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("(2,3)", "(2,3)"),
        ("2,3", "2,3"),
        ("(1,200)", "(1,200)"),
        ("1,234,567", "1234567"),
        ("$1,200.", "1200"),
        ("1,200 dollars", "1200 dollars"),
        ("1,200, 1,300", "1200, 1300"),
        ("\u22125", "-5"),
        (".75", "0.75"),
        ("5e-3", "0.005"),
        ("10-3", "10-3"),
        ("3/4", "3/4"),
        ("20%", "20%"),
        ("72 apples\r", "72 apples"),
    ],
)
def test_what_follows_the_hashes_keeps_its_form(line: str, answer: str) -> None:
    assert after_hashes(f"a #### 1\nb\n#### {line}") == [answer]


def test_nothing_after_the_hashes_is_no_answer() -> None:
    assert after_hashes("no mark") == after_hashes("#### \n72") == []


@pytest.mark.parametrize(
    ("text", "boxes"),
    [
        (r"so $\boxed 8$.", ["8"]),
        (r"so $\boxed8$.", ["8"]),
        (r"\boxed -3/4.", ["-3/4"]),
        (r"$\boxed \frac{1}{2}$", [r"\frac{1}{2}"]),
        (r"\fbox{8} or \boxed {9}", ["8", "9"]),
        (r"\boxed{\boxed{8}}", ["8"]),
        (r"\boxed{\{1, 2\}}", [r"\{1, 2\}"]),
        ("none", []),
    ],
)
def test_every_box_is_read(text: str, boxes: list[str]) -> None:
    assert all_boxes(text) == boxes


@pytest.mark.parametrize(
    "text", [r"\boxed{", r"\boxed{}", r"\boxed", r"$\boxed \frac {1} {2}$", r"\boxed \$5", r"\boxed{1} \boxed{2"]
)
def test_a_box_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="the box"):
        all_boxes(text)


def test_equal_answers_are_one() -> None:
    assert different(["1/2", "0.5", "3", r"\frac{1}{2}", "3.0"]) == ["1/2", "3"]


def test_a_whole_text_is_taken_as_it_is_but_for_what_programs_write() -> None:
    assert whole_text(" x + 1 ") == ["x + 1"]
    assert whole_text("[1, 2]") == ["[1, 2]"], "an interval, or a list that the verifier compares"
    assert whole_text("3e-05") == ["0.00003"]
    assert whole_text(r'["\\frac{1}{2}"]') == whole_text(r"['\\frac{1}{2}']") == [r"\frac{1}{2}"]
    for text in ("nan", "NaN", "-inf", '["a" and "b"]'):
        with pytest.raises(DataError, match="the text"):
            whole_text(text)


def test_what_is_no_single_number_reads_as_none() -> None:
    for text in ("", "-", "1,20", "1.2.3", "1/2/3", "e5", "5 6", "1e9999", "."):
        assert read_number(text) is None, text
