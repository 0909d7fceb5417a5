"""parse_critique: what it understands, and what it refuses to guess."""

import pytest

from capo_lit.genprm.parse import parse_critique

STEPS = 6  # indices 0 to 5 are in range everywhere in this file, unless a case says otherwise

UNDERSTOOD = [
    (r"\boxed{3}", {3}),
    (r"\boxed{0}", {0}),
    (r"\boxed{5}", {5}),
    (r"\boxed {3}", {3}),
    (r"\boxed{ 1 , 3 }", {1, 3}),
    (r"\boxed{1,3}", {1, 3}),
    (r"\boxed{1;3}", {1, 3}),
    (r"\boxed{1 and 3}", {1, 3}),
    (r"\boxed{1 & 3}", {1, 3}),
    (r"\boxed{1 \& 3}", {1, 3}),
    (r"\boxed{1, 2 and 4}", {1, 2, 4}),
    (r"\boxed{1, 2, and 4}", {1, 2, 4}),
    (r"\boxed{1, \text{ and } 4}", {1, 4}),
    ("\\boxed{1\uff0c3\u30014}", {1, 3, 4}),
    (r"\boxed{3, 3, 1}", {1, 3}),
    # ranges
    (r"\boxed{2-4}", {2, 3, 4}),
    (r"\boxed{2 - 4}", {2, 3, 4}),
    (r"\boxed{2--4}", {2, 3, 4}),
    ("\\boxed{2\u20134}", {2, 3, 4}),
    ("\\boxed{2\u22124}", {2, 3, 4}),
    (r"\boxed{2 to 4}", {2, 3, 4}),
    (r"\boxed{2\text{ to }4}", {2, 3, 4}),
    (r"\boxed{2 through 4}", {2, 3, 4}),
    (r"\boxed{0, 2-3, 5}", {0, 2, 3, 5}),
    (r"\boxed{2-4, 3-5}", {2, 3, 4, 5}),
    (r"\boxed{2-2}", {2}),
    # labels
    (r"\boxed{Step 3}", {3}),
    (r"\boxed{steps 1 and 2}", {1, 2}),
    (r"\boxed{paragraph 3}", {3}),
    (r"\boxed{Paragraphs 1, 3}", {1, 3}),
    (r"\boxed{step 1, step 3}", {1, 3}),
    (r"\boxed{Steps: 1, 3}", {1, 3}),
    (r"\boxed{Wrong steps: 1, 3}", {1, 3}),
    (r"\boxed{steps 2-4}", {2, 3, 4}),
    (r"\boxed{step 2 to step 4}", {2, 3, 4}),
    (r"\boxed{step_3}", {3}),
    (r"\boxed{\text{step\_3}}", {3}),
    (r"\boxed{Step #3}", {3}),
    (r"\boxed{Steps [1, 3]}", {1, 3}),
    # nothing wrong
    (r"\boxed{none}", set()),
    (r"\boxed{None.}", set()),
    (r"\boxed{no}", set()),
    (r"\boxed{no wrong steps}", set()),
    (r"\boxed{no errors}", set()),
    (r"\boxed{Wrong steps: none}", set()),
    (r"\boxed{-1}", set()),
    ("\\boxed{\u22121}", set()),
    (r"\boxed{$-1$}", set()),
    (r"\boxed{[-1]}", set()),
    (r"\boxed{}", set()),
    (r"\boxed{ }", set()),
    (r"\boxed{[]}", set()),
    (r"\boxed{\{\}}", set()),
    (r"\boxed{\text{none}}", set()),
    (r"\boxed{\text{None}}", set()),
    (r"\boxed{\mathrm{none}}", set()),
    (r"\boxed{\emptyset}", set()),
    (r"\boxed{\varnothing}", set()),
    ("\\boxed{\u2205}", set()),
    # wrappers
    (r"\boxed{**3**}", {3}),
    (r"\boxed{`3`}", {3}),
    (r"\boxed{$3$}", {3}),
    (r"\boxed{\(3\)}", {3}),
    (r"$\boxed{3}$", {3}),
    (r"**\boxed{3}**", {3}),
    (r"\[\boxed{3}\]", {3}),
    (r"\boxed{3.}", {3}),
    (r"\boxed{[1, 2]}", {1, 2}),
    (r"\boxed{(1, 2)}", {1, 2}),
    (r"\boxed{\{1, 2\}}", {1, 2}),
    (r"\boxed{{1, 2}}", {1, 2}),
    (r"\boxed{\left\{1, 2\right\}}", {1, 2}),
    (r"\boxed{(1), (2)}", {1, 2}),
    (r"\boxed{[(1), (2)]}", {1, 2}),
    (r"\boxed{\text{1, 2}}", {1, 2}),
    (r"\boxed{\text{Steps }1\text{ and }2}", {1, 2}),
    (r"\boxed{\textbf{3}}", {3}),
    (r"\boxed{1,\,2}", {1, 2}),
    (r"\boxed{1,~2}", {1, 2}),
    # a box that is somebody else's, and boxes that repeat the verdict
    ("\\boxed{1}, I am sure: \\boxed{1}", {1}),
    (r"The student wrote \boxed{21}. Verdict: \boxed{1}", {1}),
    (r"\boxed{\boxed{1}}", {1}),
    ("\\boxed{1}\n\nI hope this helps.", {1}),
    ("```\n\\boxed{1}\n```", {1}),
    # JSON
    (r'\boxed{{"wrong_steps": [1, 2]}}', {1, 2}),
    (r'\boxed{"wrong_steps": [1, 2]}', {1, 2}),
    (r'\boxed{\{"wrong\_steps": [1, 2]\}}', {1, 2}),
    ('{"wrong_steps": [1, 2]}', {1, 2}),
    ('  {"wrong_steps": []}\n', set()),
    ('{"wrong_steps": [-1]}', set()),
    ('{"wrong_steps": 3}', {3}),
    ('{"wrong_steps": "none"}', set()),
    ('{"wrong_steps": ["1", "step 3"]}', {1, 3}),
    ('```json\n{"wrong_steps": [1, 2]}\n```', {1, 2}),
    ('```\n{"wrong_steps": [1, 2]}\n```', {1, 2}),
    ('Step 1 is off.\n```json\n{"wrong_steps": [1]}\n```\n', {1}),
    ('{"analysis": "they wrote \\\\boxed{5}", "wrong_steps": [1]}', {1}),
    ('\\boxed{1}\n```json\n{"wrong_steps": [1]}\n```', {1}),
    # thinking
    (r"<think>maybe \boxed{4}</think> \boxed{1}", {1}),
    (r"<think>a</think> b <think>\boxed{4}</think> \boxed{1}", {1}),
    (r"the template opened it \boxed{4}</think>\boxed{1}", {1}),
    (r"[THINK]\boxed{4}[/THINK]\boxed{1}", {1}),
]

