"""The rule that checks steps of the built-in arithmetic, and the verifier of steps made of it."""

import dataclasses
import random

import pytest

from capo_lit.arithmetic.judge import KINDS, ArithmeticStepVerifier, BlindToCarries, Kind, check_steps, step_faults
from capo_lit.arithmetic.task import ArithmeticSource
from capo_lit.batch.facts import Completion, CritiquedRollout, Prompt, Rollout
from capo_lit.core.errors import ConfigError, DataError

PROBLEM = "12+7-5+3-9?"
SOLUTION = "12+7=19\n\n19-5=14\n\n14+3=17\n\n17-9=8\n\n\\boxed{8}"


def steps_of(text: str) -> list[str]:
    return text.split("\n\n")


def brute_force(problem: str, steps: list[str]) -> set[int]:
    """The rule once more, character by character and with eval, without the code under test."""
    numbers = problem.rstrip("?").replace("-", "+-").split("+")
    last, wrong = numbers[0], set()
    for index, step in enumerate(steps):
        if index + 1 < len(numbers):
            term = numbers[index + 1] if numbers[index + 1][0] == "-" else "+" + numbers[index + 1]
            left, equals, right = step.partition("=")
            if not equals or not right.isdigit() or not left[:1].isdigit():
                wrong.add(index)
                continue
            if left != last + term or eval(left) != int(right):
                wrong.add(index)
            last = right
        elif index + 1 > len(numbers) or step != "\\boxed{" + last + "}":
            wrong.add(index)
    return wrong


def corrupted(steps: list[str], rng: random.Random) -> list[str]:
    """One random damage: a number or sign changed, a line lost, doubled, swapped or broken."""
    steps, at = list(steps), rng.randrange(len(steps))
    kind = rng.choice(["number", "sign", "drop", "double", "swap", "break"])
    if kind == "number":
        numbers = [i for i, c in enumerate(steps[at]) if c.isdigit()]
        place = rng.choice(numbers)
        steps[at] = steps[at][:place] + str(rng.randrange(1, 10)) + steps[at][place + 1 :]
    elif kind == "sign":
        steps[at] = steps[at].translate(str.maketrans("+-", "-+"))
    elif kind == "drop":
        del steps[at]
    elif kind == "double":
        steps.insert(at, steps[at])
    elif kind == "swap":
        other = rng.randrange(len(steps))
        steps[at], steps[other] = steps[other], steps[at]
    else:
        steps[at] = steps[at].replace("=", "==").replace("}", "")
    return steps


def test_check_steps_agrees_with_brute_force() -> None:
    rng = random.Random(0)
    problems = [problem for length in (1, 4, 7) for problem in ArithmeticSource(130, 5, length, 0.3).load()]
    kinds = set()
    for problem in problems:
        steps = steps_of(problem.reference or "")
        for _ in range(rng.randrange(4)):
            steps = corrupted(steps, rng) or steps
        wrong = check_steps(problem.problem, steps)
        assert wrong == brute_force(problem.problem, steps), (problem.problem, steps)
        kinds |= {len(wrong), *step_faults(problem.problem, steps)}
    assert {0, 1, 2, 3, *KINDS} <= kinds  # the comparison saw every kind


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        (SOLUTION, {}),
        # 12+7 is 19, not 18; 18-5=13 goes on rightly from there, and so does the box.
        ("12+7=18\n\n18-5=13\n\n13+3=16\n\n16-9=7\n\n\\boxed{7}", {0: "arithmetic"}),
        # 17-9 borrows: 8, and 18 without the borrow.
        ("12+7=19\n\n19-5=14\n\n14+3=17\n\n17-9=18\n\n\\boxed{18}", {3: "carry"}),
        # left operand, sign, operand and box miscopied, each result right by itself.
        ("13+7=20\n\n20+5=25\n\n25+4=29\n\n29-9=20\n\n\\boxed{21}", dict.fromkeys((0, 1, 2, 4), "copy")),
        # the box comes two operations early: it is a malformed operation.
        ("12+7=19\n\n19-5=14\n\n\\boxed{14}", {2: "format"}),
        # nothing may follow the box.
        (SOLUTION + "\n\n\\boxed{8}", {5: "format"}),
        ("", {0: "format"}),
        # a number too long for int() is malformed, and no crash.
        (f"12+7={'9' * 5000}", {0: "format"}),
    ],
)
def test_wrong_steps_and_kinds(text: str, faults: dict[int, str]) -> None:
    steps = steps_of(text)
    assert check_steps(PROBLEM, steps) == set(faults)
    assert {step: fault for step, fault in enumerate(step_faults(PROBLEM, steps)) if fault} == faults


@pytest.mark.parametrize(
    "text", ["12+7", "?", "12?", "+7-5?", "12*7?", "12+7? ", "12+\u0667?", "1+" + "9" * 5000 + "?"]
)
def test_other_problems_are_refused(text: str) -> None:
    with pytest.raises(DataError, match="12\\+7-5\\?"):
        check_steps(text, [])


def rollout(text: str, sample: int = 0) -> Rollout:
    prompt = Prompt(uid="arithmetic:" + PROBLEM, problem=PROBLEM, ids=(3,), answer="8")
    completion = Completion("r", (4,), (text,), (False,), text, None, "stop", 1, 0, 0.1)
    return Rollout(sample, 0, sample, prompt, completion, 1.0)


