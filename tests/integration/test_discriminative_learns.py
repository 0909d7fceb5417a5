"""A small token classifier, trained for some seconds on the built-in arithmetic, finds planted errors."""

import random

import pytest
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import AutoModelForTokenClassification, PreTrainedTokenizerFast

from capo_lit.arithmetic.labelled import PlantedArithmeticErrors
from capo_lit.arithmetic.model import write_initial_model
from capo_lit.arithmetic.task import MAX_VALUE, ArithmeticSource
from capo_lit.batch.step import pad_rows
from examples.discriminative_prm import DiscriminativePRM

pytestmark = pytest.mark.slow

UPDATES, BATCH, LR, WARMUP = 250, 64, 5e-3, 20
WORDS = ("<unk>", "<pad>", "<s>", "\n", *"+-=?", *(str(value) for value in range(MAX_VALUE + 1)))
WRONG, RIGHT, NO_LABEL = 0, 1, -100


def tokenizer():
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[0-9]+|\n|."), behavior="isolated")
    named = {"bos_token": "<s>", "eos_token": "<s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **named)


def planted(split, size):
    return PlantedArithmeticErrors(ArithmeticSource(size, split=split, operations=2)).load()


def labels(solution, count):
    return [WRONG if step == solution.label else RIGHT for step in range(count)]


def rows(solutions):
    """Ids and labels as TRL's PRM trainer lays them out: every part by itself, the label at the separator's end."""
    encode = tokenizer().encode
    for solution in solutions:
        ids = [WORDS.index("<s>"), *encode(solution.problem)]
        targets = [NO_LABEL] * len(ids)
        for step, label in zip(solution.steps, labels(solution, len(solution.steps)), strict=True):
            part = [*encode(step), *encode("\n")]
            ids += part
            targets += [*[NO_LABEL] * (len(part) - 1), label]
        yield ids, targets


def train(folder):
    torch.manual_seed(0)
    model = AutoModelForTokenClassification.from_pretrained(folder, num_labels=2)
    data = list(rows(planted("train", 3000)))
    optimizer = torch.optim.AdamW(model.parameters())
    draw = random.Random(0)
    for update in range(UPDATES):
        ids, targets = zip(*draw.sample(data, BATCH), strict=True)
        for group in optimizer.param_groups:
            group["lr"] = LR * min(1, (update + 1) / WARMUP)
        # Right-padded under causal attention: no mask is needed.
        model(input_ids=pad_rows(ids, 0, torch.long), labels=pad_rows(targets, NO_LABEL, torch.long)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)


def auc(wrong, right):
    """Probability that a wrong step gets the higher score than a right one."""
    return sum((w > r) + 0.5 * (w == r) for w in wrong for r in right) / (len(wrong) * len(right))


def scores(judge, solutions):
    wrong, right = [], []
    for item in judge.judge([solution.rollout(row) for row, solution in enumerate(solutions)], 0):
        solution = solutions[item.rollout.row]
        for label, error in zip(labels(solution, len(item.spans)), item.verdict.step_error, strict=True):
            (wrong if label == WRONG else right).append(error)
    return wrong, right


@pytest.mark.nightly
def test_a_trained_classifier_finds_planted_errors_in_problems_it_has_not_seen(tmp_path):
    folder = write_initial_model(tmp_path / "model", hidden=64, tokenizer=tokenizer())
    train(folder)
    wrong, right = scores(DiscriminativePRM(str(folder), soft=True), planted("test", 200))
    assert (len(wrong), len(right)) == (100, 500)
    # Guessing gives 0.5 with a standard error of 0.03; measured: 0.71.
    assert auc(wrong, right) > 0.65
