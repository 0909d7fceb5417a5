"""The built-in arithmetic: problems, vocabulary, and the verifier of its steps."""

import json
import os
import random
from pathlib import Path

import pytest

from capo_lit.batch import Completion, CritiquedRollout, Prompt, Rollout
from capo_lit.data.arithmetic import (
    MAX_VALUE,
    ArithmeticSource,
    demonstration,
    parse_expression,
    split_of,
    without_carry,
)
from capo_lit.errors import ConfigError, DataError
from capo_lit.genprm.arithmetic import ArithmeticStepVerifier, StepErrors, check_steps, error_kinds

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
    problems = ArithmeticSource(400, seed=5, min_ops=1, max_ops=7, carry_bug=0.3).load()
    kinds = set()
    for problem in problems:
        steps = steps_of(problem.reference or "")
        for _ in range(rng.randrange(4)):
            steps = corrupted(steps, rng) or steps
        wrong = check_steps(problem.problem, steps)
        assert wrong == brute_force(problem.problem, steps), (problem.problem, steps)
        counts = error_kinds(problem.problem, steps)
        absent = counts.steps - len(steps)
        assert counts.format + counts.copy + counts.carry + counts.arithmetic == len(wrong) + absent
        kinds |= {len(wrong), *(name for name in ("format", "copy", "carry", "arithmetic") if getattr(counts, name))}
    assert {0, 1, 2, 3, "format", "copy", "carry", "arithmetic"} <= kinds  # the comparison saw every kind


@pytest.mark.parametrize(
    ("text", "wrong", "errors"),
    [
        (SOLUTION, set(), StepErrors(steps=5)),
        # 12+7 is 19, not 18; 18-5=13 goes on rightly from there, and so does the box.
        ("12+7=18\n\n18-5=13\n\n13+3=16\n\n16-9=7\n\n\\boxed{7}", {0}, StepErrors(arithmetic=1, steps=5)),
        # 17-9 borrows: 8, and 18 without the borrow.
        ("12+7=19\n\n19-5=14\n\n14+3=17\n\n17-9=18\n\n\\boxed{18}", {3}, StepErrors(carry=1, steps=5)),
        # left operand, sign, operand and box miscopied, each result right by itself.
        ("13+7=20\n\n20+5=25\n\n25+4=29\n\n29-9=20\n\n\\boxed{21}", {0, 1, 2, 4}, StepErrors(copy=4, steps=5)),
        # the box comes two operations early: it is a malformed operation, and two steps are missing.
        ("12+7=19\n\n19-5=14\n\n\\boxed{14}", {2}, StepErrors(format=3, steps=5)),
        # nothing may follow the box.
        (SOLUTION + "\n\n\\boxed{8}", {5}, StepErrors(format=1, steps=6)),
        ("", {0}, StepErrors(format=5, steps=5)),
        # a number too long for int() is malformed, and no crash.
        (f"12+7={'9' * 5000}", {0}, StepErrors(format=5, steps=5)),
    ],
)
def test_wrong_steps_and_kinds(text: str, wrong: set[int], errors: StepErrors) -> None:
    steps = steps_of(text)
    assert check_steps(PROBLEM, steps) == wrong
    assert error_kinds(PROBLEM, steps) == errors


def test_step_errors_add_up_to_shares() -> None:
    total = StepErrors(1, 2, 3, 4, 20) + StepErrors(steps=20)
    assert total == StepErrors(1, 2, 3, 4, 40)
    assert total.copied == pytest.approx(1 - 3 / 40)  # format 1, copy 2
    assert total.sound == pytest.approx(1 - 7 / 40)  # and arithmetic 4; the dropped carries do not count
    assert StepErrors().copied == StepErrors().sound == 1.0


@pytest.mark.parametrize(
    "text", ["12+7", "?", "12?", "+7-5?", "12*7?", "12+7? ", "12+\u0667?", "1+" + "9" * 5000 + "?"]
)
def test_other_problems_are_refused(text: str) -> None:
    with pytest.raises(DataError, match="12\\+7-5\\?"):
        check_steps(text, [])


