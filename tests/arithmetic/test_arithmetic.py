"""The built-in arithmetic: its problems, demonstrations, vocabulary and initial model."""

import json
import os
import random
from pathlib import Path

import pytest

from capo_lit.arithmetic.judge import check_steps, step_faults
from capo_lit.arithmetic.task import (
    MAX_VALUE,
    ArithmeticSource,
    demonstration,
    parse_expression,
    split_of,
    without_carry,
)
from capo_lit.core.errors import ConfigError, DataError


def steps_of(text: str) -> list[str]:
    return text.split("\n\n")


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
    for problem in (problem for length in (4, 8) for problem in ArithmeticSource(150, 1, length).load()):
        values = [int(line.split("=")[1]) for line in steps_of(problem.reference or "")[:-1]]
        assert len(values) in (4, 8)
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
        split: [{p.problem for p in ArithmeticSource(15, seed, 1, split=split).load()} for seed in (0, 1)]
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
    faults = [fault for p in problems for fault in step_faults(p.problem, steps_of(p.reference or "")) if fault]
    assert faults == ["carry"] * dropped


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
        ({"operations": 0}, "operations"),
        ({"carry_bug": 1.5}, "carry_bug"),
        ({"split": "dev"}, "split"),
    ],
)
def test_source_refuses_bad_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ArithmeticSource(**settings)  # type: ignore[arg-type]


def test_source_says_when_there_are_too_few_problems() -> None:
    with pytest.raises(ConfigError, match="500 in split 'test'"):
        ArithmeticSource(500, operations=1, split="test").load()


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from capo_lit.arithmetic.model import write_initial_model

    return write_initial_model(tmp_path_factory.mktemp("arithmetic") / "initial", seed=1)


def test_tokenizer_round_trip(model_folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    assert len(tokenizer) == 31  # 21 numbers, + - = ? blank line, box, }, and three special tokens
    assert [tokenizer.decode([i]) for i in tokenizer("12+7-5?").input_ids] == ["12", "+", "7", "-", "5", "?"]
    problems = [problem for length in (1, 4, 8) for problem in ArithmeticSource(20, 0, length, 0.5).load()]
    for problem in problems:
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

    from capo_lit.arithmetic.model import write_initial_model

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