ABSTAINS = [
    "",
    "All steps are right.",
    "1, 2",
    "[1, 2]",
    r"\boxed",
    r"\boxed 3",
    r"\boxedin{3}",
    # out of range
    r"\boxed{6}",
    r"\boxed{-2}",
    r"\boxed{1, 6}",
    r"\boxed{4-6}",
    r"\boxed{99999999999999999999}",
    r"\boxed{0-99999999999999999999}",
    rf"\boxed{{{'9' * 5000}}}",
    # contradictory
    r"\boxed{-1, 2}",
    r"\boxed{2, -1}",
    r"\boxed{none, 2}",
    r"\boxed{no step 3}",
    r"\boxed{1} no, wait: \boxed{none}",
    # not understood
    r"\boxed{42 apples}",
    r"\boxed{3 apples}",
    r"\boxed{3.5}",
    r"\boxed{1.0}",
    r"\boxed{-1.0}",
    r"\boxed{2-}",
    r"\boxed{-}",
    r"\boxed{- 1}",
    r"\boxed{4-2}",
    r"\boxed{1-2-3}",
    r"\boxed{1, 2, ...}",
    r"\boxed{1,\ldots,4}",
    r"\boxed{1,}",
    r"\boxed{,1}",
    r"\boxed{1,,2}",
    r"\boxed{1 2}",
    r"\boxed{12}",
    r"\boxed{1/2}",
    r"\boxed{\frac{1}{2}}",
    r"\boxed{2^2}",
    "\\boxed{3\u00b2}",
    r"\boxed{01}",
    r"\boxed{1,000}",
    r"\boxed{1{,}2}",
    r"\boxed{1 or 2}",
    r"\boxed{not 2}",
    r"\boxed{3rd}",
    r"\boxed{1e0}",
    r"\boxed{x = 3}",
    r"\boxed{steps}",
    r"\boxed{[1, 2)}",
    r"\boxed{[1, 2}",
    r"\boxed{1, 2]}",
    r"\boxed{\{1, 2}",
    r"\boxed{**}",
    r"\boxed{?}",
    r"\boxed{True}",
    r"\boxed{Step 2: 3}",
    r"\boxed{step 2 is right}",
    # a box that does not close, and not the one before it
    r"\boxed{1} so \boxed{2",
    r"\boxed{1} so \boxed{\text{2}",
    r"\boxed{1} so \boxed",
    # JSON
    '{"wrong_steps": [1.0]}',
    '{"wrong_steps": [true]}',
    '{"wrong_steps": null}',
    '{"wrong_steps": [6]}',
    '{"wrong_steps": [-1, 2]}',
    '{"wrong_steps": [[1]]}',
    '{"wrong_steps": {"1": 2}}',
    '{"wrong_steps": [1], "wrong_steps": [2]}',
    '{"steps": [1]}',
    '{"wrong_steps": [1]',
    f'{{"wrong_steps": {"9" * 5000}}}',
    r'\boxed{{"wrong": [1]}}',
    '\\boxed{1}\n```json\n{"wrong_steps": [2]}\n```',
    '\\boxed{1\n```json\n{"wrong_steps": [1]}\n```',
    # thinking
    r"<think>\boxed{1}",
    r"<think>\boxed{1}</think>",
    r"<think>\boxed{1}</think> So the work is fine.",
    r"\boxed{1} <think> but then",
    r"<THINK>\boxed{1}",
]


@pytest.mark.parametrize(("reply", "wrong"), UNDERSTOOD)
def test_understood(reply: str, wrong: set[int]) -> None:
    assert parse_critique(reply, STEPS) == wrong


@pytest.mark.parametrize("reply", ABSTAINS)
def test_abstains(reply: str) -> None:
    assert parse_critique(reply, STEPS) is None


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        ("1", {0}),  # 1 - 1
        ("6", {5}),
        ("2-4", {1, 2, 3}),
        ("-1", set()),
        ("none", set()),
        ("0", None),  # no step has the number 0
        ("0, 1", None),
        ("7", None),
    ],
)
def test_numbered_from_one(content: str, wrong: set[int] | None) -> None:
    assert parse_critique(rf"\boxed{{{content}}}", STEPS, index_base=1) == wrong


@pytest.mark.parametrize(("content", "wrong"), [("none", set()), ("-1", set()), ("", set()), ("0", None), ("1", None)])
def test_no_steps(content: str, wrong: set[int] | None) -> None:
    assert parse_critique(rf"\boxed{{{content}}}", 0) == wrong