def test_without_carry() -> None:
    # 7+8 = 15 -> 5; 15-7 = 8 -> 18; 12+7 and 19-5 carry nothing; 10-3 = 7 -> 17.
    assert [without_carry(*step) for step in ((7, "+", 8), (15, "-", 7), (12, "+", 7), (19, "-", 5), (10, "-", 3))] == [
        5,
        18,
        None,
        None,
        17,
    ]


def test_problems_are_right_and_in_range() -> None:
    for problem in ArithmeticSource(300, seed=1, min_ops=4, max_ops=8).load():
        values = [int(line.split("=")[1]) for line in steps_of(problem.reference or "")[:-1]]
        assert 4 <= len(values) <= 8
        assert all(0 <= value <= MAX_VALUE for value in values)
        assert int(problem.answer) == eval(problem.problem.rstrip("?")) == values[-1]
        assert (problem.reference or "").endswith(f"\\boxed{{{problem.answer}}}")
        assert check_steps(problem.problem, steps_of(problem.reference or "")) == frozenset()
        assert problem.uid == f"arithmetic:{problem.problem}"


def test_source_is_a_function_of_its_settings() -> None:
    first, again = (
        ArithmeticSource(50, seed=3, carry_bug=0.5).load(),
        ArithmeticSource(50, seed=3, carry_bug=0.5).load(),
    )
    assert first == again
    assert ArithmeticSource(20, seed=3, carry_bug=0.5).load() == first[:20]
    assert ArithmeticSource(50, seed=4, carry_bug=0.5).load() != first
    clean = ArithmeticSource(50, seed=3).load()
    assert [problem.problem for problem in clean] == [problem.problem for problem in first]
    assert [problem.reference for problem in clean] != [problem.reference for problem in first]


def test_splits_share_no_problem() -> None:
    # One operation leaves few problems (at most 20 starts times 18), so that two seeds meet in the same ones.
    splits = {
        split: [{p.problem for p in ArithmeticSource(15, seed, 1, 1, split=split).load()} for seed in (0, 1)]
        for split in ("train", "val", "test")
    }
    for split, (first, second) in splits.items():
        assert len(first) == len(second) == 15
        assert {split_of(problem) for problem in first | second} == {split}
    assert splits["val"][0] & splits["val"][1]
    train, val, test = (first | second for first, second in splits.values())
    assert not train & val | train & test | val & test


def test_carry_bug_rate_and_range() -> None:
    problems = ArithmeticSource(600, seed=2, carry_bug=0.5).load()
    dropped = kept = 0
    for problem in problems:
        for line in steps_of(problem.reference or "")[:-1]:
            left, result = line.split("=")
            op = "+" if "+" in left else "-"
            a, b = (int(number) for number in left.split(op))
            assert 0 <= int(result) <= MAX_VALUE
            carries = a % 10 + b > 9 if op == "+" else a % 10 < b
            assert eval(left) == int(result) or carries
            dropped += carries and eval(left) != int(result)
            kept += carries and eval(left) == int(result)
    # About 1100 steps carry. Of those 0.5 are dropped, but for the few that range decides either way: sd 0.015.
    assert dropped / (dropped + kept) == pytest.approx(0.5, abs=0.08)
    # The bug goes on from the wrong value, and the only wrong steps are the dropped carries.
    total = sum((error_kinds(p.problem, steps_of(p.reference or "")) for p in problems), StepErrors())
    assert (total.carry, total.format, total.copy, total.arithmetic) == (dropped, 0, 0, 0)


