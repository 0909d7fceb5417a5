"""Train a small discriminative PRM of the built-in arithmetic: a token classifier of steps, on planted errors.

python examples/train_discriminative_prm.py     # writes runs/prm, which examples/discriminative_prm.yaml names
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from capo_lit.arithmetic.critiques import ArithmeticCritiqueSource
from capo_lit.arithmetic.judge import check_steps
from capo_lit.arithmetic.judge_model import write_initial_judge
from capo_lit.batch.step import pad_rows

SEPARATOR = ","
WRONG, RIGHT = 0, 1
_BATCH, _LR, _IGNORED = 32, 2e-3, -100


def train_prm(path: str | Path, seed: int = 0, size: int = 16384) -> Path:
    """Train the judge's small Llama to classify the separator after every step, and save it.

    Args:
        path: the folder to write.
        seed: of weights and problems.
        size: solutions, each seen once, in batches of 32.

    Returns:
        `path`, for `DiscriminativePRM` with separator "," and wrong_label 0.
    """
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    with tempfile.TemporaryDirectory() as folder:
        initial = write_initial_judge(Path(folder) / "initial", seed)
        tokenizer = AutoTokenizer.from_pretrained(initial)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = AutoModelForTokenClassification.from_pretrained(initial, num_labels=2)
    solutions = ArithmeticCritiqueSource(size, seed, split="train").solutions()
    rows = [_row(tokenizer, problem, steps) for problem, steps in solutions]
    optimizer = torch.optim.AdamW(model.parameters(), lr=_LR)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LR, total_steps=-(-len(rows) // _BATCH), pct_start=0.05)
    model.train()
    for start in range(0, len(rows), _BATCH):
        ids, labels = zip(*rows[start : start + _BATCH], strict=True)
        mask = pad_rows([[1] * len(row) for row in ids], 0, torch.long)
        logits = model(input_ids=pad_rows(ids, 0, torch.long), attention_mask=mask).logits
        targets = pad_rows(labels, _IGNORED, torch.long)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=_IGNORED)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return Path(path)


def _row(tokenizer: Any, problem: str, steps: Sequence[str]) -> tuple[list[int], list[int]]:
    """Ids as DiscriminativePRM lays them out, and the class at every separator."""

    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
        return ids

    ids, wrong = [tokenizer.bos_token_id, *encode(problem)], check_steps(problem, steps)
    labels = [_IGNORED] * len(ids)
    for index, step in enumerate(steps):
        part = [*encode(step.strip()), *encode(SEPARATOR)]
        ids += part
        labels += [_IGNORED] * (len(part) - 1) + [WRONG if index in wrong else RIGHT]
    return ids, labels


if __name__ == "__main__":
    print(train_prm("runs/prm"))
