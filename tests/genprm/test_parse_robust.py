"""parse_critique: no reply can stall it, break it or bring it out of range."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capo_lit.genprm.parse import parse_critique

STEPS = 6


@pytest.mark.parametrize(
    "reply",
    [
        r"\boxed{" * 15_000,
        r"\boxed{" + "[" * 100_000 + "]" * 100_000 + "}",
        r"\boxed{" + "{" * 100_000 + "}" * 100_000 + "}",
        r"\boxed{" + r"\text{" * 20_000 + "1" + "}" * 20_000 + "}",
        r"\boxed{" + "0-5," * 25_000 + "0}",
        r"\boxed{" + "-" * 100_000 + "}",
        r"\boxed{" + "step " * 20_000 + "}",
        r"\boxed{" + " " * 100_000 + "1}",
        r"\boxed{" + "9" * 100_000 + "}",
        r"\boxed" + " " * 100_000,
        "<think>" * 15_000,
        "```" * 33_000,
        "```json" + " " * 100_000 + "```",
        '{"wrong_steps": ' + "[" * 100_000 + "]" * 100_000 + "}",
        "{" * 100_000 + "}",
        "\\" * 100_001 + "boxed{1}",
        "\\boxed{1} " * 10_000,
        "Step 1 is wrong: \\boxed{1}. " * 3_600,
        '{"wrong_steps": [1]}' * 5_000,
        '{"a":' * 20_000 + '"wrong_steps"',
        '"' * 100_000 + "\\boxed{1}",
        " '`" * 33_000 + "\\boxed{1}",
        "```\n" * 25_000 + "\\boxed{1}",
        "<step_1>" * 12_500 + "\\boxed{1}",
        "<|im_end|>" * 10_000,
        "\\boxed{1}" + "!.\n" * 33_000,
        "\\boxed{" + "\u7b2c\u4e00" * 50_000 + "}",
    ],
    ids=lambda reply: reply[:20],
)
def test_long_replies_take_linear_time(reply: str) -> None:
    started = time.process_time()  # not of a busy machine
    wrong = parse_critique(reply, STEPS)
    # Linear is some 0.1 s; 10^5 characters squared would be minutes.
    assert time.process_time() - started < 6
    assert wrong is None or wrong <= set(range(STEPS))


FRAGMENTS = st.sampled_from(
    re.findall(
        r"\S+|[ \n]",
        "\\boxed \\boxed{ { } \\{ \\} [ ] ( ) 1 2 5 -1 - \u2013 , ; and step none \\text{ <think> </think> ```json ``` "
        '"wrong_steps": $ * . \\ x \n',
    )
)
JUNK = st.lists(st.one_of(FRAGMENTS, st.text(max_size=3)), max_size=25).map("".join)


@given(JUNK, st.integers(0, 8), st.integers(0, 1))
def test_never_raises_and_stays_in_range(reply: str, num_steps: int, index_base: int) -> None:
    for text in (reply, rf"\boxed{{{reply}}}", f'{{"wrong_steps": [{reply}]}}'):
        wrong = parse_critique(text, num_steps, index_base)
        assert wrong is None or wrong <= set(range(num_steps))


# Thinking, other verdicts and lines that say what the box is do matter.
_MATTERS = re.compile(r"think|boxed|wrong_steps|```|[-=,:\u2013<>|]\s*$|and\s*$", re.IGNORECASE)


@given(JUNK.filter(lambda text: not _MATTERS.search(text)), st.sets(st.integers(0, 7)), st.integers(0, 1))
def test_what_precedes_the_last_box_does_not_matter(junk: str, wrong: set[int], index_base: int) -> None:
    content = ", ".join(str(step + index_base) for step in sorted(wrong)) or "none"
    # The line break keeps a backslash at the junk's end apart from the box.
    assert parse_critique(f"{junk}\n\\boxed{{{content}}}", 8, index_base) == wrong
