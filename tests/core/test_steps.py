"""Steps: cuts by hand, and the properties that any text must keep."""

from itertools import pairwise
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capo_lit.core.steps import CUTS, Style, split_steps, token_steps


def parts(text, style="paragraph"):
    return [text[start:end] for start, end in split_steps(text, style)]


def test_the_styles_are_the_literals():
    assert set(CUTS) == set(get_args(Style))


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_style_is_refused():
    with pytest.raises(ValueError, match="expected one of paragraph, line, tags"):
        split_steps("a", "sentence")


def test_spans_by_hand():
    # "a\n\n" is 0..3, "b" 3..4: the separator belongs to the step before
    assert split_steps("a\n\nb") == [(0, 3), (3, 4)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("one", ["one"]),
        ("a\nb", ["a\nb"]),
        ("a\n\nb", ["a\n\n", "b"]),
        ("a\n\n\n\nb", ["a\n\n\n\n", "b"]),
        ("a\n \t\nb", ["a\n \t\n", "b"]),
        ("a\r\n\r\nb", ["a\r\n\r\n", "b"]),
        ("a\r\nb", ["a\r\nb"]),  # one line end, not two
        ("a\r\rb", ["a\r\r", "b"]),
        ("a  \n\n  b", ["a  \n\n", "  b"]),  # an indent is the next step's
        ("\n\na\n\nb", ["\n\na\n\n", "b"]),
        ("  \n\n \n\na", ["  \n\n \n\na"]),
        ("a\n\n", ["a\n\n"]),
        ("a\n\n  ", ["a\n\n  "]),
        ("\n\n", ["\n\n"]),
        (" ", [" "]),
        ("x\n\n```\nc\n\nd\n```", ["x\n\n", "```\nc\n\n", "d\n```"]),  # blank lines split in code too
        ("é\n\n日本", ["é\n\n", "日本"]),
    ],
)
def test_paragraphs(text, expected):
    assert parts(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\nb\n", ["a\n", "b\n"]),
        ("a\n\n\nb", ["a\n\n\n", "b"]),
        ("\n\na\nb", ["\n\na\n", "b"]),
        ("a\r\nb\rc", ["a\r\n", "b\r", "c"]),
        ("\n", ["\n"]),
    ],
)
def test_lines(text, expected):
    assert parts(text, "line") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<step>a</step><step>b</step>", ["<step>a</step>", "<step>b</step>"]),
        ("<step>a</step>\n<step>b</step>\n4", ["<step>a</step>\n", "<step>b</step>\n4"]),
        ("So: <step>a</step> <STEP n='2'>b", ["So: <step>a</step> ", "<STEP n='2'>b"]),
        ("no tags\n\nat all", ["no tags\n\nat all"]),
        ("<steps>a</steps><stepper>", ["<steps>a</steps><stepper>"]),
        ("<step>a<step>b</step></step>", ["<step>a", "<step>b</step></step>"]),
        ("  ", ["  "]),
    ],
)
def test_tags(text, expected):
    assert parts(text, "tags") == expected


TEXT = st.text(st.sampled_from("ab \t\n\n\n\r<>/é\u2028") | st.just("\U0001f600"), max_size=40) | st.lists(
    st.sampled_from(["<step>", "</step>", "\n", "\r\n", "x", " "]), max_size=12
).map("".join)


@given(TEXT, st.sampled_from(get_args(Style)))
def test_spans_are_in_order_disjoint_and_cover_the_text(text, style):
    spans = split_steps(text, style)
    assert "".join(text[a:b] for a, b in spans) == text
    assert all(a < b for a, b in spans)
    assert all(end == start for (_, end), (start, _) in pairwise(spans))
    assert bool(spans) == bool(text)


@given(TEXT, st.sampled_from(get_args(Style)))
def test_no_step_is_mere_whitespace(text, style):
    if text.strip():
        assert all(part.strip() for part in parts(text, style))


@given(TEXT)
def test_a_step_is_split_no_further(text):
    assert all(len(parts(part.strip())) <= 1 for part in parts(text))


def test_hostile_text_is_split_in_linear_time():
    # Quadratic scans would need 10^10 steps here.
    text = "\n" + " " * 100_000 + "x" + "<step " * 20_000 + "\n" * 100_000
    assert [len(split_steps(text, style)) for style in get_args(Style)] == [1, 1, 1]


def test_tokens_go_to_the_step_of_their_first_character():
    # "ab\n\ncd": steps 0..4 and 4..6. "\n\nc" starts at 2, in step 0, although it ends in step 1.
    assert token_steps(["ab", "\n\nc", "d", ""], [(0, 4), (4, 6)]) == [0, 0, 1, -1]
    assert token_steps(["ab\n", "\n", "cd"], [(0, 4), (4, 6)]) == [0, 0, 1]


def test_special_tokens_have_no_step_but_their_characters_count():
    # "<|x|>" fills 2..7: "c" is at 7, in the second step.
    spans = [(0, 7), (7, 8)]
    assert token_steps(["ab", "<|x|>", "c", ""], spans, [False, True, False, True]) == [0, -1, 1, -1]


def test_bytes_go_with_their_character():
    # "a\n\né": é (2 bytes) opens step 1; an ASCII neighbour cannot be of several bytes.
    spans = [(0, 3), (3, 4)]
    assert token_steps(["a", "\n\n", "", "é"], spans, [False] * 4) == [0, 0, 1, 1]
    assert token_steps(["a", "\n\n", "é", ""], spans, [False] * 4) == [0, 0, 1, 1]
    assert token_steps(["a", "\n\n", "", "é", ""], spans, [False, False, True, False, True]) == [0, 0, -1, 1, -1]
    # é ends step 0 and is decoded onto its first byte; the second one goes with it, not with "b"
    assert token_steps(["é", "", "b"], [(0, 1), (1, 2)], [False] * 3) == [0, 0, 1]
    assert token_steps(["", "a"], [(0, 1)], [False, False]) == [0, 0]


def test_tokens_outside_the_spans_have_no_step():
    assert token_steps(["a", "b", "c"], [(0, 1), (2, 2)]) == [0, -1, -1]
    assert token_steps(["a"], [(1, 2)]) == [-1]
    assert token_steps(["", ""], [], [False, True]) == [-1, -1]
    assert token_steps([], []) == []


def test_flags_and_pieces_must_match():
    with pytest.raises(ValueError, match="1 special flags for 2 pieces"):
        token_steps(["a", "b"], [(0, 2)], [False])


@given(st.lists(st.text("ab \n", max_size=4), max_size=12))
def test_every_token_of_text_has_the_step_of_its_first_character(pieces):
    text = "".join(pieces)
    spans = split_steps(text)
    step_of_character = [step for step, (a, b) in enumerate(spans) for _ in range(a, b)]
    offset = 0
    for piece, step in zip(pieces, token_steps(pieces, spans), strict=True):
        assert step == (step_of_character[offset] if piece else -1)
        offset += len(piece)