def test_a_bug_that_would_leave_the_range_is_not_taken() -> None:
    rng = random.Random(0)
    # 15+5 = 20, or 10 without the carry; 20+... 20-1 = 19, but 29 without the borrow is out of range.
    assert demonstration(parse_expression("20-1?"), 1.0, rng) == "20-1=19\n\n\\boxed{19}"
    # 8+5 = 13, 3 without the carry, and 3-9 is below 0 without the borrow 3-9+10 = 4: the bug twice cancels.
    assert demonstration(parse_expression("8+5-9?"), 1.0, rng) == "8+5=3\n\n3-9=4\n\n\\boxed{4}"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 0}, "size"),
        ({"min_ops": 3, "max_ops": 2}, "min_ops"),
        ({"carry_bug": 1.5}, "carry_bug"),
        ({"split": "dev"}, "split"),
    ],
)
def test_source_refuses_bad_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ArithmeticSource(**settings)  # type: ignore[arg-type]


def test_source_says_when_there_are_too_few_problems() -> None:
    with pytest.raises(ConfigError, match="500 in split 'test'"):
        ArithmeticSource(500, min_ops=1, max_ops=1, split="test").load()


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


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from capo_lit.data.arithmetic_model import write_initial_model

    return write_initial_model(tmp_path_factory.mktemp("arithmetic") / "initial", seed=1)


def test_tokenizer_round_trip(model_folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    assert len(tokenizer) == 31  # 21 numbers, + - = ? blank line, box, }, and three special tokens
    assert [tokenizer.decode([i]) for i in tokenizer("12+7-5?").input_ids] == ["12", "+", "7", "-", "5", "?"]
    for problem in ArithmeticSource(50, min_ops=1, max_ops=8, carry_bug=0.5).load():
        text = problem.problem + (problem.reference or "")
        ids = tokenizer(text).input_ids
        operations = len(parse_expression(problem.problem).operations)
        assert len(ids) == 2 * operations + 2 + 6 * operations + 2  # the last separator opens the box too
        assert tokenizer.decode(ids) == "".join(tokenizer.decode([i]) for i in ids) == text
        assert tokenizer.decode([*ids, tokenizer.eos_token_id], skip_special_tokens=True) == text
        assert ids == tokenizer(problem.problem).input_ids + tokenizer(problem.reference).input_ids


def test_text_outside_the_task_is_refused(model_folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    for text in ("21", "hello", "1 + 2"):
        with pytest.raises(Exception, match="vocabulary"):
            tokenizer(text)


def test_initial_model_is_written_once(model_folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from capo_lit.data.arithmetic_model import write_initial_model

    model = AutoModelForCausalLM.from_pretrained(model_folder)
    assert model.config.tie_word_embeddings
    # 31*128 embeddings; per block 4*128*128 attention, 3*128*384 MLP, 2*128 norms; 128 last norm: 430,208 in all.
    assert sum(p.numel() for p in model.parameters()) == 31 * 128 + 2 * (4 * 128**2 + 3 * 128 * 384 + 256) + 128
    assert json.loads((model_folder / "generation_config.json").read_text())["eos_token_id"] == 2
    before = os.stat(model_folder / "model.safetensors")
    state = torch.get_rng_state()
    assert write_initial_model(model_folder, seed=1) == model_folder
    assert os.stat(model_folder / "model.safetensors").st_mtime_ns == before.st_mtime_ns
    with pytest.raises(DataError, match="'seed': 2"):
        write_initial_model(model_folder, seed=2)
    same = AutoModelForCausalLM.from_pretrained(write_initial_model(model_folder.parent / "again", seed=1))
    other = AutoModelForCausalLM.from_pretrained(write_initial_model(model_folder.parent / "other", seed=2))
    # Numbers (from row 3 on) start as sinusoids: the nearer the values, the larger the cosine.
    numbers = torch.nn.functional.normalize(model.model.embed_tokens.weight[3:24], dim=1)
    assert numbers[7] @ numbers[8] > 0.4 > numbers[7] @ numbers[10] > 0 > numbers[7] @ numbers[14]
    weights = [m.model.layers[0].mlp.up_proj.weight for m in (model, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert torch.equal(state, torch.get_rng_state())
    assert sorted(p.name for p in model_folder.parent.iterdir()) == ["again", "initial", "other"]
    with pytest.raises(ConfigError, match="multiple of 64"):
        write_initial_model(model_folder.parent / "narrow", hidden=96)