def judged(verifier: ArithmeticStepVerifier, text: str, samples: int = 1, seed: int = 0) -> list[CritiquedRollout]:
    return list(verifier.judge((rollout(text, sample) for sample in range(samples)), seed))


def test_verifier_judges_each_rollout_as_it_arrives() -> None:
    arrived: list[int] = []

    def stream():  # type: ignore[no-untyped-def]
        for sample in range(3):
            arrived.append(sample)
            yield rollout(SOLUTION.replace("14+3=17", "14+3=18"), sample)

    results = ArithmeticStepVerifier().judge(stream(), seed=0)
    first = next(results)
    assert arrived == [0]
    # 14+3=18 is wrong, and then 17-9=8 does not start from 18.
    assert first.verdict.step_error == (0.0, 0.0, 1.0, 1.0, 0.0)
    assert first.critiques[0].wrong == {2, 3}
    assert "".join(first.rollout.completion.text[a:b] for a, b in first.spans) == first.rollout.completion.text


def test_a_dropped_carry_may_be_taken_for_right() -> None:
    # Step 0 drops the carry of 8+5 (3 for 13), step 1 is off by one, step 2 boxes another number, step 3 is too many.
    text = "8+5=3\n\n3+4=8\n\n\\boxed{9}\n\n\\boxed{8}"
    item = dataclasses.replace(rollout(text), prompt=Prompt("arithmetic:8+5+4?", "8+5+4?", (3,), "17"))

    def wrong(judge: ArithmeticStepVerifier) -> frozenset[int] | None:
        return next(judge.judge([item], 0)).critiques[0].wrong

    assert wrong(ArithmeticStepVerifier()) == {0, 1, 2, 3}
    assert wrong(BlindToCarries()) == {1, 2, 3}
    steps = [text[start:end] for start, end in item.spans]
    kinds: tuple[Kind, ...] = ("carry", "arithmetic", "copy", "format")
    assert [check_steps("8+5+4?", steps, [kind]) for kind in kinds] == [{0}, {1}, {2}, {3}]


def test_steps_that_the_source_states_are_not_split_again() -> None:
    # One blank line less than steps: split anew, the first two lines would be one malformed step.
    text = "8+5=13\n13+4=17\n\n\\boxed{17}"
    prompt = Prompt("arithmetic:8+5+4?", "8+5+4?", (3,), "17")
    given = dataclasses.replace(rollout(text), prompt=prompt, spans=((0, 7), (7, 15), (15, len(text))))
    (item,) = ArithmeticStepVerifier().judge([given], seed=0)
    assert (item.spans, item.verdict.step_error) == (given.spans, (0.0, 0.0, 0.0))
    (split,) = ArithmeticStepVerifier().judge([dataclasses.replace(given, spans=None)], seed=0)
    assert split.verdict.step_error == (1.0, 1.0)
    (none,) = ArithmeticStepVerifier().judge([dataclasses.replace(given, spans=())], seed=0)
    assert (none.spans, none.critiques) == ((), ())


def test_an_empty_response_needs_no_critique() -> None:
    (result,) = judged(ArithmeticStepVerifier(), "")
    assert (result.spans, result.critiques, result.verdict.step_error) == ((), (), ())


def test_error_rates_of_the_critiques() -> None:
    verifier = ArithmeticStepVerifier(k=4, vote="average", false_positive=0.1, false_negative=0.3)
    text = SOLUTION.replace("12+7=19", "12+7=10")  # step 0 wrong, step 1 does not start from 10, three right
    critiques = [critique for result in judged(verifier, text, samples=400) for critique in result.critiques]
    assert len(critiques) == 1600
    flags = [sum(step in (critique.wrong or ()) for critique in critiques) / 1600 for step in range(5)]
    # Five sd of a share over 1600 draws: 5 * sqrt(0.3 * 0.7 / 1600) = 0.057.
    assert flags == pytest.approx([0.7, 0.7, 0.1, 0.1, 0.1], abs=0.057)
    # Independent critiques: two in a row agree on step 0 with 0.7^2 + 0.3^2 = 0.58.
    pairs = zip(critiques[::2], critiques[1::2], strict=True)
    agree = sum((0 in (a.wrong or ())) == (0 in (b.wrong or ())) for a, b in pairs) / 800
    assert agree == pytest.approx(0.58, abs=0.09)


def test_noise_depends_on_the_seed_and_the_sample_alone() -> None:
    verifier = ArithmeticStepVerifier(k=2, vote="union", false_positive=0.5, false_negative=0.5)
    once = [result.critiques for result in judged(verifier, SOLUTION, samples=8)]
    alone = next(verifier.judge([rollout(SOLUTION, 5)], 0)).critiques
    assert alone == once[5]
    assert once != [result.critiques for result in judged(verifier, SOLUTION, samples=8, seed=1)]
    assert len(set(once)) > 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": 0}, "k 0"),
        ({"k": 4, "vote": "majority"}, "same"),
        ({"k": 4, "vote": "greedy", "false_positive": 0.1}, "greedy"),
        ({"vote": "plurality"}, "vote"),
        ({"false_positive": 1.1}, "false_positive"),
        ({"false_negative": -0.1}, "false_negative"),
    ],
)
def test_verifier_refuses_bad_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ArithmeticStepVerifier(**settings)  # type: ignore[arg-type]
